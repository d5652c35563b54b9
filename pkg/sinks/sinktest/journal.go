package sinktest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// journalOf is the flow's publisher, as the journal that it has to be.
func journalOf(t *testing.T, s sinks.Sink, f sinks.Flow) (sinks.Publisher, journal.Journal) {
	t.Helper()
	p := s.Publisher(f)
	j, ok := p.(journal.Journal)
	if !ok {
		t.Fatalf("%T is no journal.Journal", p)
	}
	return p, j
}

// claimed claims a flow that is not claimed yet, and tells what came of it.
func claimed(t *testing.T, s sinks.Sink, f sinks.Flow) (sinks.Publisher, journal.Journal, *ledger, journal.Claim) {
	t.Helper()
	p, j := journalOf(t, s, f)
	l := &ledger{}
	return p, j, l, claimInto(t, j, l)
}

// claimInto claims until that works.
func claimInto(t *testing.T, j journal.Journal, l *ledger) (c journal.Claim) {
	t.Helper()
	eventually(t, "the flow is claimed", func() bool {
		var err error
		c, err = j.Claim(t.Context(), l)
		return err == nil
	})
	return c
}

// same compares a ledger with the rows that it is to have, in any order.
func same(t *testing.T, got *ledger, want ...journal.Row) {
	t.Helper()
	wanted := &ledger{}
	for _, row := range want {
		wanted.Restore(row)
	}
	if diff := cmp.Diff(wanted.all(), got.all()); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
}

func rowsOf(batch []events.Event) (rows []journal.Row) {
	for i := range batch {
		rows = append(rows, rowOf(&batch[i]))
	}
	return rows
}

// following is a state with something in every field.
func following(f sinks.Flow, position uint64) journal.State {
	return journal.State{
		CRD: f.CRD, Route: f.Route, Sink: "main", Phase: journal.Following, Incarnation: uid("crd").String(), Existing: true,
		Position: position, Version: "v1", Kind: "Order", Namespaced: true, Selection: "a selection", Resync: 3, Resyncing: 4,
	}
}

func record(t *testing.T, j journal.Journal, rows []journal.Row, state journal.State) {
	t.Helper()
	eventually(t, "the state is recorded", func() bool { return j.Record(t.Context(), rows, state) == nil })
}

func unknown(t *testing.T, h Harness) {
	_, j, l, c := claimed(t, open(t, h), flow(0))
	if diff := cmp.Diff(journal.Claim{}, c); diff != "" {
		t.Errorf("claim of a new flow (-want +got):\n%s", diff)
	}
	if l.given > 0 {
		t.Errorf("%d rows of a new flow", l.given)
	}
	if !j.Exact() || !j.Fenced() {
		t.Errorf("Exact is %t, Fenced is %t", j.Exact(), j.Fenced())
	}
	// From now on it is known, though nothing was said of it.
	_, _, l, c = claimed(t, open(t, h), flow(0))
	if !c.Known || l.given > 0 || c.Gap != "" {
		t.Errorf("claim of a flow that was claimed before: %+v and %d rows", c, l.given)
	}
}

func unclaimed(t *testing.T, h Harness) {
	s := open(t, h)
	p, j := journalOf(t, s, flow(0))
	claimed(t, s, flow(1)) // from here on the sink works
	for what, err := range map[string]error{
		"Publish": func() error {
			_, err := p.Publish(t.Context(), changes(t, flow(0), 1, 1, 1))
			return err
		}(),
		"Record":   j.Record(t.Context(), nil, following(flow(0), 1)),
		"Rebase":   j.Rebase(t.Context(), following(flow(0), 1)),
		"Snapshot": j.Snapshot(t.Context(), following(flow(0), 1), slices.Values([]journal.Row{})),
	} {
		if err == nil || errors.Is(err, journal.ErrReplaced) {
			t.Errorf("%s without a claim: %v", what, err)
		}
	}
	if stored := h.Stored(t); len(stored) > 0 {
		t.Errorf("%d events are stored", len(stored))
	}
}

func claimedAgain(t *testing.T, h Harness) {
	p, j, l, _ := claimed(t, open(t, h), flow(0))
	must(t, p, changes(t, flow(0), 3, 1, 3))
	record(t, j, nil, following(flow(0), 9))
	resets := l.resets
	c := claimInto(t, j, l)
	if l.given > 0 || l.resets > resets || !c.Known || c.Gap != "" {
		t.Errorf("claimed again: %+v, %d rows, %d resets", c, l.given, l.resets-resets)
	}
	if diff := cmp.Diff(following(flow(0), 9), c.State); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	must(t, p, changes(t, flow(0), 3, 4, 4))
}

func takenOver(t *testing.T, h Harness) {
	first, old, _, _ := claimed(t, open(t, h), flow(0))
	batch := changes(t, flow(0), 4, 1, 3)
	batch = append(batch,
		changeOf(t, flow(0), events.Created, "created", 10),
		changeOf(t, flow(0), events.Deleted, "object1", 11),
		changeOf(t, flow(0), events.Updated, "object2", 12))
	must(t, first, batch)
	record(t, old, nil, following(flow(0), 12))
	other := publisher(t, open(t, h), flow(1)) // a flow beside it is none of its business
	must(t, other, changes(t, flow(1), 2, 1, 2))

	second, next, l, c := claimed(t, open(t, h), flow(0))
	same(t, l, rowsOf(batch)...)
	if diff := cmp.Diff(journal.Claim{Known: true, State: following(flow(0), 12)}, c); diff != "" {
		t.Errorf("claim (-want +got):\n%s", diff)
	}
	stored := len(h.Stored(t))
	for what, try := range map[string]func() error{
		"Publish": func() error {
			n, err := first.Publish(t.Context(), changes(t, flow(0), 3, 20, 21))
			if n > 0 {
				t.Errorf("the first bridge has published %d events", n)
			}
			return err
		},
		"Record": func() error {
			return old.Record(t.Context(), []journal.Row{{Key: "default/late", UID: uid("late"), Version: 20}}, following(flow(0), 20))
		},
		"Rebase": func() error { return old.Rebase(t.Context(), following(flow(0), 20)) },
	} {
		eventually(t, what+" says that another has taken over", func() bool {
			err := try()
			if err == nil {
				t.Fatalf("%s of the first bridge succeeded", what)
			}
			fenced, is := errors.AsType[*journal.FencedError](err)
			if is && (fenced.Owner == "" || fenced.Flow != flow(0).String()) {
				t.Errorf("%s says %+v", what, fenced)
			}
			return is
		})
	}
	if got := len(h.Stored(t)); got != stored {
		t.Errorf("%d events of the first bridge are stored", got-stored)
	}
	must(t, second, changes(t, flow(0), 1, 30, 31))
	record(t, next, nil, following(flow(0), 31))
	must(t, other, changes(t, flow(1), 2, 3, 3))
	_, _, l, c = claimed(t, open(t, h), flow(0))
	same(t, l, append(rowsOf(batch), rowsOf(changes(t, flow(0), 1, 30, 31))...)...)
	if c.State.Position != 31 {
		t.Errorf("the position is %d", c.State.Position)
	}
}

func recorded(t *testing.T, h Harness) {
	p, j, _, _ := claimed(t, open(t, h), flow(0))
	rows := []journal.Row{
		{Key: "default/unsent", UID: uid("unsent"), Version: 5},
		{Key: "default/buried", UID: uid("buried"), Version: 6, Sent: true, Buried: true},
		{Key: "default/risen", UID: uid("risen"), Version: 7, Sent: true, Risen: true, Resync: 3},
		{Key: "default/gone", UID: uid("gone"), Version: 7, Gone: true},
		{Key: "cluster-scoped", UID: uid("scoped"), Version: 8, Sent: true, Resync: 9},
		{Key: "default/deselected", UID: uid("deselected"), Version: 9, Gone: true, Deselected: true},
		{Key: "default/listed", UID: uid("listed"), Version: 10, Sent: true, Listed: 12, Digest: [16]byte{1, 15: 2}},
	}
	for n := range 10_000 { // more than a message has
		rows = append(rows, journal.Row{Key: fmt.Sprint("default/many", n), UID: uid("many"), Version: uint64(n)})
	}
	batch := changes(t, flow(0), 2, 1, 2)
	must(t, p, batch[:2])
	record(t, j, rows, following(flow(0), 8))
	must(t, p, batch[2:])
	newer := journal.Row{Key: "default/unsent", UID: uid("unsent"), Version: 50}
	record(t, j, []journal.Row{newer}, following(flow(0), 50))
	_, _, l, c := claimed(t, open(t, h), flow(0))
	same(t, l, append(append(rows, newer), rowsOf(batch)...)...)
	if c.Gap != "" || c.State.Position != 50 {
		t.Errorf("claim: %+v", c)
	}
}

func snapshot(t *testing.T, h Harness) {
	s := open(t, h)
	p, j, l, _ := claimed(t, s, flow(0))
	var want []journal.Row
	for round := range 4 { // so that older ones are left behind, too
		batch := append(changes(t, flow(0), 5, 10*round+1, 10*round+3),
			changeOf(t, flow(0), events.Deleted, fmt.Sprint("object", round), 10*round+4))
		must(t, p, batch)
		l.take(batch)
		unsent := journal.Row{Key: fmt.Sprint("default/unsent", round), UID: uid("unsent"), Version: 1}
		l.Restore(unsent)
		record(t, j, []journal.Row{unsent}, following(flow(0), uint64(10*round+4)))
		if err := j.Snapshot(t.Context(), following(flow(0), uint64(10*round+4)), l.each()); err != nil {
			t.Fatal(err)
		}
		record(t, j, nil, following(flow(0), uint64(10*round+5)))
		want = append(append(want, rowsOf(batch)...), unsent)
	}
	tail := changes(t, flow(0), 2, 100, 101)
	must(t, p, tail)
	_, _, restored, c := claimed(t, open(t, h), flow(0))
	same(t, restored, append(want, rowsOf(tail)...)...)
	if diff := cmp.Diff(journal.Claim{Known: true, State: following(flow(0), 35)}, c); diff != "" {
		t.Errorf("claim (-want +got):\n%s", diff)
	}
	if most := len(l.all()) + len(tail); restored.given > most {
		t.Errorf("%d rows were given, at most %d are in the snapshot and after it", restored.given, most)
	}
}

func uncounted(t *testing.T, h Harness) {
	p, j, l, _ := claimed(t, open(t, h), flow(0))
	batch := changes(t, flow(0), 5, 1, 3)
	must(t, p, batch[:5])
	l.take(batch[:5])
	record(t, j, nil, following(flow(0), 1))
	if err := j.Snapshot(t.Context(), following(flow(0), 1), l.each()); err != nil {
		t.Fatal(err)
	}
	must(t, p, batch[5:])
	_, _, restored, c := claimed(t, open(t, h), flow(0)) // as if the bridge had crashed here
	same(t, restored, rowsOf(batch)...)
	if c.State.Position != 1 || c.Gap != "" {
		t.Errorf("claim: %+v", c)
	}
}

func rebased(t *testing.T, h Harness) {
	p, j, _, _ := claimed(t, open(t, h), flow(0))
	must(t, p, changes(t, flow(0), 2, 1000, 1001))
	if err := j.Rebase(t.Context(), following(flow(0), 3)); err != nil {
		t.Fatal(err)
	}
	after := changes(t, flow(0), 1, 5, 6)
	must(t, p, after)
	for range 2 { // a claim is a control message, too
		_, _, l, c := claimed(t, open(t, h), flow(0))
		same(t, l, rowOf(&after[1]), rowOf(&changes(t, flow(0), 2, 1001, 1001)[1]))
		if l.rebases != 1 || c.State.Position != 3 {
			t.Errorf("%d rebases, claim: %+v", l.rebases, c)
		}
	}
}

func claimedLater(t *testing.T, h Harness) {
	s := open(t, h)
	p, j, l, _ := claimed(t, s, flow(0))
	must(t, p, changes(t, flow(0), 3, 1, 2))
	h.Kill(t)
	_, other := journalOf(t, s, flow(1))
	for what, j := range map[string]journal.Journal{"claimed before": j, "new": other} {
		eventually(t, "a flow that was "+what+" cannot be claimed", func() bool {
			_, err := j.Claim(t.Context(), &ledger{})
			return err != nil
		})
	}
	h.Restart(t)
	claimInto(t, other, &ledger{})
	if c := claimInto(t, j, l); !c.Known || l.given > 0 {
		t.Errorf("%+v, and %d rows are given again", c, l.given)
	}
	must(t, p, changes(t, flow(0), 3, 3, 3))
	verify(t, h, changes(t, flow(0), 3, 1, 3))
}
