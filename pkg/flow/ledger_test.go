package flow

import (
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/crbridge/crbridge/pkg/journal"
)

// ledgerOf is a ledger with that many rows; versions begin at 1.
func ledgerOf(rows int) *ledger {
	l := newLedger()
	for n := range rows {
		l.Restore(journal.Row{Key: thingKey(n), UID: uuid.UUID{15: 1}, Version: uint64(n + 1), Sent: true})
	}
	return l
}

// tell pends items and returns them for an ack.
func (l *ledger) tell(items ...item) []item {
	for n := range items {
		l.pend(&items[n])
	}
	return items
}

func change(n int, version uint64, gone bool) item {
	return item{key: thingKey(n), row: row{uid: uuid.UUID{15: 1}, version: version}, gone: gone, order: version}
}

// TestSnapshotWhileRowsChange changes a ledger after each row of a snapshot: the
// rows that are not touched are in it once, and an object that dies and comes
// back, again and again, is in it, whichever it is at the moment.
func TestSnapshotWhileRowsChange(t *testing.T) {
	const steady, flaps, passing = 5000, 50, 20_000
	l := ledgerOf(steady + flaps)
	version := uint64(steady + flaps + 1)
	seen := map[string]int{}
	passed := 0
	for r := range l.all() {
		seen[r.Key]++
		for n := range flaps {
			version++
			l.ack(l.tell(change(steady+n, version, (passed+n)%2 == 0)))
		}
		// The table grows first and shrinks then, by names that are used once.
		if n := steady + flaps + passed%passing; passed < passing {
			version++
			l.ack(l.tell(change(n, version, false)))
		}
		passed++
	}
	for n := range steady {
		if times := seen[thingKey(n)]; times != 1 {
			t.Errorf("%s is in it %d times", thingKey(n), times)
		}
	}
	for n := range flaps {
		if seen[thingKey(steady+n)] != 1 {
			t.Errorf("%s, which dies and comes back, is in it %d times", thingKey(steady+n), seen[thingKey(steady+n)])
		}
	}
}

// TestSnapshotBesideAcks writes a snapshot while another goroutine acknowledges
// what empties the ledger.
func TestSnapshotBesideAcks(t *testing.T) {
	const rows, steady = 20_000, 100
	l := ledgerOf(rows)
	var acks sync.WaitGroup
	defer acks.Wait()
	first := make(chan struct{})
	acks.Go(func() {
		<-first
		for n := steady; n < rows; n++ {
			l.ack(l.tell(change(n, uint64(rows+n), true)))
		}
	})
	seen := map[string]int{}
	for r := range l.all() {
		if len(seen) == 0 {
			close(first)
		}
		seen[r.Key]++
	}
	for n := range rows { // as a row, or as one of the dead
		if times := seen[thingKey(n)]; times != 1 {
			t.Errorf("%s is in it %d times", thingKey(n), times)
		}
	}
}

// TestSnapshotHoldsNobodyUp shows how much of a ledger is read under its lock:
// when the first row is there, no more than a piece has been.
func TestSnapshotHoldsNobodyUp(t *testing.T) {
	l := ledgerOf(20 * atOnce)
	rows := 0
	for range l.all() {
		if rows++; rows == 1 {
			l.Reset()
		}
	}
	if rows < atOnce || rows > atOnce+10*mostPerPage {
		t.Errorf("%d rows were read at once, want about %d", rows, atOnce)
	}
}

// TestThoseWhileDraining has the ends of objects put on their way, and become
// durable, while the objects are gone over: each comes once, as it was.
func TestThoseWhileDraining(t *testing.T) {
	const rows = 5000
	l := ledgerOf(rows)
	var onTheirWay []item
	want := map[string]uint64{}
	for n := range rows {
		want[thingKey(n)] = uint64(n + 1)
	}
	for n := range uint64(300) {
		known, ends, comes := int(n), int(300+n), int(rows+n)
		onTheirWay = append(onTheirWay, l.tell(change(known, rows+3*n+1, false), change(ends, rows+3*n+2, true), change(comes, rows+3*n+3, false))...)
		want[thingKey(known)], want[thingKey(comes)] = rows+3*n+1, rows+3*n+3
		delete(want, thingKey(ends))
	}

	got := map[string]uint64{}
	version := uint64(2 * rows)
	for one := range l.upTo(2 * rows) {
		if _, again := got[one.key]; again {
			t.Errorf("%s comes again", one.key)
		}
		got[one.key] = one.version
		l.ack(onTheirWay)
		version++
		onTheirWay = l.tell(item{key: one.key, row: row{uid: one.uid, version: version}, gone: true, order: version})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects and their versions (-want +got):\n%s", diff)
	}
	l.ack(onTheirWay)
	if l.objects() != 0 || l.rows.len() != 0 {
		t.Errorf("%d objects are left, and %d rows", l.objects(), l.rows.len())
	}
	if next := slices.Collect(l.upTo(version)); len(next) != 0 {
		t.Errorf("%s comes out of an empty ledger", strconv.Quote(next[0].key))
	}
}
