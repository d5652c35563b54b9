package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// releaseTimeout bounds Release where the caller's context does not.
const releaseTimeout = 10 * time.Second

// LateCut resets the client side of the connections that Late holds, and
// returns how many they were. Their server sides stay open, for Release; what
// the server sends them is thrown away. The mode becomes Pass if it was Late.
//
// What a client sent and the proxy has not yet read is lost: wait until Held
// says that what matters has come.
func (p *Proxy) LateCut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	cut := p.lateConns()
	for _, c := range cut {
		c.takeClient()
	}
	p.cut = append(p.cut, cut...)
	if p.mode == Late {
		p.setMode(Pass)
	}
	return len(cut)
}

// takeClient cuts the client off. The caller holds the proxy's mu.
func (c *conn) takeClient() {
	c.orphan = true
	c.up.seal()
	c.down.set(gate{discard: true})
	closeHard(c.client)
	<-c.up.filled // the socket is closed only when nobody reads it any more
}

// Release writes what LateCut left to the servers, ends those connections, and
// returns how many bytes it wrote. When it returns without an error each server
// has closed its side, so it has read them all. It is an error if a server has
// ended such a connection before, or does not within ten seconds or before ctx
// ends; nothing is left for another Release. Connections that Late holds and
// LateCut has not cut are left alone.
func (p *Proxy) Release(ctx context.Context) (int64, error) {
	p.mu.Lock()
	cut := p.cut
	p.cut = nil
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	releases := make([]release, len(cut))
	for i, c := range cut {
		releases[i] = c.release()
	}
	var released int64
	var errs []error
	for _, r := range releases {
		n, err := r.wait(ctx)
		released += n
		if err != nil {
			errs = append(errs, fmt.Errorf("proxy %s: release: %w", p.addr, err))
		}
	}
	return released, errors.Join(errs...)
}

// release is the late delivery of what one connection held.
type release struct {
	conn   *conn
	held   int64
	before int64 // written while the client was there
	ended  bool  // the server had ended the connection
}

func (c *conn) release() release {
	r := release{conn: c, held: c.up.held(), ended: c.down.hasEnded()}
	r.before = c.up.letOut()
	return r
}

// wait returns how much was written when the connection has ended.
func (r release) wait(ctx context.Context) (int64, error) {
	c := r.conn
	var err error
	select {
	case <-c.done:
	case <-ctx.Done():
		c.cancel()
		<-c.done
		err = ctx.Err()
	}
	n, heard := c.up.total()
	n -= r.before
	switch {
	case r.ended:
		return n, fmt.Errorf("the server had ended the connection, with %d bytes still held", r.held)
	case c.graceful.Load() && heard:
		return n, nil
	case err != nil:
		return n, fmt.Errorf("%d of %d bytes written, and the server has not ended the connection: %w", n, r.held, err)
	default:
		return n, fmt.Errorf("%d of %d bytes written when the connection was reset", n, r.held)
	}
}
