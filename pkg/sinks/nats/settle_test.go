package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

// forgetful has the stream know ids for the shortest time that there is.
func forgetful(o Options) Options {
	o.JetStream.DuplicateWindow = 100 * time.Millisecond
	return o
}

// forgotten waits until the stream of a forgetful sink no longer knows ids.
func forgotten() { <-time.After(200 * time.Millisecond) }

// manyObjects are events of distinct objects.
func manyObjects(t *testing.T, n, version int) (batch []events.Event) {
	for i := range n {
		batch = append(batch, change(t, fmt.Sprint("object", i), version))
	}
	return batch
}

// briefly is a context for an attempt that comes to nothing.
func briefly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func idsOf(batch []events.Event) (ids []string) {
	for i := range batch {
		ids = append(ids, batch[i].ID())
	}
	return ids
}

// stored compares the events in the stream with those that are to be there.
func stored(t *testing.T, js jetstream.JetStream, want []events.Event, sorted bool) {
	t.Helper()
	got, ids := storedIDs(t, js), idsOf(want)
	if sorted {
		slices.Sort(got)
		slices.Sort(ids)
	}
	if diff := cmp.Diff(ids, got); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// Events that were stored without an acknowledgement are not stored again,
// also when the stream no longer knows their ids.
func TestUnansweredEventsAreStoredOnce(t *testing.T) {
	for _, test := range []struct {
		why  string
		size int
		lose func(*testing.T, *natstest.Server, *proxy) (after func())
	}{
		{"the server stands still, one by one", 10, paused},
		{"the server stands still, as a whole", atomicFrom, paused},
		{"acknowledgements are lost, one by one", 10, deaf},
	} {
		for _, next := range []string{"Publish", "Claim", "Record"} {
			t.Run(test.why+", then "+next, func(t *testing.T) {
				server := natstest.Start(t, "")
				js := streamsOf(t, client(t, server.URL()))
				x := newProxy(t, server.Address)
				o := forgetful(options(t, server))
				o.URLs = []string{x.url()}
				s, p, l, _ := restart(t, o)
				first := manyObjects(t, test.size, 1)
				deliver(t, p, first...)
				second := manyObjects(t, test.size, 2)
				after := test.lose(t, server, x)
				if n, err := p.Publish(briefly(t), second); n != 0 || err == nil {
					t.Fatalf("Publish that nobody answers returned %d and %v", n, err)
				}
				after()
				eventually(t, "the sink is connected", func() (string, bool) { return s.Status().LastError, s.Status().Connected })
				forgotten()
				arrived := len(storedIDs(t, js)) - test.size
				switch next {
				case "Claim":
					claim(t, p, l)
					if l.given != arrived || l.resets != 1 {
						t.Errorf("%d rows were given, %d had arrived", l.given, arrived)
					}
					second = slices.DeleteFunc(second, func(e events.Event) bool { return l.rows[e.Subject()].Version == 2 })
				case "Record":
					record(t, p, nil, journal.State{Position: 1})
				}
				third := manyObjects(t, test.size, 3)
				deliver(t, p, append(second, third...)...)
				stored(t, js, append(append(first, manyObjects(t, test.size, 2)...), third...), next == "Claim" || arrived < test.size)
				record(t, p, nil, journal.State{Position: 3})
				_, _, l, c := restart(t, o)
				if c.Gap != "" || len(l.rows) != test.size {
					t.Errorf("%d rows, claim: %+v", len(l.rows), c)
				}
				for key, row := range l.rows {
					if row.Version != 3 {
						t.Errorf("%s is restored at %d", key, row.Version)
					}
				}
			})
		}
	}
}

func paused(t *testing.T, server *natstest.Server, _ *proxy) (after func()) {
	server.Pause(t)
	return func() { server.Resume(t) }
}

func deaf(_ *testing.T, _ *natstest.Server, x *proxy) (after func()) {
	x.set(false, true)
	return func() { x.cut() }
}

// What of an old connection arrives after the fence was moved comes to nothing.
func TestLateBytesAreRefused(t *testing.T) {
	for _, test := range []struct {
		why   string
		try   func(*testing.T, *streamPublisher, context.Context) error
		again func(*testing.T, *streamPublisher)
		late  int // messages that have to be refused
		want  []string
	}{
		{
			why: "events",
			try: func(t *testing.T, p *streamPublisher, ctx context.Context) error {
				_, err := p.Publish(ctx, batchOf(change(t, "a", 2), change(t, "b", 2), change(t, "c", 2)))
				return err
			},
			again: func(t *testing.T, p *streamPublisher) {
				deliver(t, p, change(t, "a", 2), change(t, "b", 2), change(t, "c", 2), change(t, "a", 3))
			},
			late: 3,
			want: []string{"a 3", "b 2", "c 2"},
		},
		{
			why: "rows and state",
			try: func(_ *testing.T, p *streamPublisher, ctx context.Context) error {
				return p.Record(ctx, []journal.Row{{Key: "default/late", UID: uid("late"), Version: 2}}, journal.State{Position: 2})
			},
			again: func(t *testing.T, p *streamPublisher) {
				record(t, p, []journal.Row{{Key: "default/a", UID: uid("a"), Version: 3, Sent: true}}, journal.State{Position: 3})
			},
			late: 1,
			want: []string{"a 3"},
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			x := newProxy(t, server.Address)
			o := forgetful(options(t, server))
			o.URLs = []string{x.url()}
			s, p, _, _ := restart(t, o)
			deliver(t, p, change(t, "a", 1))
			x.set(true, false)
			if err := test.try(t, p, briefly(t)); err == nil {
				t.Fatal("what is held up counts as stored")
			}
			old := x.cut()
			eventually(t, "the sink has another connection", func() (string, bool) {
				return s.Status().LastError, s.Status().Connected && s.current.Load() != nil && s.current.Load() != p.session
			})
			test.again(t, p)
			before := storedIDs(t, js)
			forgotten()
			x.release(t, old)
			eventually(t, "late messages are refused", func() (string, bool) {
				n := x.heard(`"err_code":10071`, old)
				return fmt.Sprint(n), n >= test.late
			})
			if diff := cmp.Diff(before, storedIDs(t, js)); diff != "" {
				t.Errorf("stored (-before +after late messages arrived):\n%s", diff)
			}
			deliver(t, p, change(t, "d", 9))
			record(t, p, nil, journal.State{Position: 9})
			_, _, l, c := restart(t, o)
			if diff := cmp.Diff(append(test.want, "d 9"), l.versions()); diff != "" || c.Gap != "" {
				t.Errorf("claim: %+v, rows (-want +got):\n%s", c, diff)
			}
		})
	}
}

// refuseLarge has the stream, but not the sink, know that an event is too large.
func refuseLarge(t *testing.T, js jetstream.JetStream, size int32) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "K8S")
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxMsgSize = size
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// Events behind one that the stream refuses are known to be stored.
func TestRefusedInTheMiddle(t *testing.T) {
	for _, test := range []struct{ why, config string }{
		{"too large", ""},
		{"denied", fmt.Sprintf(permissions, `"k8s.*.*.*.*.large"`, "")},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, test.config)
			url := server.URL()
			o := forgetful(options(t, server))
			if test.config != "" {
				url = "nats://admin:admin@" + server.Address
				asBridge(t, &o)
			}
			js := streamsOf(t, client(t, url))
			_, p, l, _ := restart(t, o)
			deliver(t, p, change(t, "a", 1))
			if test.config == "" {
				refuseLarge(t, js, 4096)
			}
			large := change(t, "large", 2)
			large.Data = make([]byte, 8192)
			batch := batchOf(change(t, "a", 2), large, change(t, "b", 2), change(t, "c", 2))
			for range 3 {
				n, err := p.Publish(t.Context(), batch)
				if err == nil || (n != 1 && len(batch) == 4) {
					t.Fatalf("Publish returned %d and %v", n, err)
				}
				batch = batch[n:]
				forgotten()
			}
			stored(t, js, batchOf(change(t, "a", 1), change(t, "a", 2), change(t, "b", 2), change(t, "c", 2)), false)
			// The flow knows of a alone; a snapshot of its ledger must not
			// make the stream's other rows forgotten.
			l.Restore(journal.Row{Key: "default/a", UID: uid("a"), Version: 2, Sent: true})
			for range 3 {
				takeSnapshot(t, p, l, journal.State{Position: 2})
			}
			if all := p.control.Snapshots; len(slices.Compact(slices.Clone(all))) != len(all) {
				t.Errorf("the control message refers to one snapshot twice: %+v", all)
			}
			_, q, restored, c := restart(t, o)
			if diff := cmp.Diff([]string{"a 2", "b 2", "c 2"}, restored.versions()); diff != "" || c.Gap != "" {
				t.Errorf("claim: %+v, rows (-want +got):\n%s", c, diff)
			}
			deliver(t, q, change(t, "b", 3))
		})
	}
}

// A bridge that was shut out while it did not know what had become of a batch
// sends none of it again.
func TestFencedWhileUnanswered(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := forgetful(options(t, server))
	_, p, _, _ := restart(t, o)
	deliver(t, p, change(t, "a", 1))
	server.Pause(t)
	if _, err := p.Publish(briefly(t), batchOf(change(t, "a", 2), change(t, "b", 2))); err == nil {
		t.Fatal("nobody answers, and it is stored")
	}
	server.Resume(t)
	_, q, l, _ := restart(t, o)
	before := storedIDs(t, js)
	forgotten()
	untilFenced(t, func() error {
		_, err := p.Publish(t.Context(), batchOf(change(t, "a", 2), change(t, "b", 2)))
		return err
	})
	if diff := cmp.Diff(before, storedIDs(t, js)); diff != "" || len(l.rows) != 2 {
		t.Errorf("rows %q, stored (-before +after):\n%s", l.versions(), diff)
	}
	deliver(t, q, change(t, "a", 3))
	if _, err := p.Claim(t.Context(), &ledger{}); err == nil {
		t.Error("a bridge that was shut out can go on")
	}
}

func untilFenced(t *testing.T, try func() error) {
	t.Helper()
	eventually(t, "another has taken over", func() (string, bool) {
		err := try()
		if err == nil {
			t.Fatal("it succeeded")
		}
		_, fenced := errors.AsType[*journal.FencedError](err)
		return err.Error(), fenced
	})
}
