package flow

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/journal"
)

const (
	// saveEvery is how often a flow's position is recorded at most.
	saveEvery = time.Second
	// mostUnsaved rows that no event tells wait for that.
	mostUnsaved = 4096
)

// saver knows what of a run has to be recorded, and when. It belongs to
// deliver, whose calls follow one another, and to finish after that.
type saver struct {
	rows map[string]journal.Row // that no event in the journal's place tells, by key
	// digestsStay: rows may have their digest.
	digestsStay bool

	dirty  bool      // something is to be recorded
	urgent bool      // and others wait for it
	last   time.Time // when something was recorded
	timer  *time.Timer

	snapshot    chan struct{} // closed when the one that is being written is
	snapshotNot context.CancelFunc
	snapshotAt  uint64 // changes of the ledger when the last one began
	refer       bool   // one is written that the record does not refer to yet
}

// take goes on with what another run could not record.
func (s *saver) take(rows map[string]journal.Row) {
	s.rows, s.dirty = rows, len(rows) > 0
}

// note takes what an item leaves to be recorded.
func (s *saver) note(i *item, exact bool) {
	s.dirty = true
	s.urgent = s.urgent || i.listed || slices.ContainsFunc(i.also, func(r reached) bool { return r.listed })
	_, unsaved := s.rows[i.key]
	switch {
	case i.key == "":
		return
	case exact && i.event != nil:
		// The event itself is the row. What was to be recorded of the object
		// before would come after it, and is older.
		delete(s.rows, i.key)
		return
	case exact && i.silent && !unsaved:
		return
	}
	if s.rows == nil {
		s.rows = map[string]journal.Row{}
	}
	row := journal.Row{
		Key: i.key, UID: i.row.uid, Version: i.row.version, Gone: i.gone,
		Sent: i.row.is(sent), Buried: i.row.is(buried), Risen: i.row.is(risen),
		Deselected: i.row.is(deselected), Listed: i.raised,
	}
	if s.digestsStay {
		row.Digest = i.row.digest
	}
	s.rows[i.key] = row
	s.urgent = s.urgent || len(s.rows) >= mostUnsaved
}

// wake is when something is to be recorded although nothing more happens; nil
// where there is nothing.
func (s *saver) wake() <-chan time.Time {
	if s.snapshot != nil {
		select {
		case <-s.snapshot:
			s.snapshotNot()
			s.snapshot, s.refer, s.dirty = nil, true, true
		default:
		}
	}
	if !s.dirty && s.snapshot == nil {
		return nil
	}
	wait := saveEvery // for the snapshot
	if s.dirty {
		wait = max(0, saveEvery-time.Since(s.last))
	}
	if s.timer == nil {
		s.timer = time.NewTimer(wait)
	} else {
		s.timer.Reset(wait)
	}
	return s.timer.C
}

func (s *saver) due() bool {
	return s.dirty && (s.urgent || time.Since(s.last) >= saveEvery)
}

// wait waits for a snapshot that is being written to be given up.
func (s *saver) wait() {
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.snapshot != nil {
		s.snapshotNot()
		<-s.snapshot
		s.snapshot = nil
	}
}

// save records the flow's position and what else no event tells. It tries
// until the sink takes it, and tells whether it did before ctx ended.
func (r *Run) save(ctx context.Context) bool {
	s := &r.saver
	state := r.stateNow()
	if len(s.rows) == 0 && !s.refer && state.Equal(r.flow.state) {
		s.dirty, s.urgent, s.last = false, false, time.Now()
		r.startSnapshot() //nolint:contextcheck // as below
		return true
	}
	failpoint.Here(failpoint.AfterList)
	if !r.persist(ctx, func() error { return r.flow.journal.Record(ctx, slices.Collect(maps.Values(s.rows)), state) }) {
		return false
	}
	r.flow.state = state
	s.rows, s.dirty, s.urgent, s.refer, s.last = nil, false, false, false, time.Now()
	if state.Phase == journal.Following {
		r.flow.condition.setListed()
	}
	r.startSnapshot() //nolint:contextcheck // it lives as long as the delivering, not as the record
	return true
}

// persist does something with the journal until it is done. It tells whether
// that was before ctx ended.
func (r *Run) persist(ctx context.Context, do func() error) bool {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := do()
		if err == nil {
			r.flow.condition.setSink(nil)
			return true
		}
		if ctx.Err() != nil || !r.again(ctx, err, retry) {
			return false
		}
	}
}

// startSnapshot writes a snapshot beside what else goes on, if it is time.
func (r *Run) startSnapshot() {
	s := &r.saver
	rows, changed := r.flow.ledger.size()
	if s.snapshot != nil || !r.flow.journal.SnapshotDue(rows) {
		return
	}
	s.snapshotAt = changed
	done := make(chan struct{})
	var ctx context.Context
	ctx, s.snapshotNot = context.WithCancel(r.delivering)
	s.snapshot = done
	state := r.flow.state
	go func() {
		defer close(done)
		r.snapshot(ctx, state)
	}()
}

// lastSnapshot writes one if anything is different from the last, and has it
// count.
func (r *Run) lastSnapshot(ctx context.Context) {
	s := &r.saver
	if s.snapshot != nil {
		<-s.snapshot
		s.snapshotNot()
		s.snapshot, s.refer = nil, true
	}
	_, changed := r.flow.ledger.size()
	if changed == s.snapshotAt && !s.refer {
		return
	}
	if changed == s.snapshotAt || r.snapshot(ctx, r.flow.state) {
		if err := r.flow.journal.Record(ctx, nil, r.flow.state); err != nil {
			r.flow.log.Debug("the last snapshot is not referred to; the next start reads more of the stream", "error", err)
		}
	}
}

// snapshot writes one. That it fails is no harm: the way back is longer.
func (r *Run) snapshot(ctx context.Context, state journal.State) bool {
	err := r.flow.journal.Snapshot(ctx, state, func(yield func(journal.Row) bool) {
		for row := range r.flow.ledger.all() {
			if !yield(row) {
				return
			}
			failpoint.Here(failpoint.InSnapshot)
		}
	})
	if err != nil && ctx.Err() == nil {
		r.flow.log.Warn("the ledger could not be put down; the next start reads more of the stream", "error", err)
	}
	return err == nil
}
