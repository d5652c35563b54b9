package oracle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// run reads one consumer after the other until ctx ends.
func (t *Tap) run(ctx context.Context) {
	defer close(t.done)
	for {
		err := t.consume(ctx)
		if ctx.Err() != nil {
			return
		}
		t.mu.Lock()
		t.err = err
		t.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryInterval):
		}
	}
}

// consume reads the stream through one consumer, until that or its connection
// is gone. A consumer belongs to one life of the stream: as the stream is the
// same before and after the consumer was made, so are its messages.
func (t *Tap) consume(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.renew, t.received = cancel, 0
	t.mu.Unlock()

	stream, consumer, err := t.subscribe(ctx)
	if err != nil {
		return err
	}
	defer t.unsubscribe(ctx, stream, consumer)
	t.mu.Lock()
	t.consumer, t.err = consumer.CachedInfo().Name, nil
	t.mu.Unlock()

	messages, err := consumer.Messages(
		// A server that is paused is noticed after two missing heartbeats.
		jetstream.PullExpiry(4*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		if err := t.record(message); err != nil {
			return err
		}
	}
}

func (t *Tap) subscribe(ctx context.Context) (jetstream.Stream, jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stream, err := t.js.Stream(ctx, t.stream)
	if err != nil {
		return nil, nil, err
	}
	created := stream.CachedInfo().Created
	next, err := t.enter(ctx, stream)
	if err != nil {
		return nil, nil, err
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       next,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, nil, err
	}
	info, err := stream.Info(ctx)
	if err == nil && !info.Created.Equal(created) {
		err = errors.New("the stream was made anew meanwhile")
	}
	if err != nil {
		t.unsubscribe(ctx, stream, consumer)
		return nil, nil, err
	}
	return stream, consumer, nil
}

// unsubscribe does not leave the consumer to the server, which would keep it
// for a while. If the server does not answer, it has to.
func (t *Tap) unsubscribe(ctx context.Context, stream jetstream.Stream, consumer jetstream.Consumer) {
	t.mu.Lock()
	t.consumer = ""
	t.mu.Unlock()
	if !t.conn.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
}

// enter finds out whether the stream is the one that was read so far, begins a
// new generation if it is not, and returns the sequence from which to read.
func (t *Tap) enter(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	info := stream.CachedInfo()
	reason := "first"
	if n := len(t.generations); n > 0 {
		g := &t.generations[n-1]
		var err error
		if reason, err = changed(ctx, stream, g); err != nil {
			return 0, err
		}
		if reason == "" {
			return g.seen + 1, nil
		}
	}
	t.generations = append(t.generations, tapped{Generation: Generation{Created: info.Created, Reason: reason}})
	return 1, nil
}

// changed says how the stream is another than the generation; nothing if it is
// the same. A stream that was put back to an earlier state has the same
// creation time. It ends before what was read, or has another message there.
func changed(ctx context.Context, stream jetstream.Stream, g *tapped) (string, error) {
	info := stream.CachedInfo()
	switch {
	case !g.Created.Equal(info.Created):
		return "recreated", nil
	case info.State.LastSeq < g.seen:
		return "rewound", nil
	case g.seen == 0:
		return "", nil
	}
	message, err := stream.GetMsg(ctx, g.seen)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return "", nil // it is gone, as messages may
	case err != nil:
		return "", err
	case !message.Time.Equal(g.seenTime):
		return "rewound", nil
	}
	return "", nil
}

// record adds a message. Each has the number under which the consumer delivers
// it: one that is missing was lost on its way, and is read again.
func (t *Tap) record(message jetstream.Msg) error {
	about, err := message.Metadata()
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if about.Sequence.Consumer != t.received+1 {
		return fmt.Errorf("message %d of the consumer follows message %d", about.Sequence.Consumer, t.received)
	}
	t.received++
	generation := len(t.generations) - 1
	m := NewMessage(generation, about.Sequence.Stream, message.Subject(), message.Headers(), message.Data())
	m.Time = about.Timestamp
	if len(m.Data) > t.keep {
		m.Data = nil
	}
	t.messages = append(t.messages, m)
	g := &t.generations[generation]
	g.seen, g.seenTime = m.Sequence, m.Time
	return nil
}
