//go:build unix

package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
)

// natsConfig is the YAML of the sink main, with a stream.
func natsConfig(server *controlplane.NATSServer) string {
	return fmt.Sprintf("sinks:\n  main: {nats: {url: %q, jetstream: {stream: K8S}}}\n", server.URL())
}

// message is an event as a subscriber without a CloudEvents library reads it:
// from headers and payload.
type message struct {
	subject    string
	msgID      string
	attributes map[string]string
	data       map[string]any
}

func (m message) what() string {
	kind := strings.TrimSuffix(strings.TrimPrefix(m.attributes["type"], "dev.crbridge.resource."), ".v1")
	return kind + " " + m.attributes["subject"]
}

// stream reads the stream from its beginning, over and over.
type stream struct {
	conn *nats.Conn
	js   jetstream.JetStream
}

func subscribe(t *testing.T, server *controlplane.NATSServer) *stream {
	t.Helper()
	return subscribeTo(t, server.URL())
}

func subscribeTo(t *testing.T, url string, options ...nats.Option) *stream {
	t.Helper()
	conn, err := nats.Connect(url, append(options, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return &stream{conn: conn, js: js}
}

// all are the events in the stream of one CRD, in its order.
func (s *stream) all(t *testing.T, crd string) []message {
	t.Helper()
	messages, err := s.read(t.Context(), crd, 0)
	if err != nil {
		t.Fatalf("reading the stream: %v", err)
	}
	return messages
}

// read is all, unless there are fewer than that many yet.
func (s *stream) read(ctx context.Context, crd string, least int) ([]message, error) {
	resource, group, _ := strings.Cut(crd, ".")
	filter := fmt.Sprintf("k8s.test.%s.%s.>", strings.ReplaceAll(group, ".", "_"), resource)
	stream, err := s.js.Stream(ctx, "K8S")
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound) && least == 0:
		return nil, nil
	case err != nil:
		return nil, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, err
	}
	left := 0
	for _, count := range info.State.Subjects {
		left += int(count)
	}
	if left < least || left == 0 {
		return nil, missing(left, least, crd)
	}
	// Not an ordered one: where the node that it is on goes, its Fetch tries for
	// ever to make another.
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: filter, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	// Not left to the server, which would keep it for minutes.
	defer func() { _ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name) }()
	var messages []message
	for left > 0 {
		batch, err := consumer.Fetch(min(left, 500), jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return nil, err
		}
		got := 0
		for m := range batch.Messages() {
			read, err := decode(m)
			if err != nil {
				return nil, err
			}
			messages = append(messages, read)
			got++
		}
		if err := batch.Error(); err != nil {
			return nil, err
		}
		if got == 0 {
			return nil, fmt.Errorf("%d messages are missing", left)
		}
		left -= got
	}
	return messages, nil
}

// missing says that there are too few; nil where there need not be any.
func missing(count, least int, crd string) error {
	if count >= least {
		return nil
	}
	return fmt.Errorf("%d events of %s, not %d", count, crd, least)
}

func decode(m jetstream.Msg) (message, error) {
	read := message{subject: m.Subject(), msgID: m.Headers().Get(jetstream.MsgIDHeader), attributes: map[string]string{}}
	for name, values := range m.Headers() {
		attribute, ok := strings.CutPrefix(name, "ce-")
		if !ok {
			continue
		}
		value, err := url.PathUnescape(values[0])
		if err != nil {
			return message{}, fmt.Errorf("header %s: %w", name, err)
		}
		read.attributes[attribute] = value
	}
	if err := json.Unmarshal(m.Data(), &read.data); err != nil {
		return message{}, fmt.Errorf("data of %s: %w", m.Subject(), err)
	}
	return read, nil
}

// wait waits until the stream has that many events of the CRD.
func (s *stream) wait(t *testing.T, crd string, count int) []message {
	t.Helper()
	var messages []message
	eventually(t, func() (err error) {
		messages, err = s.read(t.Context(), crd, count)
		return err
	})
	return messages
}

func summary(messages []message) string {
	var all []string
	for _, m := range messages {
		all = append(all, m.what())
	}
	if len(all) > 20 {
		all = append(all[:20], "…")
	}
	return strings.Join(all, ", ")
}

func parse(t *testing.T, content []byte) map[string]any {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal(content, &object); err != nil {
		t.Fatal(err)
	}
	return object
}
