package nats

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

// purge deletes messages of the stream.
func purge(t *testing.T, js jetstream.JetStream, options ...jetstream.StreamPurgeOpt) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "K8S")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), options...); err != nil {
		t.Fatal(err)
	}
}

// What was deleted while no bridge ran is told at the next claim, unless it is
// not needed.
func TestGap(t *testing.T) {
	const way = "; objects are compared with what is left of it, and some may be told of again (bridge resync tells of all)"
	for _, test := range []struct {
		why      string
		snapshot bool // before the last two events
		purge    []jetstream.StreamPurgeOpt
		gap      string
		known    bool
		rows     []string
	}{
		{
			why: "the oldest", purge: []jetstream.StreamPurgeOpt{jetstream.WithPurgeSequence(4)}, known: true,
			gap:  "stream K8S begins at 4, and events of this flow since 2 have not been read: its retention is shorter than the time without a snapshot, or it was purged" + way,
			rows: []string{"c 3", "d 4"},
		},
		{
			why: "the oldest, which the snapshot has", snapshot: true, purge: []jetstream.StreamPurgeOpt{jetstream.WithPurgeSequence(4)},
			known: true, rows: []string{"a 1", "b 2", "c 3", "d 4"},
		},
		{
			why: "one object's", purge: []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject("k8s.*.*.*.*.c")}, known: true,
			gap:  "stream K8S has 3 of 4 events of this flow since 2: others were deleted from it" + way,
			rows: []string{"a 1", "b 2", "d 4"},
		},
		{
			why: "one object's, which the snapshot has", snapshot: true, purge: []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject("k8s.*.*.*.*.a")},
			known: true, rows: []string{"a 1", "b 2", "c 3", "d 4"},
		},
		{
			why: "one object's after the snapshot", snapshot: true, purge: []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject("k8s.*.*.*.*.d")},
			known: true,
			gap:   "stream K8S has 1 of 2 events of this flow since 6: others were deleted from it" + way,
			rows:  []string{"a 1", "b 2", "c 3"},
		},
		{
			why: "the control messages", purge: []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject("crbridge.>")}, known: true,
			gap:  "stream K8S begins at 2 and the flow's control message is gone: it was purged, or its retention is shorter than the bridge was down" + way,
			rows: []string{"a 1", "b 2", "c 3", "d 4"},
		},
		{
			why: "all of it: the route is new to the stream, as far as anybody can tell", known: false,
		},
		{
			why: "all of it, and a snapshot is left", snapshot: true, known: true,
			gap:  " and the flow's control message is gone: it was purged, or its retention is shorter than the bridge was down" + way,
			rows: []string{"a 1", "b 2"},
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			_, p, l, _ := restart(t, options(t, server)) // 1
			first := batchOf(change(t, "a", 1), change(t, "b", 2))
			deliver(t, p, first...) // 2, 3
			if test.snapshot {
				for i := range first {
					l.Restore(rowOf(&first[i]))
				}
				takeSnapshot(t, p, l, journal.State{Position: 2})
			}
			deliver(t, p, change(t, "c", 3), change(t, "d", 4))
			record(t, p, nil, journal.State{Position: 4})
			record(t, p, nil, journal.State{Position: 5})
			purge(t, js, test.purge...)
			_, p, got, c := restart(t, options(t, server))
			if !strings.HasSuffix(c.Gap, test.gap) || (c.Gap == "") != (test.gap == "") || c.Known != test.known {
				t.Errorf("claim: %+v\nwant known %t and the gap %s", c, test.known, test.gap)
			}
			if diff := cmp.Diff(test.rows, got.versions()); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			record(t, p, nil, c.State) // the flow has compared
			if _, _, _, c := restart(t, options(t, server)); c.Gap != "" {
				t.Errorf("told once more: %s", c.Gap)
			}
		})
	}
}

// takeSnapshot writes a snapshot that counts.
func takeSnapshot(t *testing.T, j journal.Journal, l *ledger, state journal.State) {
	t.Helper()
	record(t, j, nil, state)
	if err := j.Snapshot(t.Context(), state, l.each()); err != nil {
		t.Fatal(err)
	}
	record(t, j, nil, state)
}

// replaced tries until the claim is said to be void.
func replaced(t *testing.T, try func() error) {
	t.Helper()
	eventually(t, "the claim is void", func() (string, bool) {
		err := try()
		if err == nil {
			t.Fatal("it succeeded, and the stream is another")
		}
		return err.Error(), errors.Is(err, journal.ErrReplaced)
	})
}

// A stream that was made anew is a new start, however it is found out.
func TestStreamIsReplacedWhileRunning(t *testing.T) {
	create := func(t *testing.T, js jetstream.JetStream) {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		why     string
		between func(*testing.T, jetstream.JetStream)
		try     func(*testing.T, *Sink, *streamPublisher) error
	}{
		{"publishing to a new one", create, func(t *testing.T, _ *Sink, p *streamPublisher) error {
			_, err := p.Publish(t.Context(), batchOf(change(t, "a", 2)))
			return err
		}},
		{"publishing to none", func(*testing.T, jetstream.JetStream) {}, func(t *testing.T, _ *Sink, p *streamPublisher) error {
			_, err := p.Publish(t.Context(), batchOf(change(t, "a", 2)))
			return err
		}},
		{"recording in a new one", create, func(t *testing.T, _ *Sink, p *streamPublisher) error {
			return p.Record(t.Context(), nil, journal.State{Position: 2})
		}},
		{"recording in none", func(*testing.T, jetstream.JetStream) {}, func(t *testing.T, _ *Sink, p *streamPublisher) error {
			return p.Record(t.Context(), nil, journal.State{Position: 2})
		}},
		{"the background finds out, and the flow later", create, func(t *testing.T, s *Sink, p *streamPublisher) error {
			s.current.Load().stream.doubt()
			p.check(t.Context())
			return p.Record(t.Context(), nil, journal.State{Position: 2})
		}},
		{"another flow has claimed in it", create, func(t *testing.T, s *Sink, p *streamPublisher) error {
			other := orders
			other.Route = "other"
			claim(t, s.Publisher(other), nil)
			return p.Record(t.Context(), nil, journal.State{Position: 2})
		}},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			s, p, l, _ := restart(t, options(t, server))
			deliver(t, p, change(t, "a", 1))
			l.Restore(journal.Row{Key: "default/a", UID: uid("a"), Version: 1, Sent: true})
			takeSnapshot(t, p, l, journal.State{Position: 1, Phase: journal.Following})
			if err := js.DeleteStream(t.Context(), "K8S"); err != nil {
				t.Fatal(err)
			}
			test.between(t, js)
			replaced(t, func() error { return test.try(t, s, p) })
			for what, try := range map[string]func() error{
				"Record":   func() error { return p.Record(t.Context(), nil, journal.State{}) },
				"Snapshot": func() error { return p.Snapshot(t.Context(), journal.State{}, l.each()) },
				"Publish": func() error {
					_, err := p.Publish(t.Context(), batchOf(change(t, "a", 3)))
					return err
				},
			} {
				if err := try(); !errors.Is(err, journal.ErrReplaced) {
					t.Errorf("%s of what was not claimed again: %v", what, err)
				}
			}
			resets := l.resets
			if c := claim(t, p, l); c.Known || c.Gap != "" || !c.State.Equal(journal.State{}) || l.resets == resets || len(l.rows) > 0 {
				t.Errorf("claim: %+v, %d resets, rows %q; want that of a new flow", c, l.resets-resets, l.versions())
			}
			deliver(t, p, change(t, "a", 4))
			if _, _, l, c := restart(t, options(t, server)); !c.Known || c.Gap != "" || len(l.rows) != 1 {
				t.Errorf("the next claim: %+v, rows %q", c, l.versions())
			}
		})
	}
}

// A restored stream is the same stream, with less in it.
func TestStreamIsPutBack(t *testing.T) {
	for _, test := range []struct {
		why    string
		before func(*testing.T, *streamPublisher) // the backup
		lost   func(*testing.T, *streamPublisher)
		other  int // events of another flow, before this one is used again
		want   []string
	}{
		{
			why:    "it has an older control message",
			before: func(t *testing.T, p *streamPublisher) { record(t, p, nil, journal.State{Position: 1}) },
			lost: func(t *testing.T, p *streamPublisher) {
				deliver(t, p, change(t, "b", 2))
				record(t, p, nil, journal.State{Position: 2})
			},
			want: []string{"a 1"},
		},
		{
			why:    "it has the control message, and not the events since",
			before: func(t *testing.T, p *streamPublisher) { record(t, p, nil, journal.State{Position: 1}) },
			lost:   func(t *testing.T, p *streamPublisher) { deliver(t, p, change(t, "b", 2)) },
			want:   []string{"a 1"},
		},
		{
			why:    "others have filled it again",
			before: func(t *testing.T, p *streamPublisher) { record(t, p, nil, journal.State{Position: 1}) },
			lost:   func(t *testing.T, p *streamPublisher) { deliver(t, p, change(t, "b", 2)) },
			other:  20,
			want:   []string{"a 1"},
		},
		{
			why:    "a snapshot is of what is no more",
			before: func(*testing.T, *streamPublisher) {},
			lost: func(t *testing.T, p *streamPublisher) {
				deliver(t, p, change(t, "b", 2))
				l := &ledger{}
				for key, version := range map[string]uint64{"a": 1, "b": 2} {
					l.Restore(journal.Row{Key: "default/" + key, UID: uid(key), Version: version, Sent: true})
				}
				takeSnapshot(t, p, l, journal.State{Position: 2})
			},
			want: []string{"a 1"},
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			o := options(t, server)
			o.JetStream.DuplicateWindow = 100 * time.Millisecond
			s, p, _, _ := restart(t, o)
			deliver(t, p, change(t, "a", 1))
			test.before(t, p)
			server.Stop(t)
			restore := server.Save(t)
			server.Start(t)
			eventually(t, "the sink is back", func() (string, bool) { return "", s.Status().Connected })
			test.lost(t, p)
			server.Stop(t)
			restore(t)
			server.Start(t)
			eventually(t, "the sink is back", func() (string, bool) { return "", s.Status().Connected })
			if test.other > 0 {
				f := orders
				f.Route = "other"
				other := s.Publisher(f)
				claim(t, other, nil)
				for version := range test.other {
					deliver(t, other, changeOf(t, f, events.Updated, "x", version+1))
				}
				s.current.Load().stream.doubt() // it is looked at again, and is long enough
			}
			replaced(t, func() error {
				_, err := p.Publish(t.Context(), batchOf(change(t, "c", 3)))
				return err
			})
			l := &ledger{}
			c := claim(t, p, l)
			if c.Gap != "" || !c.Known || c.State.Position > 1 || l.resets == 0 {
				t.Errorf("claim: %+v, %d resets", c, l.resets)
			}
			if diff := cmp.Diff(test.want, l.versions()); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			deliver(t, p, change(t, "b", 2), change(t, "c", 3)) // the flow sees that b is not there
			_, _, l, _ = restart(t, o)
			if diff := cmp.Diff([]string{"a 1", "b 2", "c 3"}, l.versions()); diff != "" {
				t.Errorf("rows in the end (-want +got):\n%s", diff)
			}
		})
	}
}

// Snapshots of claims that the stream knows nothing of any more must not be
// taken for newer ones, nor the bridge that wrote them for the one that has
// the flow.
func TestEpochAfterAPurge(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	restart(t, o)
	restart(t, o)
	_, older, l, _ := restart(t, o)
	deliver(t, older, change(t, "a", 1))
	l.Restore(journal.Row{Key: "default/a", UID: uid("a"), Version: 1, Sent: true})
	takeSnapshot(t, older, l, journal.State{Position: 1})
	purge(t, js)
	_, p, l, c := restart(t, o)
	if !c.Known || !slices.Equal(l.versions(), []string{"a 1"}) || p.control.Epoch <= older.control.Epoch {
		t.Errorf("claim: %+v of epoch %d, rows %q; the one before was of %d", c, p.control.Epoch, l.versions(), older.control.Epoch)
	}
	untilFenced(t, func() error { return older.Record(t.Context(), nil, journal.State{Position: 9}) })
	deliver(t, p, change(t, "b", 2))
	l.Restore(journal.Row{Key: "default/b", UID: uid("b"), Version: 2, Sent: true})
	takeSnapshot(t, p, l, journal.State{Position: 2})
	purge(t, js, jetstream.WithPurgeSubject("crbridge.>"))
	purge(t, js, jetstream.WithPurgeSubject("k8s.*.*.*.*.b"))
	if _, _, l, c := restart(t, o); !slices.Equal(l.versions(), []string{"a 1", "b 2"}) {
		t.Errorf("the next claim: %+v, rows %q", c, l.versions())
	}
}
