package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// A window ends when it has so many events, or so many bytes as
	// events.Event.Size counts, or the next event is of an object that it has.
	windowEvents = 512
	windowBytes  = 1 << 20
	// maxPending is above all that maxInFlight lets through: an event counts
	// as 1 KiB at least, and those of which nothing was heard are counted
	// for ackTimeout more.
	maxPending = 1 << 18
)

var (
	errEnded    = errors.New("the connection ended before the server answered")
	errNoAnswer = fmt.Errorf("the server did not answer within %v", ackTimeout)
)

// streamPublisher publishes to a JetStream stream.
type streamPublisher struct {
	sink *Sink
}

// Publish publishes the batch in windows, each in one go, and waits for all
// the acknowledgements of one before it begins the next. So an event is never
// sent before the one before it of the same object is durable, and what a
// failure leaves undone can be sent again in order.
//
// When ctx ends, messages that were already written may still be stored, but
// before anything that is published later over the same connection.
func (p *streamPublisher) Publish(ctx context.Context, batch []events.Event) (durable int, err error) {
	if !p.sink.publishing.enter() {
		return 0, p.sink.fail(sinks.ErrClosed)
	}
	defer p.sink.publishing.leave()
	for durable < len(batch) {
		n, err := p.sink.publishWindow(ctx, batch[durable:])
		durable += n
		if err != nil {
			return durable, p.sink.fail(err)
		}
	}
	return durable, nil
}

// publishWindow publishes a window from the beginning of the batch.
func (s *Sink) publishWindow(ctx context.Context, batch []events.Event) (durable int, err error) {
	ses, err := s.session()
	if err != nil {
		return 0, err
	}
	maxMsgSize, err := s.ensureStream(ctx, ses)
	if err != nil {
		return 0, err
	}
	w, err := s.window(batch, limit{ses.nc.MaxPayload(), "the server's max_payload"}, limit{maxMsgSize, "the stream's max_msg_size"})
	if err != nil {
		return 0, err
	}
	weight := min(w.size, maxInFlight)
	if err := s.inFlight.Acquire(ctx, weight); err != nil {
		return 0, err
	}
	defer s.inFlight.Release(weight)
	durable, err = w.publish(ctx, ses)
	s.heard(ctx, ses, w, durable, err)
	return durable, err
}

// heard draws the conclusions from how a window went.
func (s *Sink) heard(ctx context.Context, ses *session, w *window, durable int, err error) {
	if durable > 0 {
		s.problems.allowed(func(subject string) bool {
			return isInbox(subject) || slices.ContainsFunc(w.messages[:durable], func(m *natsgo.Msg) bool { return m.Subject == subject })
		})
	}
	var refused *refusedError
	switch {
	case err == nil:
		s.problems.taken()
	case errors.As(err, &refused):
		s.problems.refused(refused.problem())
		ses.stream.doubt()
	case ctx.Err() == nil:
		ses.stream.doubt()
	}
}

// window is messages that are published in one go. No two of them are of one
// object.
type window struct {
	stream   string
	messages []*natsgo.Msg
	size     int64
}

// limit bounds a message's headers and payload together, in bytes; 0 does not.
type limit struct {
	bytes int64
	by    string
}

// window encodes the first events of the batch. It fails if already the first
// cannot be published.
func (s *Sink) window(batch []events.Event, limits ...limit) (*window, error) {
	w := &window{stream: s.jetstream.Stream}
	objects := make(map[string]struct{}, min(len(batch), windowEvents))
	for i := range batch {
		e := &batch[i]
		object, size := e.Subject(), int64(e.Size())
		_, again := objects[object]
		if again || i == windowEvents || i > 0 && w.size+size > windowBytes {
			break
		}
		m, err := s.message(e)
		if err == nil {
			m.Header[jetstream.MsgIDHeader] = []string{e.ID()}
			m.Header[jetstream.ExpectedStreamHeader] = []string{w.stream}
			err = fits(m, e, limits...)
		}
		if err != nil {
			if i == 0 {
				return nil, err
			}
			break // it will be the first of a window, once all before it are durable
		}
		objects[object] = struct{}{}
		w.messages = append(w.messages, m)
		w.size += size
	}
	return w, nil
}

// message is the event as a message.
func (s *Sink) message(e *events.Event) (*natsgo.Msg, error) {
	return encode(s.mode, s.subject.Expand(e.Fields), e)
}

// fits tells whether the message may be as large as it is.
func fits(m *natsgo.Msg, e *events.Event, limits ...limit) error {
	size := int64(m.Size() - len(m.Subject))
	for _, l := range limits {
		if l.bytes > 0 && size > l.bytes {
			return &sinks.TooLargeError{ID: e.ID(), Subject: e.Subject(), Size: size, Limit: l.bytes, Source: l.by}
		}
	}
	return nil
}

// publish sends all messages, waits until each of them was acknowledged or
// failed or ctx is done, and returns how many from the first were
// acknowledged, and why the next was not.
func (w *window) publish(ctx context.Context, ses *session) (durable int, err error) {
	waiter := ses.denial.wait(len(w.messages), func(subject string) bool {
		return slices.ContainsFunc(w.messages, func(m *natsgo.Msg) bool { return m.Subject == subject })
	})
	defer ses.denial.done(waiter)
	futures := make([]jetstream.PubAckFuture, 0, len(w.messages))
	var unsent error
	for _, m := range w.messages {
		// No retry by the library: it would overtake what came after.
		future, err := ses.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
		if err != nil {
			unsent = errors.New(words(err))
			break
		}
		futures = append(futures, future)
	}
	answers := answers{ctx: ctx, ses: ses, denied: waiter.denied}
	contiguous := true
	for i, future := range futures {
		failure := answers.wait(future)
		switch {
		case !contiguous: // only waited for
		case failure == nil:
			durable++
		default:
			contiguous = false
			err = w.explain(w.messages[i], failure)
		}
	}
	if contiguous && unsent != nil {
		err = w.explain(w.messages[durable], unsent)
	}
	return durable, err
}

// explain says in words why a message was not acknowledged.
func (w *window) explain(m *natsgo.Msg, failure error) error {
	id := m.Header[jetstream.MsgIDHeader][0]
	var api *jetstream.APIError
	switch {
	case errors.As(failure, &api):
		return &refusedError{stream: w.stream, id: id, why: fmt.Sprintf("%s (%d)", api.Description, api.ErrorCode)}
	case errors.Is(failure, jetstream.ErrNoStreamResponse):
		return &refusedError{stream: w.stream, id: id, why: "no stream takes the subject " + m.Subject}
	case errors.Is(failure, jetstream.ErrAsyncPublishTimeout):
		failure = errNoAnswer
	}
	return fmt.Errorf("event %s: %w", id, failure)
}

// refusedError is a stream's no.
type refusedError struct {
	stream, id, why string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("stream %s does not take event %s: %s", e.stream, e.id, e.why)
}

// problem leaves out the event: it is the stream's, whichever comes first.
func (e *refusedError) problem() string {
	return fmt.Sprintf("stream %s does not take events: %s", e.stream, e.why)
}

// answers waits for the acknowledgements of one window.
type answers struct {
	ctx     context.Context
	ses     *session
	denied  <-chan denial
	denials []denial
}

// wait returns nil if the message was acknowledged.
func (a *answers) wait(future jetstream.PubAckFuture) error {
	for {
		// What is already there counts, even if all has ended since.
		select {
		case <-future.Ok():
			return nil
		case err := <-future.Err():
			return err
		default:
		}
		for _, d := range a.denials {
			if d.subject == future.Msg().Subject || isInbox(d.subject) {
				return errors.New(d.words)
			}
		}
		select {
		case <-future.Ok():
			return nil
		case err := <-future.Err():
			return err
		case d := <-a.denied:
			a.denials = append(a.denials, d)
		case <-a.ses.ended:
			return a.last(future, errEnded)
		case <-a.ctx.Done():
			return a.last(future, a.ctx.Err())
		}
	}
}

// last looks once more, as select takes any of the cases that are ready.
func (a *answers) last(future jetstream.PubAckFuture, otherwise error) error {
	select {
	case <-future.Ok():
		return nil
	default:
		return otherwise
	}
}

// corePublisher publishes to core NATS: what the server has taken counts as
// durable, whether anybody listens or not.
type corePublisher struct {
	sink *Sink
}

// Publish publishes the batch and waits until the server has read all of it.
// After a failure nothing is known of any event, so all of them count as not
// delivered and may be delivered again.
func (p *corePublisher) Publish(ctx context.Context, batch []events.Event) (durable int, err error) {
	if !p.sink.publishing.enter() {
		return 0, p.sink.fail(sinks.ErrClosed)
	}
	defer p.sink.publishing.leave()
	ses, err := p.sink.session()
	if err != nil {
		return 0, p.sink.fail(err)
	}
	var unfit error
	n := 0
	for i := range batch {
		e := &batch[i]
		m, err := p.sink.message(e)
		if err == nil {
			err = fits(m, e, limit{ses.nc.MaxPayload(), "the server's max_payload"})
		}
		if err != nil {
			unfit = p.sink.fail(err)
			break
		}
		if err := ses.nc.PublishMsg(m); err != nil {
			return 0, p.sink.fail(errors.New(words(err)))
		}
		n++
	}
	if n > 0 {
		if err := flush(ctx, ses.nc, ackTimeout); err != nil {
			return 0, p.sink.fail(err)
		}
	}
	return n, unfit
}

// flush waits until the server has read all that was published.
func flush(ctx context.Context, nc *natsgo.Conn, timeout time.Duration) error {
	limited, cancel := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	defer cancel()
	err := nc.FlushWithContext(limited)
	switch {
	case err == nil:
		return nil
	case limited.Err() != nil:
		return context.Cause(limited)
	}
	return errors.New(words(err))
}
