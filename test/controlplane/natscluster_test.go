//go:build unix

package controlplane_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
)

func TestNATSCluster(t *testing.T) {
	c := controlplane.NATSClusterForTest(t, 3, controlplane.NATSOptions{JetStream: "sync_interval: always"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := nats.Connect(c.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	// The cluster is ready for this at once.
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", nil); err != nil {
		t.Fatal(err)
	}
	leader, err := c.StreamLeader(ctx, js, "S")
	if err != nil {
		t.Fatal(err)
	}
	urls := c.URL()

	leader.Kill()
	publish(ctx, t, js)
	next, err := c.StreamLeader(ctx, js, "S")
	if err != nil {
		t.Fatal(err)
	}
	if next == leader {
		t.Error("the killed node leads")
	}

	if err := leader.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitCurrent(ctx); err != nil {
		t.Fatal(err)
	}
	// The two that were there before are needed no more than one at a time.
	next.Kill()
	publish(ctx, t, js)

	for _, node := range c.Nodes() {
		node.Kill()
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	publish(ctx, t, js)
	stream, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got < 4 {
		t.Errorf("%d messages are left of 4 or more", got)
	}
	if c.URL() != urls {
		t.Errorf("the addresses changed from %s to %s", urls, c.URL())
	}

	pids := make([]int, 0, 3)
	for _, node := range c.Nodes() {
		pids = append(pids, node.PID())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if pid == 0 || alive(pid) {
			t.Errorf("process %d before Close, and alive after it: %t", pid, alive(pid))
		}
	}
}

// publish publishes until it succeeds: a stream without a leader answers
// nothing, or that nobody listens.
func publish(ctx context.Context, t *testing.T, js jetstream.JetStream) {
	t.Helper()
	var last error
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(attempt, "s", nil)
		cancel()
		if err == nil {
			return
		}
		last = errors.Join(last, err)
		select {
		case <-ctx.Done():
			t.Fatal(last)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestNATSClusterNotStarted(t *testing.T) {
	opts := controlplane.NATSOptions{Config: "no_such_option: 1", Progress: t.Output()}
	if c, err := controlplane.StartNATSCluster(t.Context(), 3, opts); err == nil {
		t.Errorf("started: %v", errors.Join(errors.New("closed"), c.Close()))
	}
	opts = controlplane.NATSOptions{Port: 4222}
	if c, err := controlplane.StartNATSCluster(t.Context(), 3, opts); err == nil {
		t.Errorf("started: %v", errors.Join(errors.New("closed"), c.Close()))
	}
}
