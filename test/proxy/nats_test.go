//go:build unix

package proxy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/proxy"
)

// broker is a nats-server behind a proxy.
type broker struct {
	proxy  *proxy.Proxy
	stream jetstream.Stream // past the proxy
	js     jetstream.JetStream
	conn   *nats.Conn // through the proxy
}

func serve(t *testing.T) broker {
	t.Helper()
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	p := start(t, strings.TrimPrefix(server.URL(), "nats://"))
	_, direct := connect(t, server.URL())
	stream, err := direct.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	conn, js := connect(t, "nats://"+p.Addr())
	return broker{proxy: p, stream: stream, conn: conn, js: js}
}

func connect(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, js
}

// publish returns the sequence of the message.
func (b broker) publish(t *testing.T, data string) uint64 {
	t.Helper()
	ack, err := b.js.Publish(t.Context(), "s.x", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

// unacknowledged publishes and sees no ack, for a time that ends with until.
func (b broker) unacknowledged(t *testing.T, data string, until func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := b.js.Publish(ctx, "s.x", []byte(data), jetstream.WithRetryAttempts(0))
		result <- err
	}()
	until()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("publish of %q: %v", data, err)
	}
}

func (b broker) messages(t *testing.T) (data []string) {
	t.Helper()
	info, err := b.stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := range info.State.LastSeq {
		m, err := b.stream.GetMsg(t.Context(), seq+1)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, string(m.Data))
	}
	return data
}

func (b broker) stored(t *testing.T, want ...string) {
	t.Helper()
	if got := b.messages(t); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("stored: %q, want %q", got, want)
	}
}

// TestNATSHalfOpen has a message stored whose ack the client never sees.
func TestNATSHalfOpen(t *testing.T) {
	b := serve(t)
	b.publish(t, "first")
	set(t, b.proxy, proxy.HalfOpen)
	b.unacknowledged(t, "second", func() {
		eventually(t, "the ack is held", func() bool {
			_, held := b.proxy.Held()
			return held > 0 && len(b.messages(t)) == 2
		})
	})
	set(t, b.proxy, proxy.Pass)
	if seq := b.publish(t, "third"); seq != 3 {
		t.Errorf("the third message has sequence %d", seq)
	}
	b.stored(t, "first", "second", "third")
}

// TestNATSLate has a message stored after one that was sent later, by a client
// that has reconnected since.
func TestNATSLate(t *testing.T) {
	b := serve(t)
	b.publish(t, "first")
	set(t, b.proxy, proxy.Late)
	b.unacknowledged(t, "late", func() {
		eventually(t, "the message is held", func() bool {
			held, _ := b.proxy.Held()
			return held > int64(len("late"))
		})
	})
	if n := b.proxy.LateCut(); n != 1 {
		t.Fatalf("%d connections cut", n)
	}
	eventually(t, "the client is back", func() bool { return b.conn.Stats().Reconnects == 1 && b.conn.IsConnected() })
	b.publish(t, "second")
	b.stored(t, "first", "second")

	// How much exactly is the client's affair, and Held counts its new connection.
	if n, err := b.proxy.Release(t.Context()); err != nil || n <= int64(len("late")) {
		t.Fatalf("%d bytes released, error %v", n, err)
	}
	eventually(t, "the late message is stored", func() bool { return len(b.messages(t)) == 3 })
	b.stored(t, "first", "second", "late")
	b.publish(t, "third")
	b.stored(t, "first", "second", "late", "third")
}
