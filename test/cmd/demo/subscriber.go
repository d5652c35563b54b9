//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	stream   = "K8S"   // that the demo's configuration names
	subjects = "k8s.>" // of the events; the bridge has other messages in the stream

	// streamTimeout bounds how long the bridge may take to make the stream.
	streamTimeout = 30 * time.Second
)

// subscription prints the events of the bridge's stream. It is what any program
// could do that has a NATS client and knows nothing of Kubernetes.
type subscription struct {
	conn     *nats.Conn
	consumer jetstream.ConsumeContext
}

// subscribe waits for the bridge's stream and prints its events, from the first.
func subscribe(ctx context.Context, url string, out *screen) (_ *subscription, err error) {
	conn, err := nats.Connect(url, nats.Name("demo"))
	if err != nil {
		return nil, fmt.Errorf("subscriber: %w", err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	if err := waitForStream(ctx, js); err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subjects}})
	if err != nil {
		return nil, fmt.Errorf("subscriber: %w", err)
	}
	out.step("Events in stream %s, as a NATS subscriber gets them; Ctrl-C ends the demo", stream)
	out.heading()
	consuming, err := consumer.Consume(func(msg jetstream.Msg) { out.event(parse(msg.Headers(), msg.Data())) })
	if err != nil {
		return nil, fmt.Errorf("subscriber: %w", err)
	}
	return &subscription{conn: conn, consumer: consuming}, nil
}

func waitForStream(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	for {
		_, err := js.Stream(ctx, stream)
		if err == nil || !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the bridge has not made the stream %s: %w", stream, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// close stops the printing; no event is printed after it returns.
func (s *subscription) close() {
	s.consumer.Stop()
	<-s.consumer.Closed()
	s.conn.Close()
}

// event is what the demo shows of a CloudEvent.
type event struct {
	time    string // of the day
	change  string // existing, created, updated, deleted or deselected
	subject string
	version string // resource version
	data    string // summary
}

// parse reads a CloudEvent in the NATS binding's binary mode: its attributes
// are headers, percent-encoded, and its data is the message.
func parse(header nats.Header, data []byte) event {
	attribute := func(name string) string {
		value, err := url.PathUnescape(header.Get("ce-" + name))
		if err != nil {
			return header.Get("ce-" + name)
		}
		return value
	}
	change := strings.TrimPrefix(attribute("type"), "dev.crbridge.resource.")
	change, _, _ = strings.Cut(change, ".")
	clock := attribute("time")
	if at, err := time.Parse(time.RFC3339Nano, clock); err == nil {
		clock = at.Local().Format(time.TimeOnly)
	}
	summary := []string{summarise(data)}
	for _, mark := range []string{"inferred", "coalesced"} {
		if attribute(mark) == "true" {
			summary = append(summary, "("+mark+")")
		}
	}
	return event{
		time:    clock,
		change:  change,
		subject: attribute("subject"),
		version: attribute("resourceversion"),
		data:    strings.Join(summary, " "),
	}
}

// summarise tells an order in a few words.
func summarise(data []byte) string {
	var order struct {
		Spec struct {
			Customer string `json:"customer"`
			Items    []struct {
				Product  string `json:"product"`
				Quantity int    `json:"quantity"`
			} `json:"items"`
			Total string `json:"total"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	if err := json.Unmarshal(data, &order); err != nil {
		return "not an order: " + err.Error()
	}
	var items []string
	for _, item := range order.Spec.Items {
		items = append(items, fmt.Sprintf("%d %s", item.Quantity, item.Product))
	}
	if len(items) == 0 {
		return "the object's identity alone"
	}
	text := fmt.Sprintf("%s: %s for %s", order.Spec.Customer, strings.Join(items, ", "), order.Spec.Total)
	if order.Status.Phase != "" {
		text += ", " + strings.ToLower(order.Status.Phase)
	}
	return text
}
