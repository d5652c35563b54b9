//go:build unix

package controlplane_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
)

func connect(t *testing.T, s *controlplane.NATSServer, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(s.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestNATSLives(t *testing.T) {
	s := controlplane.NATSForTest(t, controlplane.NATSOptions{JetStream: "sync_interval: always"})
	ctx := t.Context()
	url := s.URL()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	stream := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}
	_, err := connect(t, s).CreateStream(ctx, stream)
	must(err)

	stored := uint64(0)
	// A new connection each time: the server is as ready as Start says.
	publish := func(after string) {
		t.Helper()
		ack, err := connect(t, s).Publish(ctx, "s.x", nil, jetstream.WithRetryAttempts(0))
		if err != nil {
			t.Fatalf("publish after %s: %v", after, err)
		}
		if stored++; ack.Sequence != stored {
			t.Fatalf("after %s message %d has sequence %d", after, stored, ack.Sequence)
		}
	}
	publish("start")

	must(s.Restart(ctx))
	publish("restart")

	s.Kill()
	if conn, err := nats.Connect(url); err == nil {
		conn.Close()
		t.Error("a killed server answers")
	}
	must(s.Start(ctx))
	publish("kill")

	must(s.Pause(ctx))
	if conn, err := nats.Connect(url, nats.Timeout(200*time.Millisecond)); err == nil {
		conn.Close()
		t.Error("a paused server answers")
	}
	must(s.Resume(ctx))
	publish("pause")
	if s.URL() != url {
		t.Errorf("the address changed from %s to %s", url, s.URL())
	}
}

func TestNATSOptions(t *testing.T) {
	port, err := controlplane.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opts := controlplane.NATSOptions{
		Config:   `authorization { user: "u", password: "p" }`,
		StoreDir: t.TempDir(),
		Port:     port,
	}
	s := controlplane.NATSForTest(t, opts)
	if conn, err := nats.Connect(s.URL()); !errors.Is(err, nats.ErrAuthorization) {
		conn.Close()
		t.Errorf("connection without a password: %v", err)
	}
	_, err = connect(t, s, nats.UserInfo("u", "p")).CreateStream(t.Context(), jetstream.StreamConfig{Name: "S"})
	if err != nil {
		t.Fatal(err)
	}

	// The port is taken, and asked for by number: that is an error at once.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	second, err := controlplane.StartNATS(ctx, opts)
	if err == nil || ctx.Err() != nil {
		t.Errorf("second server on the port: %v, %v", second, err)
	}

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(opts.StoreDir); err != nil || len(entries) == 0 {
		t.Errorf("Close took the caller's store away: %v, %v", entries, err)
	}
	third := controlplane.NATSForTest(t, opts)
	if _, err := connect(t, third, nats.UserInfo("u", "p")).Stream(t.Context(), "S"); err != nil {
		t.Errorf("a new server on the same store: %v", err)
	}
}
