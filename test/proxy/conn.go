package proxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
)

// conn is a client's connection and that to the server which belongs to it.
type conn struct {
	proxy  *Proxy
	client *net.TCPConn

	ctx    context.Context // ends when the sockets are to be closed
	cancel context.CancelFunc
	done   chan struct{} // closed when they are, and nobody uses them

	// The proxy's mu guards these.
	up, down *pipe // nil until the server has accepted
	late     bool  // Late holds it
	orphan   bool  // LateCut took its client away

	open     atomic.Int32 // directions whose end is not yet delivered
	graceful atomic.Bool  // both ends were: there is nothing to reset
}

func newConn(p *Proxy, client *net.TCPConn) *conn {
	c := &conn{proxy: p, client: client, done: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	c.open.Store(2)
	return c
}

// run serves the connection until it ends.
func (c *conn) run() {
	defer close(c.done)
	defer c.cancel()
	server, err := c.dial()
	if err != nil {
		closeHard(c.client) // as near as can be to the server's own refusal
		return
	}
	c.connect(server)

	var pipes sync.WaitGroup
	for _, p := range []*pipe{c.up, c.down} {
		pipes.Go(func() { p.fill(c.ctx) })
		pipes.Go(func() { p.deliver(c.ctx) })
	}
	<-c.ctx.Done()
	for _, side := range []*net.TCPConn{c.client, server} {
		if c.graceful.Load() {
			_ = side.Close() // both directions are shut down already
		} else {
			closeHard(side)
		}
	}
	pipes.Wait()
}

// dial connects to the target, but not while the proxy stalls: the server must
// not see a client that cannot reach it.
func (c *conn) dial() (*net.TCPConn, error) {
	p := c.proxy
	for {
		p.mu.Lock()
		mode, changed, target := p.mode, p.changed, p.target
		p.mu.Unlock()
		if mode != Stall {
			var dialer net.Dialer
			server, err := dialer.DialContext(c.ctx, "tcp", target)
			if err != nil {
				return nil, err
			}
			return server.(*net.TCPConn), nil
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

// connect makes the pipes, with the gates of the mode that is in force by now.
func (c *conn) connect(server *net.TCPConn) {
	p := c.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	up, down := p.mode.gates(false)
	c.up = newPipe(c, c.client, server, up)
	c.down = newPipe(c, server, c.client, down)
	c.up.back, c.down.back = c.down, c.up
}

// setMode applies the mode. The caller holds the proxy's mu.
func (c *conn) setMode(mode Mode) {
	if c.orphan || c.up == nil {
		return // connect sets the gates of one that is not yet connected
	}
	c.late = mode == Late
	up, down := mode.gates(true)
	c.up.set(up)
	c.down.set(down)
}

// delivered is told of each end of a direction that got through.
func (c *conn) delivered(e ending) {
	switch {
	case e == reset:
		c.cancel()
	case c.open.Add(-1) == 0:
		c.graceful.Store(true)
		c.cancel()
	}
}

// closeHard makes the kernel send a reset, even if all was sent and read.
func closeHard(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only if the socket is closed or reset already
	_ = c.Close()
}
