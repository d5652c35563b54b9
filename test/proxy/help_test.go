package proxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/test/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is more than anything here takes on a busy machine.
const patience = 20 * time.Second

// recorder is a server that keeps what each connection sent, in the order in
// which they came, and sends it back.
type recorder struct {
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	conns    []net.Conn
	received []*bytes.Buffer
	ended    int // connections that the client ended
}

func record(t *testing.T) *recorder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{listener: l}
	r.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			got := &bytes.Buffer{}
			r.conns, r.received = append(r.conns, c), append(r.received, got)
			r.running.Go(func() { r.serve(c, got) })
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.disconnect()
		r.running.Wait()
	})
	return r
}

func (r *recorder) serve(c net.Conn, got *bytes.Buffer) {
	defer c.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := c.Read(buffer)
		r.mu.Lock()
		got.Write(buffer[:n])
		if err != nil {
			r.ended++
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// disconnect ends all connections.
func (r *recorder) disconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
}

func (r *recorder) addr() string { return r.listener.Addr().String() }

// got returns what the connection has sent, and nothing if there is none.
func (r *recorder) got(conn int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if conn >= len(r.received) {
		return ""
	}
	return r.received[conn].String()
}

func (r *recorder) accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

func (r *recorder) endings() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

func start(t *testing.T, target string, opts ...proxy.Option) *proxy.Proxy {
	t.Helper()
	p, err := proxy.Start(t.Context(), target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func set(t *testing.T, p *proxy.Proxy, mode proxy.Mode) {
	t.Helper()
	if err := p.Set(mode); err != nil {
		t.Fatal(err)
	}
}

func dial(t *testing.T, p *proxy.Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// dialled returns a connection that is known to reach the server.
func dialled(t *testing.T, p *proxy.Proxy) net.Conn {
	t.Helper()
	c := dial(t, p)
	send(t, c, "hello ")
	receive(t, c, "hello ")
	return c
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("received %q (%v), want %q", got[:n], err, want)
	}
}

// isReset waits until the connection is reset.
func isReset(t *testing.T, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %d bytes and %v, want a reset", n, err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	deadline := time.After(patience)
	for !is() {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

// holds waits until the proxy holds that much.
func holds(t *testing.T, p *proxy.Proxy, toServer, toClient int) {
	t.Helper()
	eventually(t, "held bytes", func() bool {
		up, down := p.Held()
		return up == int64(toServer) && down == int64(toClient)
	})
}
