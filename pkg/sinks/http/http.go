package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// refusedRetry is how long an event waits that the receiver will not take, as
// far as its answer tells, before it is sent again: somebody may have mended
// the receiver, and it must not be flooded meanwhile.
const refusedRetry = 30 * time.Second

// answers is the topic of problems with a server that can be reached.
const answers sinks.Topic = 1

// Sink is an HTTP sink. Its publishers share their connections.
type Sink struct {
	name     string
	dialer   *dialer
	problems *sinks.Problems

	client atomic.Pointer[client] // nil before the files could be read for the first time
	anew   chan struct{}          // holds a token while the files have to be read again
	lost   chan struct{}          // holds a token while the server has to be looked for

	publishing sinks.Gate

	mu      sync.Mutex
	renewed chan struct{} // closed when what was refused may be taken: another client, or the end

	life    context.Context //nolint:containedctx // ends with the sink
	stop    context.CancelFunc
	stopped chan struct{}
	closing atomic.Bool
}

// Open opens a sink, and looks for its server in the background, until it is
// closed. It fails only for settings that cannot work however often they are
// tried.
func Open(s Settings, env sinks.Environment) (*Sink, error) {
	d, err := newDialer(s)
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", env.Name, err)
	}
	log := env.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background()) // ended by Close
	sink := &Sink{
		name: env.Name, dialer: d, problems: sinks.NewProblems(log.With("sink", env.Name), answers+1),
		anew: make(chan struct{}, 1), lost: make(chan struct{}, 1), renewed: make(chan struct{}),
		life: ctx, stop: stop, stopped: make(chan struct{}),
	}
	go func() {
		defer close(sink.stopped)
		sink.keepConnected(ctx)
	}()
	return sink, nil
}

// keepConnected has a client that the server answers, until ctx is done. A
// server that answered is not asked again before a request fails.
func (s *Sink) keepConnected(ctx context.Context) {
	defer s.problems.Closed()
	defer func() {
		if c := s.client.Load(); c != nil {
			c.close()
		}
	}()
	for attempt, fresh := 0, true; ; attempt++ {
		if attempt > 0 {
			pause := time.NewTimer(sinks.Backoff(attempt))
			select {
			case <-pause.C:
			case <-s.anew:
				fresh = true
			case <-ctx.Done():
			}
			pause.Stop()
		}
		if ctx.Err() != nil {
			return
		}
		if err := s.connect(ctx, fresh); err != nil {
			if ctx.Err() == nil {
				s.problems.Disconnect(err.Error())
			}
			fresh = s.client.Load() == nil
			continue
		}
		select {
		case <-s.lost:
			fresh = false
		case <-s.anew:
			fresh = true
		case <-ctx.Done():
			return
		}
		attempt = -1
	}
}

// connect asks the server for an answer, where fresh with what the files have now.
func (s *Sink) connect(ctx context.Context, fresh bool) error {
	c := s.client.Load()
	if fresh {
		next, err := s.dialer.dial()
		if err != nil {
			return err
		}
		if s.client.Store(next); c != nil {
			c.close()
		}
		c = next
		s.renew()
	}
	if _, err := c.probe(ctx); err != nil {
		return err
	}
	s.problems.Connect(s.dialer.shown, nil)
	return nil
}

// renew frees those who wait because they were refused.
func (s *Sink) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.renewed)
	s.renewed = make(chan struct{})
}

func (s *Sink) renewal() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewed
}

// Publisher implements sinks.Sink.
func (s *Sink) Publisher(sinks.Flow) sinks.Publisher { return &publisher{sink: s} }

// Keeper implements sinks.Sink: a receiver only takes.
func (s *Sink) Keeper() sinks.Keeper { return nil }

// Status implements sinks.Sink.
func (s *Sink) Status() sinks.Status { return s.problems.Status("http", s.name) }

// Reconnect implements sinks.Sink. Requests on their way end as they began.
func (s *Sink) Reconnect() { signal(s.anew) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close refuses new batches, and waits for those on their way. When ctx is done
// it waits no longer: what is on its way then fails, though the server may
// still get it. It may be called again.
func (s *Sink) Close(ctx context.Context) error {
	s.closing.Store(true)
	s.renew()
	err := s.publishing.Close(ctx)
	s.stop()
	<-s.stopped // nothing in there waits for anything but its context
	if err != nil {
		return fmt.Errorf("sink %s: closed before all that was on its way was answered: %w", s.name, err)
	}
	return nil
}

// publisher is one flow's way into the sink.
type publisher struct {
	sink *Sink
	// refused is why the first event is not taken. That is not asked again
	// before until, or before renewed is closed.
	refused error
	until   time.Time
	renewed <-chan struct{}
}

// Publish implements sinks.Publisher.
func (p *publisher) Publish(ctx context.Context, batch []events.Event) (durable int, err error) {
	s := p.sink
	if !s.publishing.Enter() {
		return 0, p.fail(sinks.ErrClosed)
	}
	defer s.publishing.Leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)() //nolint:contextcheck // what ends first ends it
	for ; durable < len(batch); durable++ {
		if err := p.post(ctx, &batch[durable]); err != nil {
			return durable, p.fail(err)
		}
	}
	return durable, nil
}

func (p *publisher) fail(err error) error { return fmt.Errorf("sink %s: %w", p.sink.name, err) }

// post sends one event, once what an earlier answer asks for is over.
func (p *publisher) post(ctx context.Context, e *events.Event) error {
	s := p.sink
	if err := p.wait(ctx); err != nil {
		return err
	}
	renewed := s.renewal() // of before the client: one that comes later is not missed
	c := s.client.Load()
	if c == nil {
		_, problem := s.problems.Now()
		if problem == "" {
			problem = "not connected yet"
		}
		return errors.New(problem)
	}
	err := c.post(ctx, e)
	refused, answered := errors.AsType[*refusal](err)
	switch {
	case err == nil:
		s.problems.Connect(s.dialer.shown, nil)
		s.problems.Clear(answers)
		return nil
	case !answered && ctx.Err() == nil:
		s.unanswered(err)
		return err
	case !answered:
		return err
	}
	s.problems.Connect(s.dialer.shown, nil)
	err = p.describe(refused, e)
	if refused.status.ofAll() {
		s.problems.Set(answers, fmt.Sprintf("%s says %s", s.dialer.shown, refused.status))
	}
	p.refused, p.until, p.renewed = err, time.Now().Add(refused.after), renewed
	if refused.after == 0 && !refused.status.passing() {
		p.until = time.Now().Add(refusedRetry)
	}
	return err
}

// unanswered takes note of a request to which there was no answer.
func (s *Sink) unanswered(err error) {
	if silence, is := errors.AsType[*silenceError](err); is {
		s.problems.Set(answers, silence.Error())
		return
	}
	s.problems.Disconnect(err.Error())
	signal(s.lost)
}

// describe says what the answer means for the flow.
func (p *publisher) describe(r *refusal, e *events.Event) error {
	words := fmt.Sprintf("%s says %s", p.sink.dialer.shown, r.status)
	if r.words != "" {
		words += ": " + r.words
	}
	if r.after > 0 {
		words += fmt.Sprintf("; it asks to wait for %s", settings.ShortDuration(r.after))
	}
	if r.status.passing() {
		return errors.New(words)
	}
	return fmt.Errorf("event %s of %s is refused: %s; nothing of its flow is delivered before it is taken, which is tried every %s",
		e.ID(), e.Subject(), words, settings.ShortDuration(max(r.after, refusedRetry)))
}

// wait waits until the receiver may be asked again.
func (p *publisher) wait(ctx context.Context) error {
	if p.refused == nil {
		return nil
	}
	if p.sink.closing.Load() {
		return sinks.ErrClosed
	}
	pause := time.NewTimer(time.Until(p.until))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-p.renewed:
		if p.sink.closing.Load() {
			return sinks.ErrClosed
		}
	case <-ctx.Done():
		return p.refused
	}
	p.refused = nil
	return nil
}
