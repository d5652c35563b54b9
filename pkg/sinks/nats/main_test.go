package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }

const template = "k8s.{cluster}.{group}.{resource}.{namespace}.{name}"

func subject(t testing.TB, template string) *events.SubjectTemplate {
	t.Helper()
	s, err := events.ParseSubject(template)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// options are those of a sink to a stream K8S on the server.
func options(t testing.TB, server *natstest.Server) Options {
	return Options{
		Name: "main", Cluster: "demo", URLs: []string{server.URL()}, Subject: subject(t, template),
		JetStream: &JetStream{Stream: "K8S", Create: true, DuplicateWindow: 2 * time.Minute},
	}
}

// open opens a sink that is closed when the test ends.
func open(t testing.TB, o Options) *Sink {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

const patience = 30 * time.Second

// eventually waits until the condition holds; got is what to show if it never
// does.
func eventually(t testing.TB, what string, got func() (string, bool)) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		last, ok := got()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after %v still not: %s; last: %s", patience, what, last)
		}
	}
}

// untilStatus waits until the sink's LastError contains the words.
func untilStatus(t testing.TB, s *Sink, words string) {
	t.Helper()
	eventually(t, "LastError contains "+words, func() (string, bool) {
		last := s.Status().LastError
		return last, strings.Contains(last, words)
	})
}

// orders is the flow of most tests, and change makes its events.
var orders = sinks.Flow{Route: "orders", CRD: "orders.shop.example.com"}

// publishers are the tests' publishers of the flow orders, by their sink.
var publishers sync.Map

// publisher is the one that the test uses for the sink; it is claimed.
func publisher(t testing.TB, s *Sink) sinks.Publisher {
	t.Helper()
	if p, ok := publishers.Load(s); ok {
		return p.(sinks.Publisher)
	}
	p := s.Publisher(orders)
	claim(t, p, nil)
	publishers.Store(s, p)
	t.Cleanup(func() { publishers.Delete(s) })
	return p
}

// publish publishes events until they are durable, as flows do.
func publish(t testing.TB, s *Sink, batch ...events.Event) {
	t.Helper()
	deliver(t, publisher(t, s), batch...)
}

func deliver(t testing.TB, p sinks.Publisher, batch ...events.Event) {
	t.Helper()
	eventually(t, "the events are durable", func() (string, bool) {
		durable, err := p.Publish(t.Context(), batch)
		batch = batch[durable:]
		if errors.Is(err, journal.ErrReplaced) {
			claim(t, p, nil)
		}
		if err != nil {
			return err.Error(), false
		}
		return "", true
	})
}

// claim claims the publisher's flow, if it is a journal, until that works.
func claim(t testing.TB, p sinks.Publisher, into *ledger) (c journal.Claim) {
	t.Helper()
	j, ok := p.(journal.Journal)
	if !ok {
		return c
	}
	if into == nil {
		into = &ledger{}
	}
	eventually(t, "the flow is claimed", func() (string, bool) {
		var err error
		if c, err = j.Claim(t.Context(), into); err != nil {
			return err.Error(), false
		}
		return "", true
	})
	return c
}

// ledger is what a journal has restored.
type ledger struct {
	rows    map[string]journal.Row
	given   int // rows, in all
	resets  int
	rebases int
}

func (l *ledger) Reset() {
	l.rows = map[string]journal.Row{}
	l.resets++
}

func (l *ledger) Restore(row journal.Row) {
	l.given++
	if l.rows == nil {
		l.rows = map[string]journal.Row{}
	}
	if row.Version >= l.rows[row.Key].Version {
		l.rows[row.Key] = row
	}
}

func (l *ledger) Rebase() { l.rebases++ }

// each is all rows, as Snapshot wants them.
func (l *ledger) each() iter.Seq[journal.Row] { return maps.Values(l.rows) }

// versions says in short what the ledger has, sorted by key.
func (l *ledger) versions() (all []string) {
	for key, row := range l.rows {
		words := fmt.Sprintf("%s %d", strings.TrimPrefix(key, "default/"), row.Version)
		for word, is := range map[string]bool{" gone": row.Gone, " unsent": !row.Sent} {
			if is {
				words += word
			}
		}
		all = append(all, words)
	}
	slices.Sort(all)
	return all
}

// uid is the object's.
func uid(object string) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(object)) }

// id is that of the event for a version of the object.
func id(object string, version int) string { return fmt.Sprintf("%s.%d.orders", uid(object), version) }

// change is the event for a version of an object.
func change(t testing.TB, object string, version int) events.Event {
	t.Helper()
	return changeOf(t, orders, events.Updated, object, version)
}

// changeOf is the event for what has happened to an object of the flow.
func changeOf(t testing.TB, f sinks.Flow, what events.Type, name string, version int) events.Event {
	t.Helper()
	e, err := events.New(originOf(f), nil, changed(what, name, version))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func originOf(f sinks.Flow) events.Origin {
	resource, group, _ := strings.Cut(f.CRD, ".")
	return events.Origin{
		Cluster: "demo", Group: group, Version: "v1", Kind: "Order", Resource: resource, Namespaced: true, Route: f.Route,
	}
}

func changed(what events.Type, name string, version int) events.Change {
	return events.Change{
		Type: what, Namespace: "default", Name: name, UID: uid(name).String(),
		ResourceVersion: uint64(version), Observed: time.Unix(1700000000, 123456789),
		Object: &object.Object{JSON: fmt.Appendf(nil, `{"spec":{"version":%d}}`, version)},
	}
}

func batchOf(all ...events.Event) []events.Event { return all }

// closingContext is for what is done when the test has ended.
func closingContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	t.Cleanup(cancel)
	return ctx
}

// enlarge gives the event more data than the server's max_payload of 1 MiB.
func enlarge(e *events.Event) {
	e.Data = append(bytes.Repeat([]byte(" "), 1<<20), '1')
}

// client is a connection of the test's own.
func client(t testing.TB, address string, more ...natsgo.Option) *natsgo.Conn {
	t.Helper()
	more = append(more, natsgo.MaxReconnects(-1), natsgo.ReconnectWait(20*time.Millisecond), natsgo.RetryOnFailedConnect(true))
	nc, err := natsgo.Connect(address, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func streamsOf(t testing.TB, nc *natsgo.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// storedMessages are all messages of the stream but the bridges' own.
func storedMessages(t testing.TB, js jetstream.JetStream, stream string) []*natsgo.Msg {
	t.Helper()
	return slices.DeleteFunc(allMessages(t, js, stream), func(m *natsgo.Msg) bool { return strings.HasPrefix(m.Subject, "crbridge.") })
}

// storedIDs are the ids of the events in the stream, oldest first.
func storedIDs(t testing.TB, js jetstream.JetStream) (ids []string) {
	t.Helper()
	for _, m := range storedMessages(t, js, "K8S") {
		ids = append(ids, m.Header.Get(jetstream.MsgIDHeader))
	}
	return ids
}

func allMessages(t testing.TB, js jetstream.JetStream, stream string) []*natsgo.Msg {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	want := int(s.CachedInfo().State.Msgs)
	consumer, err := s.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var all []*natsgo.Msg
	for len(all) < want {
		batch, err := consumer.Fetch(min(500, want-len(all)), jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			all = append(all, &natsgo.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
		}
		if batch.Error() != nil {
			t.Fatal(batch.Error())
		}
	}
	return all
}

// decodeBinary reads a message in binary mode, by the binding's words and with
// nothing of ours.
func decodeBinary(t testing.TB, m *natsgo.Msg) event.Event {
	t.Helper()
	e := event.New()
	for name, values := range m.Header {
		attribute, ok := strings.CutPrefix(name, "ce-")
		if !ok {
			continue
		}
		value, err := url.PathUnescape(values[0])
		if err != nil {
			t.Fatalf("header %s: %v", name, err)
		}
		switch attribute {
		case "specversion":
		case "id":
			e.SetID(value)
		case "source":
			e.SetSource(value)
		case "type":
			e.SetType(value)
		case "subject":
			e.SetSubject(value)
		case "datacontenttype":
			e.SetDataContentType(value)
		case "time":
			at, err := time.Parse(time.RFC3339Nano, value)
			if err != nil {
				t.Fatal(err)
			}
			e.SetTime(at)
		default:
			e.SetExtension(attribute, value)
		}
	}
	e.DataEncoded = m.Data
	return e
}
