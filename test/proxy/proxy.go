// Package proxy forwards TCP connections on loopback and, when told to, fails
// like a network: it delays, stalls, loses one direction, resets, refuses, or
// delivers what a client sent long after the client gave up. It knows bytes
// only, so TLS passes through.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// The port is from the range that controlplane uses, below that of outgoing
	// connections, so that nobody takes it while connections are refused.
	firstPort = 20000
	lastPort  = 29999

	// defaultBuffer is what a connection may hold per direction. Late has to
	// hold the publishes that a client has in flight.
	defaultBuffer = 8 << 20

	// acceptRetry is the pause after an accept that failed, for example for
	// want of file descriptors.
	acceptRetry = 10 * time.Millisecond
)

// Option changes how a proxy runs.
type Option func(*Proxy)

// WithBuffer bounds what a connection holds per direction, in bytes (default
// 8 MiB). One read of up to 32 KiB may exceed it, and the kernel's socket
// buffers come on top. The sender feels backpressure when all are full.
func WithBuffer(bytes int) Option { return func(p *Proxy) { p.buffer = bytes } }

// WithPort makes the proxy listen on a port of its caller's, for example that of
// a proxy that was closed. Default: a free one.
func WithPort(port int) Option { return func(p *Proxy) { p.port = port } }

// Proxy forwards the connections to its address to its target. Its methods may
// be called concurrently.
//
// A connection counts as existing once the proxy has accepted it, a moment
// after the client sees it open; for Late, once the target has accepted it too.
type Proxy struct {
	// ctx is that of the connections. Close ends it, not the caller of Start.
	ctx     context.Context
	cancel  context.CancelFunc
	addr    string
	port    int // asked for; 0 if any will do
	buffer  int
	running sync.WaitGroup // accept loops and connections

	mu       sync.Mutex // guards what follows; connections take it, so never wait for one's end with it
	target   string
	mode     Mode
	changed  chan struct{} // closed and replaced with each mode
	listener net.Listener  // nil while connections are refused
	closed   bool
	conns    map[*conn]struct{} // those with a goroutine
	cut      []*conn            // cut by LateCut and not yet released; some may have ended
}

// Start returns a proxy to the target, a TCP address such as "127.0.0.1:4222",
// that listens on a port of 127.0.0.1 and passes everything. The target
// need not listen yet: a client whose connection it refuses is reset. Ctx bounds
// the start only. The caller must Close what it gets.
func Start(ctx context.Context, target string, opts ...Option) (*Proxy, error) {
	p := &Proxy{
		target:  target,
		buffer:  defaultBuffer,
		changed: make(chan struct{}),
		conns:   map[*conn]struct{}{},
	}
	for _, opt := range opts {
		opt(p)
	}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := p.listenFirst(ctx); err != nil {
		p.cancel()
		return nil, fmt.Errorf("proxy to %s: %w", target, err)
	}
	return p, nil
}

// listenFirst listens on the port that was asked for, or looks for a free one.
func (p *Proxy) listenFirst(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for range 100 {
		port := p.port
		if port == 0 {
			port = firstPort + rand.IntN(lastPort-firstPort+1)
		}
		p.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if err = p.listen(); err == nil || p.port != 0 || ctx.Err() != nil {
			break
		}
	}
	return err
}

// Addr returns the address that clients connect to. It does not change.
func (p *Proxy) Addr() string { return p.addr }

// SetTarget makes new connections go to another address. Existing ones stay
// where they are.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Mode returns the mode that is in force; LateCut turns Late into Pass.
func (p *Proxy) Mode() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

// Set changes the mode of existing and new connections. When it returns nothing
// is delivered that the new mode holds. It fails if the port cannot be listened
// on again after Refuse, or the proxy is closed.
func (p *Proxy) Set(mode Mode) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return fmt.Errorf("proxy %s: set %s: %w", p.addr, mode, net.ErrClosed)
	}
	var ended []*conn
	if mode == Refuse {
		if p.listener != nil {
			_ = p.listener.Close() // it listens no more, whatever this says
			p.listener = nil
		}
		ended = p.reset()
	} else if err := p.listen(); err != nil {
		p.mu.Unlock()
		return fmt.Errorf("proxy %s: set %s: %w", p.addr, mode, err)
	}
	p.setMode(mode)
	for c := range p.conns {
		c.setMode(mode)
	}
	p.mu.Unlock()
	await(ended)
	return nil
}

// setMode is for new connections. The caller holds mu.
func (p *Proxy) setMode(mode Mode) {
	p.mode = mode
	close(p.changed)
	p.changed = make(chan struct{})
}

// Cut resets all existing connections on both sides and returns how many they
// were. What they held is lost. The mode stays, as do the server sides that
// LateCut left.
func (p *Proxy) Cut() int {
	p.mu.Lock()
	ended := p.reset()
	p.mu.Unlock()
	await(ended)
	return len(ended)
}

// reset tells all connections that have a client to end. The caller holds mu,
// and then waits for them without it.
func (p *Proxy) reset() []*conn {
	ended := p.withClient()
	for _, c := range ended {
		c.cancel()
	}
	return ended
}

// withClient returns the connections that are not ended and have a client. The
// caller holds mu.
func (p *Proxy) withClient() []*conn {
	var found []*conn
	for c := range p.conns {
		if !c.orphan && c.ctx.Err() == nil {
			found = append(found, c)
		}
	}
	return found
}

// await returns when the connections' sockets are closed.
func await(conns []*conn) {
	for _, c := range conns {
		<-c.done
	}
}

// Connections returns how many connections there are whose client is, as far as
// the proxy knows, still there. The server sides that LateCut left do not count.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.withClient())
}

// Held returns how many bytes have been read and not yet delivered. It tells
// a test that what it waits for has come as far as the proxy.
func (p *Proxy) Held() (toServer, toClient int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if c.up != nil {
			toServer += c.up.held()
			toClient += c.down.held()
		}
	}
	return toServer, toClient
}

// Close resets all connections, stops listening, and returns when no goroutine
// is left. It may be called more than once.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	var err error
	if p.listener != nil {
		err = p.listener.Close()
		p.listener = nil
	}
	p.cut = nil
	p.cancel()
	p.mu.Unlock()
	p.running.Wait()
	return err
}

// listen listens, unless the proxy does. The caller holds mu.
func (p *Proxy) listen() error {
	if p.listener != nil {
		return nil
	}
	var config net.ListenConfig
	l, err := config.Listen(p.ctx, "tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		switch {
		case err == nil:
			p.serve(l, client.(*net.TCPConn))
		case errors.Is(err, net.ErrClosed):
			return
		default:
			select {
			case <-p.ctx.Done():
			case <-time.After(acceptRetry):
			}
		}
	}
}

// serve starts the connection, unless its listener was closed meanwhile.
func (p *Proxy) serve(l net.Listener, client *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != l {
		closeHard(client)
		return
	}
	c := newConn(p, client)
	p.conns[c] = struct{}{}
	p.running.Go(func() {
		c.run()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
	})
}

// lateConns returns the connections that Late holds. The caller holds mu.
func (p *Proxy) lateConns() []*conn {
	var held []*conn
	for _, c := range p.withClient() {
		if c.late {
			held = append(held, c)
		}
	}
	return held
}
