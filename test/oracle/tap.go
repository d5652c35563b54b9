package oracle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TapOptions change how a tap listens. The zero value is a good default.
type TapOptions struct {
	// KeepData is the size in bytes of the largest payload that is kept; a
	// larger one is looked at and dropped. 0 keeps all, in memory.
	KeepData int

	NATS []nats.Option // for example credentials
}

// Tap records every message of a stream while it runs, also those that vanish
// later, by age, by limits or by a purge. It reads through a consumer of its
// own, through outages of the server, and notices when the stream is deleted
// and made anew, or put back to an earlier state.
//
// Of messages that came and vanished while it could not read, it knows the
// sequences only, and says so: see [Recording]. Of a stream that is deleted
// before the tap has read its end, it cannot know even those: Sync it first.
type Tap struct {
	conn   *nats.Conn
	js     jetstream.JetStream
	stream string
	keep   int
	cancel context.CancelFunc
	done   chan struct{} // closed when the recording has ended

	mu          sync.Mutex // guards what follows
	generations []tapped
	messages    []Message
	consumer    string             // the one that is read now; empty while there is none
	received    uint64             // messages that it has delivered
	renew       context.CancelFunc // ends the reading of it, so that the stream is looked at again
	err         error              // the last trouble
}

// Listen starts to record the stream from its first message. Ctx bounds the
// recording; Close ends it and must be called. Neither the server nor the
// stream need be there yet.
func Listen(ctx context.Context, url, stream string, opts TapOptions) (*Tap, error) {
	ctx, cancel := context.WithCancel(ctx)
	t := &Tap{stream: stream, keep: opts.KeepData, cancel: cancel, done: make(chan struct{}), renew: func() {}}
	if t.keep == 0 {
		t.keep = int(^uint(0) >> 1)
	}
	conn, err := nats.Connect(url, slices.Concat([]nats.Option{
		nats.Name("oracle"),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(retryInterval),
		nats.ReconnectJitter(0, 0),
		nats.ReconnectBufSize(-1), // a request that cannot be sent fails at once
		nats.DisconnectErrHandler(func(*nats.Conn, error) { t.lookAgain() }),
	}, opts.NATS)...)
	if err != nil {
		cancel()
		return nil, err
	}
	t.conn = conn
	if t.js, err = jetstream.New(conn); err != nil {
		cancel()
		conn.Close()
		return nil, err
	}
	go t.run(ctx)
	return t, nil
}

// Close ends the recording and waits until it has. What was recorded stays.
func (t *Tap) Close() {
	t.cancel()
	<-t.done
	t.conn.Close()
}

// Err returns what kept the tap from reading last, for example that there is no
// stream. It goes on trying; a Sync that succeeds shows that nothing was lost.
func (t *Tap) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Purged tells the tap that somebody has purged or deleted messages of the
// present generation up to that sequence: those that it did not see are no gap.
func (t *Tap) Purged(upTo uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.generations); n > 0 {
		g := &t.generations[n-1]
		g.Purged = append(g.Purged, upTo)
	}
}

// Recording returns what was recorded so far.
func (t *Tap) Recording() Recording {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Recording{Messages: slices.Clone(t.messages)}
	for i := range t.generations {
		g := &t.generations[i]
		r.Generations = append(r.Generations, g.Generation)
		r.Gaps = append(r.Gaps, g.gaps(i, t.messages)...)
	}
	return r
}

// Sync waits until all is recorded that the stream has now. It waits through an
// outage, and for a stream that is not there, until ctx ends.
func (t *Tap) Sync(ctx context.Context) error {
	for {
		err := t.atEnd(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-t.done:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("stream %s is not recorded to its end: %w: %w", t.stream, context.Cause(ctx), err)
		case <-time.After(retryInterval):
		}
	}
}

// atEnd returns nil if all is recorded that the stream had when it was called.
func (t *Tap) atEnd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := t.js.Stream(ctx, t.stream)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.generations) == 0 {
		return errors.New("nothing is read yet")
	}
	g := &t.generations[len(t.generations)-1]
	if t.consumer == "" {
		return errors.New("there is no consumer")
	}
	if !g.Created.Equal(info.Created) || g.seen > info.State.LastSeq {
		t.renew()
		return errors.New("the stream is another than it was")
	}
	if g.seen == info.State.LastSeq || g.tail >= info.State.LastSeq {
		return nil
	}
	return t.nothingLeft(ctx, stream, g, info.State.LastSeq)
}

// nothingLeft returns nil if the stream's last messages are gone, and all that
// there are is recorded. It needs mu, which keeps what the consumer has
// delivered from being recorded meanwhile: then the count would not match.
func (t *Tap) nothingLeft(ctx context.Context, stream jetstream.Stream, g *tapped, last uint64) error {
	// The server counts what is pending a moment after it has stored it.
	if _, err := stream.GetMsg(ctx, last); !errors.Is(err, jetstream.ErrMsgNotFound) {
		return errors.Join(fmt.Errorf("message %d is not recorded yet", last), err)
	}
	consumer, err := stream.Consumer(ctx, t.consumer)
	if err != nil {
		t.renew()
		return err
	}
	info := consumer.CachedInfo()
	if info.NumPending > 0 || info.Delivered.Consumer != t.received {
		return fmt.Errorf("%d messages are recorded of %d, and %d more are there", t.received, info.Delivered.Consumer, info.NumPending)
	}
	g.tail = last
	return nil
}

// lookAgain ends the reading of the present consumer.
func (t *Tap) lookAgain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renew()
}
