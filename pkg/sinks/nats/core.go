package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// corePublisher publishes to core NATS: what the server has taken counts as
// durable, whether anybody listens or not. What nobody listened to is counted.
type corePublisher struct {
	sink *Sink
	// denied is a subject that the server does not let the bridge publish to.
	// Nothing is published behind an event that is on it.
	denied string
}

// Publish publishes the batch and waits until the server has read all of it.
// After a failure nothing is known of any event, so all of them count as not
// delivered and may be delivered again.
func (p *corePublisher) Publish(ctx context.Context, batch []events.Event) (durable int, err error) {
	if !p.sink.publishing.Enter() {
		return 0, p.sink.fail(sinks.ErrClosed)
	}
	defer p.sink.publishing.Leave()
	ses, err := p.sink.session()
	if err != nil {
		return 0, p.sink.fail(err)
	}
	messages, unfit := p.messages(ses, batch)
	if len(messages) == 0 {
		if unfit != nil {
			unfit = p.sink.fail(unfit)
		}
		return 0, unfit
	}
	denied, err := p.sink.send(ctx, ses, messages)
	if err != nil {
		return 0, p.sink.fail(err)
	}
	if denied != nil {
		p.denied = denied.subject
		at := slices.IndexFunc(messages, func(m *natsgo.Msg) bool { return m.Subject == denied.subject })
		return at, p.sink.fail(errors.New(denied.words))
	}
	p.denied = ""
	p.sink.problems.allowed(func(subject string) bool {
		return slices.ContainsFunc(messages, func(m *natsgo.Msg) bool { return m.Subject == subject })
	})
	letGo(messages)
	switch {
	case unfit != nil:
		return len(messages), p.sink.fail(unfit)
	case len(messages) < len(batch): // it ended at what was denied, and no longer is
		rest, err := p.Publish(ctx, batch[len(messages):])
		return len(messages) + rest, err
	}
	return len(messages), nil
}

// messages are those of the batch up to one that cannot be sent, which the
// error is about, or may be denied.
func (p *corePublisher) messages(ses *session, batch []events.Event) (messages []*natsgo.Msg, err error) {
	limits := limit{ses.nc.MaxPayload(), "the server's max_payload"}
	for i := range batch {
		m, err := p.sink.message(&batch[i])
		if err == nil {
			err = fits(m, &batch[i], limits)
		}
		if err != nil {
			return messages, err
		}
		messages = append(messages, m)
		if m.Subject == p.denied {
			break
		}
	}
	return messages, nil
}

// send publishes messages to core NATS, and returns when the server has read
// them and has said what it has to say: what it has denied, of which the first
// is returned, and what had no subscriber, which is counted. It says the latter
// to who wants an answer (https://docs.nats.io/nats-concepts/core-nats/reqreply#no-responders),
// so that each message asks for one.
func (s *Sink) send(ctx context.Context, ses *session, messages []*natsgo.Msg) (*denial, error) {
	inbox := ses.nc.NewInbox() + "."
	answers := make(chan *natsgo.Msg, 4*len(messages)) // subscribers may answer too; what does not fit in is left out
	subscription, err := ses.nc.ChanSubscribe(inbox+"*", answers)
	if err != nil {
		return nil, errors.New(words(err))
	}
	defer func() { _ = subscription.Unsubscribe() }() // it fails only where the connection has ended, and that with it
	waiter := ses.denial.wait(len(messages), func(subject string) bool {
		return slices.ContainsFunc(messages, func(m *natsgo.Msg) bool { return m.Subject == subject })
	})
	defer ses.denial.done(waiter)
	for i, m := range messages {
		m.Reply = inbox + strconv.Itoa(i)
		if err := ses.nc.PublishMsg(m); err != nil {
			return nil, errors.New(words(err))
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, ackTimeout, errNoAnswer)
	defer cancel()
	if err := flush(ctx, ses.nc); err != nil {
		return nil, err
	}
	if err := ses.heardAll(ctx); err != nil {
		return nil, err
	}
	denied := firstDenied(waiter, messages)
	lost := unheardOf(messages, answers, inbox)
	s.unheard.add(s.log, lost, time.Now())
	return denied, nil
}

// unheardOf are the subjects of the messages that had no subscriber.
func unheardOf(messages []*natsgo.Msg, answers <-chan *natsgo.Msg, inbox string) (subjects []string) {
	for {
		select {
		case answer := <-answers:
			i, err := strconv.Atoi(strings.TrimPrefix(answer.Subject, inbox))
			if err == nil && i < len(messages) && answer.Header.Get("Status") == noResponders {
				subjects = append(subjects, messages[i].Subject)
			}
		default:
			return subjects
		}
	}
}

// noResponders is the status of a message that says that a subject has no
// subscriber.
const noResponders = "503"

// firstDenied is what was denied of the first message that was, nil where none
// was.
func firstDenied(w *waiter, messages []*natsgo.Msg) (first *denial) {
	at := len(messages)
	for {
		select {
		case d := <-w.denied:
			i := slices.IndexFunc(messages, func(m *natsgo.Msg) bool { return m.Subject == d.subject })
			if 0 <= i && i < at {
				first, at = &d, i
			}
		default:
			return first
		}
	}
}

// flush waits until the server has read all that was published.
func flush(ctx context.Context, nc *natsgo.Conn) error {
	err := nc.FlushWithContext(ctx)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return errors.New(words(err))
}

// unheard counts the events that nobody was there for.
type unheard struct {
	counter *sinks.Counter

	mu      sync.Mutex
	count   int
	told    int // of count, in the log
	toldAt  time.Time
	subject string // of the last
	at      time.Time
	deaf    string // why none can be counted
}

// unheardEvery is how often it is logged that events reach nobody, at most.
const unheardEvery = time.Minute

// add takes note of the subjects of events that reached nobody.
func (u *unheard) add(log *slog.Logger, subjects []string, now time.Time) {
	if len(subjects) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.counter.Add(len(subjects))
	u.count += len(subjects)
	u.subject, u.at = subjects[len(subjects)-1], now
	if now.Sub(u.toldAt) >= unheardEvery {
		log.Warn("events reach nobody, as nobody subscribes to their subjects", "events", u.count-u.told, "subject", u.subject)
		u.told, u.toldAt = u.count, now
	}
}

// cannot takes note of an inbox that the server does not let the bridge hear.
func (u *unheard) cannot(log *slog.Logger, inbox string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.deaf == "" {
		const words = "events that reach nobody are not counted"
		u.deaf = words + ": the server does not permit the bridge to subscribe to " + inbox
		log.Warn(words, "denied", inbox)
	}
}

// notes say it to those who look at the status.
func (u *unheard) notes() (all []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.count > 0 {
		all = append(all, fmt.Sprintf("%d events reached nobody, the last at %s: nobody subscribed to %s", u.count, u.at.UTC().Format(time.RFC3339), u.subject))
	}
	if u.deaf != "" {
		all = append(all, u.deaf)
	}
	return all
}
