package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	readSize = 32 << 10

	// chunkCost is what a chunk takes beside its bytes, so that a buffer of
	// tiny chunks is bounded as well.
	chunkCost = 64
)

// pipe is one direction of a connection: fill reads into a bounded queue, and
// deliver writes what the gate lets through. Ends of the stream queue up behind
// the bytes.
type pipe struct {
	conn     *conn
	src, dst *net.TCPConn
	back     *pipe // the other direction

	wake   chan struct{} // deliver has to look again
	room   chan struct{} // fill has to
	filled chan struct{} // closed when fill has returned

	mu      sync.Mutex // guards what follows
	gate    gate
	chunks  []chunk
	size    int64 // of the chunks
	written int64 // bytes delivered so far
	sealed  bool  // takes no more
	broken  bool  // the destination is gone; what comes is thrown away
	end     ending
	endRead time.Time
	ended   ending // the end that was delivered
	unheard bool   // the destination was gone by then

	writing     bool // deliver writes the first chunk
	writes      int  // counts the writes that have returned
	returned    sync.Cond
	interrupted bool // the write deadline is in the past
}

type chunk struct {
	data []byte
	read time.Time
}

// ending is how a stream ends; the greater one wins.
type ending int

const (
	none ending = iota
	eof
	reset
)

func newPipe(c *conn, src, dst *net.TCPConn, g gate) *pipe {
	p := &pipe{
		conn:   c,
		src:    src,
		dst:    dst,
		gate:   g,
		wake:   make(chan struct{}, 1),
		room:   make(chan struct{}, 1),
		filled: make(chan struct{}),
	}
	p.returned.L = &p.mu
	return p
}

// set changes the gate. A write that the old gate let through is interrupted:
// when set returns, the new gate is in force for each byte.
func (p *pipe) set(g gate) {
	p.mu.Lock()
	p.gate = g
	if p.writing {
		p.interrupted = true
		_ = p.dst.SetWriteDeadline(time.Unix(1, 0)) // if it is closed, the write returns as well
		for before := p.writes; p.writes == before; {
			p.returned.Wait()
		}
	}
	if g.discard {
		p.drop()
	}
	p.mu.Unlock()
	poke(p.wake)
}

// fill reads until the source ends or ctx does.
func (p *pipe) fill(ctx context.Context) {
	defer close(p.filled)
	buffer := make([]byte, readSize)
	for p.waitRoom(ctx) {
		n, err := p.src.Read(buffer)
		p.push(buffer[:n])
		switch {
		case errors.Is(err, io.EOF):
			p.finish(eof)
			return
		case err != nil:
			p.finish(reset)
			return
		}
	}
}

// waitRoom reports false if there is nothing more to read.
func (p *pipe) waitRoom(ctx context.Context) bool {
	for {
		p.mu.Lock()
		full := p.size+int64(len(p.chunks))*chunkCost >= int64(p.conn.proxy.buffer)
		sealed := p.sealed
		p.mu.Unlock()
		if sealed || !full {
			return !sealed
		}
		select {
		case <-p.room:
		case <-ctx.Done():
			return false
		}
	}
}

func (p *pipe) push(data []byte) {
	p.mu.Lock()
	if len(data) > 0 && !p.sealed && !p.broken && !p.gate.discard {
		p.chunks = append(p.chunks, chunk{data: append([]byte(nil), data...), read: time.Now()})
		p.size += int64(len(data))
	}
	p.mu.Unlock()
	poke(p.wake)
}

// finish says how the source ended.
func (p *pipe) finish(e ending) {
	p.mu.Lock()
	if e > p.end && !p.sealed {
		p.end, p.endRead = e, time.Now()
	}
	p.mu.Unlock()
	poke(p.wake)
}

// seal makes what was read so far all that the pipe delivers, with a proper
// end, whatever becomes of the source. It frees a fill that waits for room.
func (p *pipe) seal() {
	p.mu.Lock()
	p.sealed = true
	p.end = eof
	p.mu.Unlock()
	poke(p.room)
}

// deliver writes until ctx ends: after its own end, a pipe may still have to
// deliver a reset.
func (p *pipe) deliver(ctx context.Context) {
	for {
		data, wait := p.next()
		if data != nil {
			n, err := p.dst.Write(data)
			if p.wrote(n, err) {
				continue
			}
			// The destination is gone. Its peer is to learn that in order, and
			// only once the mode lets it.
			p.back.finish(reset)
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-p.wake:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// next returns what may be written now, which wrote has to be told of, or how
// long that takes, if that is known. It delivers ends itself.
func (p *pipe) next() (data []byte, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.gate.hold:
	case p.gate.discard && len(p.chunks) > 0: // set is about to drop them
	case len(p.chunks) > 0:
		if wait := time.Until(p.chunks[0].read.Add(p.gate.delay)); wait > 0 {
			return nil, wait
		}
		if p.interrupted {
			p.interrupted = false
			_ = p.dst.SetWriteDeadline(time.Time{}) // if it is closed, the write will say so
		}
		p.writing = true
		return p.chunks[0].data, 0
	case p.end > p.ended:
		if wait := time.Until(p.endRead.Add(p.gate.delay)); wait > 0 {
			return nil, wait
		}
		p.ended = p.end
		if p.ended == eof {
			// The other direction ends by itself if this fails.
			p.unheard = p.dst.CloseWrite() != nil
		}
		p.conn.delivered(p.ended)
	}
	return nil, 0
}

// wrote reports whether the destination is still there. If not, the pipe
// swallows what comes.
func (p *pipe) wrote(n int, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = false
	p.writes++
	p.returned.Broadcast()
	p.written += int64(n)
	p.size -= int64(n)
	p.chunks[0].data = p.chunks[0].data[n:]
	if len(p.chunks[0].data) == 0 {
		p.chunks[0] = chunk{} // the queue's array must not keep it
		p.chunks = p.chunks[1:]
	}
	alive := err == nil || errors.Is(err, os.ErrDeadlineExceeded)
	if !alive {
		p.broken = true
		p.drop()
	}
	poke(p.room)
	return alive
}

// drop throws the queue away. The caller holds mu.
func (p *pipe) drop() {
	p.chunks, p.size = nil, 0
	poke(p.room)
}

func (p *pipe) held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// letOut opens a sealed pipe and returns how much it had written until then.
func (p *pipe) letOut() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = gate{}
	poke(p.wake)
	return p.written
}

// hasEnded reports whether the source has.
func (p *pipe) hasEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end != none
}

// total returns how many bytes were written, and whether the destination was
// there to see their end.
func (p *pipe) total() (written int64, heard bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written, p.ended == eof && !p.unheard
}

// poke wakes the one receiver, now or when it next looks.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
