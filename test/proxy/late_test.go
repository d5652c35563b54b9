package proxy_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/crbridge/crbridge/test/proxy"
)

func TestLate(t *testing.T) {
	server := record(t)
	p := start(t, server.addr())
	for round := range 2 { // it can be had again
		c := dialled(t, p)
		old := server.accepted() - 1
		set(t, p, proxy.Late)
		send(t, c, "late")
		holds(t, p, 4, 0)
		if n := p.LateCut(); n != 1 {
			t.Fatalf("%d connections cut", n)
		}
		isReset(t, c)
		if got := p.Mode(); got != proxy.Pass {
			t.Errorf("mode is %s after the cut", got)
		}

		// The client is back; what concerns it leaves the old server side alone.
		c = dialled(t, p)
		set(t, p, proxy.Stall)
		set(t, p, proxy.Pass)
		if n := p.Cut(); n != 1 {
			t.Errorf("%d connections cut after the reconnect", n)
		}
		isReset(t, c)
		if got := server.got(old); got != "hello " {
			t.Fatalf("the server got %q before the release", got)
		}
		released(t, p, 4)
		if got := server.got(old); got != "hello late" {
			t.Fatalf("the server got %q", got)
		}
		eventually(t, "the server sees two ends", func() bool { return server.endings() == 2*(round+1) })
		released(t, p, 0)
	}
}

func released(t *testing.T, p *proxy.Proxy, want int64) {
	t.Helper()
	n, err := p.Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n != want {
		t.Fatalf("%d bytes released, want %d", n, want)
	}
}

// TestLateClientGivesUp is a client that closes before it is cut: the server
// must not see that.
func TestLateClientGivesUp(t *testing.T) {
	server := record(t)
	p := start(t, server.addr())
	c := dialled(t, p)
	set(t, p, proxy.Late)
	send(t, c, "late")
	holds(t, p, 4, 0)
	c.Close()
	dialled(t, p)
	if n := p.LateCut(); n != 1 {
		t.Fatalf("%d connections cut", n)
	}
	if n := server.endings(); n != 0 {
		t.Fatalf("the server saw %d ends", n)
	}
	released(t, p, 4)
	if got := server.got(0); got != "hello late" {
		t.Errorf("the server got %q", got)
	}
}

// TestLateFull cuts a connection that holds all it can: what is beyond is lost.
func TestLateFull(t *testing.T) {
	server := record(t)
	p := start(t, server.addr(), proxy.WithBuffer(4))
	c := dialled(t, p)
	set(t, p, proxy.Late)
	send(t, c, "late")
	holds(t, p, 4, 0)
	send(t, c, "lost")
	p.LateCut()
	released(t, p, 4)
	if got := server.got(0); got != "hello late" {
		t.Errorf("the server got %q", got)
	}
}

// TestReleaseFails says so where held bytes did not, or may not, have arrived.
func TestReleaseFails(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func(*testing.T, *recorder, *proxy.Proxy) context.Context
	}{
		{"the server went away first", func(t *testing.T, server *recorder, _ *proxy.Proxy) context.Context {
			server.disconnect()
			eventually(t, "the server is gone", func() bool { return server.endings() == 1 })
			return t.Context()
		}},
		{"the proxy was closed", func(t *testing.T, _ *recorder, p *proxy.Proxy) context.Context {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			return t.Context()
		}},
		{"the context ended", func(t *testing.T, server *recorder, _ *proxy.Proxy) context.Context {
			server.mu.Lock() // its connections wait for it
			t.Cleanup(server.mu.Unlock)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			server := record(t)
			p := start(t, server.addr())
			c := dialled(t, p)
			set(t, p, proxy.Late)
			send(t, c, "late")
			holds(t, p, 4, 0)
			p.LateCut()
			closed := tc.name == "the proxy was closed"
			n, err := p.Release(tc.fail(t, server, p))
			if (err == nil) != closed || closed && n != 0 {
				t.Errorf("%d bytes released, error %v", n, err)
			}
		})
	}
}

// TestLateCutInterruptsWrite cuts while a write to a client that does not read
// is under way: what is queued behind it goes, and the write must not go on.
func TestLateCutInterruptsWrite(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := start(t, l.Addr().String())
	for range 20 {
		c := dial(t, p)
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			_, _ = server.Write(make([]byte, 16<<20)) // the proxy takes it all, or throws it away
			_, _ = io.Copy(io.Discard, server)
			server.Close()
		})
		eventually(t, "the client's buffers are full", func() bool { _, down := p.Held(); return down > 1<<20 })
		set(t, p, proxy.Late)
		send(t, c, "late")
		eventually(t, "the bytes are held", func() bool { up, _ := p.Held(); return up == 4 })
		if n := p.LateCut(); n != 1 {
			t.Fatalf("%d connections cut", n)
		}
		released(t, p, 4)
		serving.Wait()
	}
}
