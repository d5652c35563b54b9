package nats

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// proxy stands between a sink and its server, and can lose or hold up what is
// on its way.
type proxy struct {
	listener net.Listener
	server   string
	running  sync.WaitGroup

	mu    sync.Mutex
	hold  bool    // what clients send is kept back
	deaf  bool    // what the server sends is lost
	links []*link // that clients use
	all   []*link
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	held           []byte
	said           bytes.Buffer // by the server
}

func newProxy(t *testing.T, server string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{listener: listener, server: server}
	x.running.Go(x.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		x.mu.Lock()
		for _, l := range x.all {
			_ = l.client.Close()
			_ = l.server.Close()
		}
		x.mu.Unlock()
		x.running.Wait()
	})
	return x
}

func (x *proxy) url() string { return "nats://" + x.listener.Addr().String() }

func (x *proxy) accept() {
	for {
		client, err := x.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", x.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &link{client: client, server: server}
		x.mu.Lock()
		x.links, x.all = append(x.links, l), append(x.all, l)
		x.mu.Unlock()
		x.running.Go(func() {
			pump(client, func(b []byte) {
				x.mu.Lock()
				defer x.mu.Unlock()
				if x.hold || l.held != nil {
					l.held = append(l.held, b...)
					return
				}
				_, _ = l.server.Write(b)
			})
		})
		x.running.Go(func() {
			pump(server, func(b []byte) {
				x.mu.Lock()
				defer x.mu.Unlock()
				l.said.Write(b)
				if !x.deaf {
					_, _ = l.client.Write(b)
				}
			})
		})
	}
}

func pump(from net.Conn, to func([]byte)) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		to(b[:n])
	}
}

func (x *proxy) set(hold, deaf bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hold, x.deaf = hold, deaf
}

// cut ends all connections as their clients see it. Servers see nothing. New
// connections work.
func (x *proxy) cut() (old []*link) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hold, x.deaf = false, false
	old, x.links = x.links, nil
	for _, l := range old {
		_ = l.client.Close()
	}
	return old
}

// release lets what was held up through.
func (x *proxy) release(t *testing.T, links []*link) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range links {
		if len(l.held) == 0 {
			continue
		}
		if _, err := l.server.Write(l.held); err != nil {
			t.Error(err)
		}
	}
}

// heard is how often servers have said the words on the links.
func (x *proxy) heard(words string, links []*link) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range links {
		n += bytes.Count(l.said.Bytes(), []byte(words))
	}
	return n
}
