package nats

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestStructuredEventsAreRestored(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	o.Mode = sinks.Structured
	_, p, _, _ := restart(t, o)
	deliver(t, p, change(t, "a", 1), change(t, "b", 2))
	deliver(t, p, changeOf(t, orders, events.Deleted, "a", 3))
	record(t, p, nil, journal.State{Position: 3})
	_, _, l, c := restart(t, o)
	if diff := cmp.Diff([]string{"a 3 gone", "b 2"}, l.versions()); diff != "" || c.Gap != "" {
		t.Errorf("claim: %+v, rows (-want +got):\n%s", c, diff)
	}
}

// A stream without room for control messages works, without a fence.
func TestStreamWithoutControlMessages(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	o.JetStream.Subjects = []string{"k8s.>"}
	s, p, l, c := restart(t, o)
	if (c.Known || c.Gap != "" || !c.State.Equal(journal.State{})) || p.Fenced() || !p.Exact() {
		t.Errorf("claim: %+v, Fenced is %t, Exact is %t", c, p.Fenced(), p.Exact())
	}
	if notes := s.Status().Notes; len(notes) != 1 || !strings.Contains(notes[0], "flows have no fence against a second bridge") {
		t.Errorf("notes: %q", notes)
	}
	deliver(t, p, change(t, "a", 1), change(t, "b", 2))
	record(t, p, nil, journal.State{Position: 2})
	deliver(t, p, manyObjects(t, atomicFrom, 3)...)

	_, q, l2, c := restart(t, o)
	if !c.Known || c.Gap != "" || len(l2.rows) != atomicFrom+2 || c.State.Kind != "Order" {
		t.Errorf("claim: %+v, %d rows", c, len(l2.rows))
	}
	// The state is in the snapshots.
	c4 := change(t, "c", 4)
	deliver(t, q, c4)
	l.rows = l2.rows
	l.Restore(rowOf(&c4))
	takeSnapshot(t, q, l, journal.State{Position: 5, Kind: "Order"})
	_, _, l3, c := restart(t, o)
	if c.State.Position != 5 || c.Gap != "" || len(l3.rows) != atomicFrom+3 || l3.given > len(l3.rows) {
		t.Errorf("claim: %+v, %d rows, %d given", c, len(l3.rows), l3.given)
	}
	deliver(t, p, change(t, "d", 5)) // nobody is shut out
	if all := allMessages(t, js, "K8S"); len(all) != atomicFrom+4 {
		t.Errorf("%d messages are stored", len(all))
	}
	if flows, err := s.Flows(t.Context()); len(flows) > 0 || err != nil {
		t.Errorf("flows %+v, %v", flows, err)
	}
	want := "stream K8S does not take crbridge.K8S.demo.orders.resync: a request has no place; add crbridge.K8S.> to its subjects"
	if _, err := s.RequestResync(t.Context(), "orders"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("RequestResync says %v, want %s", err, want)
	}
}

func TestOneMessagePerSubject(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	o.JetStream.MaxMsgsPerSubject = 1
	o.Subject = subject(t, "k8s.{route}.{group}.{resource}.{namespace}.{name}")
	_, p, l, _ := restart(t, o)
	for version := 1; version <= 3; version++ {
		deliver(t, p, change(t, "a", 10*version), change(t, "b", 10*version+1))
		record(t, p, []journal.Row{{Key: "default/unsent", UID: uid("unsent"), Version: uint64(version)}}, journal.State{Position: uint64(version)})
	}
	_, q, l2, c := restart(t, o)
	want := []string{"a 30", "b 31", "unsent 3 unsent"}
	if diff := cmp.Diff(want, l2.versions()); diff != "" || c.Gap != "" || c.State.Position != 3 {
		t.Errorf("claim: %+v, rows (-want +got):\n%s", c, diff)
	}
	untilFenced(t, func() error {
		_, err := p.Publish(t.Context(), batchOf(change(t, "c", 40)))
		return err
	})
	l.rows = l2.rows
	takeSnapshot(t, q, l, journal.State{Position: 4})
	deliver(t, q, change(t, "a", 50))
	_, _, l3, c := restart(t, o)
	if diff := cmp.Diff([]string{"a 50", "b 31", "unsent 3 unsent"}, l3.versions()); diff != "" || c.Gap != "" {
		t.Errorf("claim: %+v, rows (-want +got):\n%s", c, diff)
	}
}

// Where a subject is of more than one object of one flow, another's event takes
// the place of this flow's, and that is told.
func TestOneMessagePerSharedSubject(t *testing.T) {
	for _, test := range []struct {
		why, template string
		gap           bool
	}{
		{"routes share subjects", template, true},
		{"each object of each flow has its own", "k8s.{route}.{group}.{resource}.{namespace}.{name}", false},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			o := options(t, server)
			o.JetStream.MaxMsgsPerSubject = 1
			o.Subject = subject(t, test.template)
			s, p, _, _ := restart(t, o)
			deliver(t, p, change(t, "a", 1), change(t, "b", 2))
			record(t, p, nil, journal.State{Position: 2})
			other := orders
			other.Route = "other"
			q := s.Publisher(other)
			claim(t, q, nil)
			deliver(t, q, changeOf(t, other, events.Updated, "a", 1))
			_, _, l, c := restart(t, o)
			if rows := l.versions(); (c.Gap != "") != test.gap || (len(rows) == 1) != test.gap {
				t.Errorf("claim: %+v, rows %q", c, rows)
			}
		})
	}
}

func TestHowBatchesAreWritten(t *testing.T) {
	for _, test := range []struct {
		why   string
		facts facts
		want  string
	}{
		{"one replica", facts{replicas: 1, atomic: true, fenced: true}, "atomic from 256 events on, pipelined below"},
		{"replicas", facts{replicas: 3, atomic: true, fenced: true}, "atomic"},
		{"replicas, and no batches", facts{replicas: 3, fenced: true}, "one by one: the stream is replicated and has allow_atomic false"},
		{"no batches", facts{replicas: 1, fenced: true}, "pipelined: the stream has allow_atomic false"},
		{"replicas, no batches, no fence", facts{replicas: 3}, "pipelined: the stream has allow_atomic false"},
	} {
		if got := test.facts.batches(); got != test.want {
			t.Errorf("%s: %q, want %q", test.why, got, test.want)
		}
	}
}

func TestStreamWithoutBatches(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}}); err != nil {
		t.Fatal(err)
	}
	s, p, _, _ := restart(t, options(t, server))
	batch := append(manyObjects(t, 2*atomicFrom, 1), manyObjects(t, 2*atomicFrom, 2)...)
	deliver(t, p, batch...)
	stored(t, js, batch, true)
	if got := s.Status().Batches; got != "pipelined: the stream has allow_atomic false" {
		t.Errorf("Batches is %q", got)
	}
}

// Where the stream knows an event by its id, the batch that has it is not lost
// for that.
func TestDuplicateInABatch(t *testing.T) {
	for _, test := range []struct {
		why   string
		known []int // of the batch, stored by somebody else
	}{
		{"the first", []int{0}},
		{"the last", []int{2*atomicFrom - 1}},
		{"some", []int{3, 5, 8, 13, 100}},
		{"all", upTo(2 * atomicFrom)},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			s, p, _, _ := restart(t, options(t, server))
			batch := append(manyObjects(t, atomicFrom, 1), manyObjects(t, atomicFrom, 2)...)
			for _, i := range test.known {
				m, err := s.message(&batch[i])
				if err != nil {
					t.Fatal(err)
				}
				m.Header[jetstream.MsgIDHeader] = []string{batch[i].ID()}
				if _, err := js.PublishMsg(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := p.Publish(t.Context(), batch); n != len(batch) || err != nil {
				t.Fatalf("Publish returned %d and %v", n, err)
			}
			stored(t, js, batch, true)
			next := manyObjects(t, 2*atomicFrom, 3)
			if n, err := p.Publish(t.Context(), next); n != len(next) || err != nil {
				t.Fatalf("the next Publish returned %d and %v", n, err)
			}
			record(t, p, nil, journal.State{Position: 3})
			if _, _, l, c := restart(t, options(t, server)); c.Gap != "" || len(l.rows) != 2*atomicFrom {
				t.Errorf("%d rows, claim: %+v", len(l.rows), c)
			}
		})
	}
}

// Deleting the control message takes nothing from the flow, and is told.
func TestControlMessageIsDeletedWhileRunning(t *testing.T) {
	for _, test := range []struct {
		why   string
		purge []jetstream.StreamPurgeOpt
		rows  []string // of a claim later
	}{
		{"it alone", []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject("crbridge.>")}, []string{"a 1", "b 2", "c 3"}},
		{"all of the stream", nil, []string{"b 2", "c 3"}},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			o := options(t, server)
			s, p, _, _ := restart(t, o)
			deliver(t, p, change(t, "a", 1))
			record(t, p, nil, journal.State{Position: 1})
			purge(t, js, test.purge...)
			deliver(t, p, change(t, "b", 2))
			record(t, p, nil, journal.State{Position: 2})
			if notes := s.Status().Notes; len(notes) != 1 || !strings.HasPrefix(notes[0], "control messages of stream K8S were deleted while the bridge ran") {
				t.Errorf("notes: %q", notes)
			}
			purge(t, js, jetstream.WithPurgeSubject(p.subject))
			record(t, p, nil, journal.State{Position: 3})
			deliver(t, p, change(t, "c", 3))
			_, _, l, c := restart(t, o)
			if !slices.Equal(l.versions(), test.rows) || c.State.Position != 3 || (c.Gap == "") != (len(test.rows) == 3) {
				t.Errorf("claim: %+v, rows %q", c, l.versions())
			}
			if _, err := p.Publish(t.Context(), nil); errors.Is(err, journal.ErrReplaced) {
				t.Error(err)
			}
		})
	}
}

// A purge is all flows', and so is what is said of it.
func TestPurgeIsToldOncePerSink(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	var log settingstest.LogBook
	o.Logger = log.Logger(slog.LevelInfo)
	s := open(t, o)
	var all []sinks.Publisher
	for _, route := range []string{"orders", "other"} {
		p := s.Publisher(sinks.Flow{Route: route, CRD: orders.CRD})
		claim(t, p, nil)
		all = append(all, p)
	}
	purge(t, js)
	for _, p := range all {
		record(t, p.(journal.Journal), nil, journal.State{Position: 2})
	}
	if notes := s.Status().Notes; len(notes) != 1 || !strings.Contains(notes[0], "`bridge resync --route R` for each route of this sink") {
		t.Errorf("notes: %q", notes)
	}
	if n := strings.Count(log.String(), "were deleted while the bridge ran"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

// A stream that gets the control subjects, or loses them, has or has not a
// fence from then on.
func TestFenceComesAndGoes(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	o.JetStream.Subjects = []string{"k8s.>"}
	s, p, _, _ := restart(t, o)
	for version, test := range []struct {
		why      string
		subjects []string
		fenced   bool
	}{
		{"as it was made", []string{"k8s.>"}, false},
		{"it gets them", []string{"k8s.>", "crbridge.K8S.>"}, true},
		{"it loses them", []string{"k8s.>"}, false},
	} {
		stream, err := js.Stream(t.Context(), "K8S")
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		config.Subjects = test.subjects
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		s.current.Load().stream.doubt() // as after anything that is not as expected
		deliver(t, p, change(t, "a", version+1))
		record(t, p, nil, journal.State{Position: uint64(version + 1)})
		if p.Fenced() != test.fenced {
			t.Errorf("%s: Fenced is %t", test.why, p.Fenced())
		}
	}
}
