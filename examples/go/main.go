// Command subscriber follows the events that crbridge has put into a NATS
// stream: all of them in order, and after a restart from where it was. It
// prints a line for each; put what you do with them in place of that.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	cenats "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := run(ctx, parse(), os.Stdout, log)
	stop()
	if err != nil {
		log.Error("cannot go on", "error", err)
		os.Exit(1)
	}
}

func parse() (o options) {
	flag.StringVar(&o.server, "server", "nats://127.0.0.1:4222", "URL of NATS, or several with commas")
	flag.StringVar(&o.credentials, "creds", "", "file with the credentials for NATS")
	flag.StringVar(&o.stream, "stream", "K8S", "the stream")
	flag.StringVar(&o.subject, "subject", "k8s.>", "which events; not what begins with crbridge, which is the bridge's own")
	flag.StringVar(&o.name, "name", "go-example", "the consumer's name, under which NATS remembers how far it is")
	flag.BoolVar(&o.snapshot, "snapshot", false, "begin with the newest event of each object, not with the oldest of all")
	flag.BoolVar(&o.json, "json", false, "print events as JSON")
	flag.Parse()
	return o
}

type options struct {
	server, credentials, stream, subject, name string
	snapshot, json                             bool
}

func run(ctx context.Context, o options, out io.Writer, log *slog.Logger) error {
	connection := []nats.Option{
		nats.Name(o.name), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("disconnected; trying again", "error", err) }),
	}
	if o.credentials != "" {
		connection = append(connection, nats.UserCredentials(o.credentials))
	}
	nc, err := nats.Connect(o.server, connection...)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	config := jetstream.ConsumerConfig{
		Durable:       o.name,
		FilterSubject: o.subject,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       10 * time.Second, // as long as handling may take
		// One message at a time: so one that has to come again does not come
		// after its successors. Where order does not matter, take more.
		MaxAckPending: 1,
	}
	if o.snapshot {
		config.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
	}
	consumer, err := waitForStream(ctx, js, o.stream, config, log)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	s := subscriber{handle: words(out), log: log}
	if o.json {
		encoder := json.NewEncoder(out)
		s.handle = func(e *event.Event) error { return encoder.Encode(e) }
	}
	consuming, err := consumer.Consume(s.take, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		log.Warn("consuming", "error", err)
	}))
	if err != nil {
		return err
	}
	<-ctx.Done()
	consuming.Drain() // what was taken is handled to its end
	<-consuming.Closed()
	return nil
}

// waitForStream makes the consumer, or takes the one that there is, as soon as
// the stream is there.
func waitForStream(ctx context.Context, js jetstream.JetStream, stream string, config jetstream.ConsumerConfig, log *slog.Logger) (jetstream.Consumer, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		consumer, err := js.CreateOrUpdateConsumer(attempt, stream, config)
		cancel()
		var refused *jetstream.APIError
		switch {
		case err == nil:
			return consumer, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &refused) && !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, err // such as another policy for a consumer that there is
		}
		log.Warn("no consumer yet; trying again", "stream", stream, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

type subscriber struct {
	handle func(*event.Event) error
	log    *slog.Logger
}

// take handles one message. Only when that has worked it is acknowledged; until
// then it comes again, also after this process has ended.
//
// So handle an event in such a way that a second time does no harm. It is
// enough to keep, together with what you make of it, the event's uid, route and
// sequence, and to skip what is older; docs/subscribing.md says what else there is
// to know of an operator's resync and of a cluster that was restored.
func (s *subscriber) take(m jetstream.Msg) {
	e, err := decode(m)
	if err != nil {
		s.log.Error("no event", "subject", m.Subject(), "error", err)
		_ = m.Term() // no event, and never will be one
		return
	}
	if err := s.handle(e); err != nil {
		s.log.Error("not handled; it comes again", "event", e.ID(), "error", err)
		_ = m.NakWithDelay(time.Second)
		return
	}
	_ = m.Ack()
}

// decode reads both modes: attributes in headers, and all in one JSON document.
func decode(m jetstream.Msg) (*event.Event, error) {
	message := cenats.NewMessage(&nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
	e, err := binding.ToEvent(context.Background(), message)
	if err != nil {
		return nil, err
	}
	return e, e.Validate()
}

// words says in a line what an event tells.
func words(out io.Writer) func(*event.Event) error {
	return func(e *event.Event) error {
		what := strings.TrimSuffix(strings.TrimPrefix(e.Type(), "dev.crbridge.resource."), ".v1")
		line := fmt.Sprintf("%s  %-10s %v %s", e.Time().Format(time.RFC3339), what, e.Extensions()["kind"], e.Subject())
		switch what {
		case "existing", "created", "updated":
			var object struct {
				Spec json.RawMessage `json:"spec"`
			}
			if err := e.DataAs(&object); err != nil {
				return err
			}
			line += fmt.Sprintf(" at %v: %s", e.Extensions()["resourceversion"], object.Spec)
		default: // deleted, deselected: there is no such object any more
		}
		_, err := fmt.Fprintln(out, line)
		return err
	}
}
