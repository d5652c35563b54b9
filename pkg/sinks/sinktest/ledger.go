package sinktest

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
)

// ledger is what a journal has restored: the newest row of each key.
type ledger struct {
	rows    map[string]journal.Row
	since   map[string]int // for each row, the rebases before it was given
	given   int            // rows, in all
	resets  int
	rebases int
}

// Reset implements journal.Restorer.
func (l *ledger) Reset() {
	l.rows, l.since = nil, nil
	l.resets++
}

// Restore implements journal.Restorer.
func (l *ledger) Restore(row journal.Row) {
	l.given++
	if l.rows == nil {
		l.rows, l.since = map[string]journal.Row{}, map[string]int{}
	}
	if row.Version >= l.rows[row.Key].Version || l.since[row.Key] < l.rebases {
		l.rows[row.Key], l.since[row.Key] = row, l.rebases
	}
}

// Rebase implements journal.Restorer.
func (l *ledger) Rebase() { l.rebases++ }

// all are the rows, by key.
func (l *ledger) all() []journal.Row {
	return slices.SortedFunc(maps.Values(l.rows), func(a, b journal.Row) int { return cmp.Compare(a.Key, b.Key) })
}

// take is what a flow does with the events of a batch that are durable.
func (l *ledger) take(batch []events.Event) {
	for i := range batch {
		l.Restore(rowOf(&batch[i]))
	}
}

// rowOf is what the event says of its object.
func rowOf(e *events.Event) journal.Row {
	version, _ := strconv.ParseUint(e.Attribute(events.ExtResourceVersion), 10, 64)
	id, _ := uuid.Parse(e.Attribute(events.ExtUID))
	return journal.Row{
		Key: e.Subject(), UID: id, Version: version, Gone: e.Attribute("type") == events.Deleted.CloudEvent(), Sent: true,
	}
}

// each is all as Snapshot wants it.
func (l *ledger) each() iter.Seq[journal.Row] { return slices.Values(l.all()) }
