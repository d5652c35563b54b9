package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	sdkreader "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/sinks"
)

// Follow reads a sink's events as any subscriber could, in the order of the
// stream and each once, until ctx is done. What is no CloudEvent is left out. A
// connection that ends, and a stream that is not there, are waited for; then it
// goes on where it was. On core NATS what came between is lost. Its error is
// that of Take, or says which option cannot work however often it is tried; it
// is nil when ctx is done.
func Follow(ctx context.Context, o Options, what sinks.Followed) error {
	o.Logger = slog.New(slog.DiscardHandler)
	if err := check(&o); err != nil {
		return err
	}
	if what.Subject == "" {
		what.Subject = o.Subject.Pattern(what.Fields)
	}
	f := &follower{
		Followed: what, options: &o, problems: newProblems(o.Logger),
		dialer: newDialer(&o),
	}
	if what.FromStart {
		f.next = 1
	}
	for attempt := 1; ; attempt++ {
		before := f.next
		err := f.connected(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is what ended it
		}
		if taking, is := errors.AsType[takeError](err); is {
			return taking.error
		}
		if f.next > before {
			attempt = 1
		}
		f.tell(err.Error())
		if !sinks.Sleep(ctx, sinks.Backoff(attempt)) {
			return nil
		}
	}
}

type follower struct {
	sinks.Followed
	options  *Options
	problems *problems
	dialer   dialer
	next     uint64 // the sequence to go on with; 0 where that is not known yet
	begun    bool
	told     string
}

// reads says that it does.
func (f *follower) reads() {
	if !f.begun && f.Begun != nil {
		f.Begun()
	}
	f.begun = true
	f.tell("")
}

// takeError is an error from Take.
type takeError struct{ error }

func (f *follower) tell(words string) {
	if words != f.told && f.Problem != nil {
		f.Problem(words)
	}
	f.told = words
}

// connected follows for as long as one connection works.
func (f *follower) connected(ctx context.Context) error {
	ses, err := f.dialer.dial(ctx, f.problems)
	if err != nil {
		return err
	}
	defer func() {
		f.dialer.hear(ses)
		ses.close()
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-ses.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	read := f.subscribed
	if f.options.JetStream != nil {
		read = f.streamed
	}
	if err := read(ctx, ses); err != nil && ctx.Err() == nil {
		return err
	}
	return errors.New(ses.whyEnded())
}

func (f *follower) streamed(ctx context.Context, ses *session) error {
	js, err := jetstream.NewWithAPIPrefix(ses.nc, ses.api)
	if err != nil {
		return err
	}
	name := f.options.JetStream.Stream
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, apiWords(err))
	}
	if f.next == 0 {
		f.next = stream.CachedInfo().State.LastSeq + 1
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{f.Subject}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: f.next,
	})
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, apiWords(err))
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("stream %s: %w", name, apiWords(err))
	}
	defer messages.Stop()
	f.reads()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, apiWords(err))
		}
		metadata, err := m.Metadata()
		if err != nil {
			return err
		}
		if err := f.take(ctx, &natsgo.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}); err != nil {
			return err
		}
		f.next = metadata.Sequence.Stream + 1
	}
}

func (f *follower) subscribed(ctx context.Context, ses *session) error {
	subscription, err := ses.nc.SubscribeSync(f.Subject)
	if err != nil {
		return err
	}
	if err := ses.nc.FlushTimeout(connectTimeout); err != nil {
		return err
	}
	f.reads()
	for {
		m, err := subscription.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		if err := f.take(ctx, m); err != nil {
			return err
		}
	}
}

// take hands over what the message has, if it is an event.
func (f *follower) take(ctx context.Context, m *natsgo.Msg) error {
	e, err := binding.ToEvent(ctx, sdkreader.NewMessage(m))
	if err != nil || e.Validate() != nil {
		return nil //nolint:nilerr // a stream may have messages of others
	}
	if err := f.Take(*e); err != nil {
		return takeError{err}
	}
	return nil
}
