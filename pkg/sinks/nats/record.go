package nats

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// purgeEvery is after how many control messages the older ones of the
	// flow are deleted.
	purgeEvery = 32
	// A snapshot is due when the tail has leastTail rows and half as many as
	// the ledger has, so that writing snapshots costs no more than a constant
	// for each event.
	leastTail = 10_000
	// snapshotPause is the least time between two snapshots of a flow.
	snapshotPause = 10 * time.Second
)

// Exact implements journal.Journal.
func (p *streamPublisher) Exact() bool { return p.foreign == "" }

// Fenced implements journal.Journal. A fence around the ledger of events that
// go elsewhere is none around the events.
func (p *streamPublisher) Fenced() bool { return p.behindFence.Load() && p.foreign == "" }

// Record implements journal.Journal.
func (p *streamPublisher) Record(ctx context.Context, rows []journal.Row, state journal.State) error {
	return p.record(ctx, rows, state, false)
}

// Rebase implements journal.Journal.
func (p *streamPublisher) Rebase(ctx context.Context, state journal.State) error {
	return p.record(ctx, nil, state, true)
}

func (p *streamPublisher) record(ctx context.Context, rows []journal.Row, state journal.State, rebase bool) error {
	if !p.sink.publishing.Enter() {
		return p.sink.fail(sinks.ErrClosed)
	}
	defer p.sink.publishing.Leave()
	if err := p.turn.Acquire(ctx, 1); err != nil {
		return p.sink.fail(err)
	}
	defer p.turn.Release(1)
	if !p.claimed {
		return p.sink.fail(p.unclaimed())
	}
	p.tell()
	if err := p.write(ctx, rows, state, rebase); err != nil {
		return p.sink.fail(err)
	}
	p.tell() // the rows are the caller's
	return nil
}

// write records rows and state. The turn is held.
func (p *streamPublisher) write(ctx context.Context, rows []journal.Row, state journal.State, rebase bool) error {
	ses, f, err := p.ready(ctx)
	if err != nil {
		return err
	}
	if !f.fenced {
		// There is nowhere to write to. What is lost with it is told as a note
		// of the stream; the state is in the next snapshot.
		next, outdated := p.next(state)
		p.control = next
		p.refer()
		p.tidy(ctx, ses, f, outdated)
		return nil
	}
	if err := p.settle(ctx, ses, f, func() {}); err != nil {
		return err
	}
	failpoint.Here(failpoint.BeforeRecord)
	if len(rows) > 0 {
		if err := p.writeRows(ctx, ses, rows); err != nil {
			return err
		}
		failpoint.Here(failpoint.BetweenRows)
	}
	next, outdated := p.next(state)
	next.Rebase = rebase
	sequence, err := p.sink.writeControl(ctx, ses, p.subject, &next, p.fence)
	if err != nil {
		p.ambiguous = true // the next call finds out whether it was written, and by whom if not by this
		return p.explainRecord(err)
	}
	if rebase {
		next.Base, next.Rebase = sequence, false
	}
	p.control, p.fence, p.settled = next, sequence, sequence
	p.refer()
	p.tidy(ctx, ses, f, outdated)
	if rebase {
		return p.write(ctx, nil, state, false) // so that the last control message names the base
	}
	return nil
}

// next is the control message that comes next, and the snapshots that it does
// not refer to any more.
func (p *streamPublisher) next(state journal.State) (next control, outdated []snapshotRef) {
	next = p.control
	next.State, next.Time, next.Tail = state, time.Now().UTC(), p.count
	if w := p.written; w != nil {
		others := slices.DeleteFunc(slices.Clone(next.Snapshots), func(ref snapshotRef) bool { return ref == w.ref })
		next.Snapshots = append([]snapshotRef{w.ref}, others...)
		if len(next.Snapshots) > snapshotsKept {
			outdated = next.Snapshots[snapshotsKept:]
			next.Snapshots = next.Snapshots[:snapshotsKept:snapshotsKept]
		}
		next.Tail = w.since(p.count)
		if w.ref.Sequence >= p.elsewhere {
			next.Pattern = p.pattern
		}
	}
	return next, outdated
}

// explainRecord says why a control message could not be written.
func (p *streamPublisher) explainRecord(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		return fmt.Errorf("stream %s does not take the flow's control message: %s (%d)", p.sink.jetstream.Stream, api.Description, api.ErrorCode)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("no stream takes the subject %s", p.subject)
	}
	return fmt.Errorf("control message: %w", err)
}

// writeRows writes rows that no event tells, to a subject of their own: a
// stream may keep only so many messages of one.
func (p *streamPublisher) writeRows(ctx context.Context, ses *session, rows []journal.Row) error {
	const most = 4096 // of some 80 bytes each
	for len(rows) > 0 {
		n := min(len(rows), most)
		p.numbers++
		m, err := rowsMessage(fmt.Sprintf("%s.%s.%d.%d", p.subject, rowsToken, p.control.Epoch, p.numbers), rows[:n])
		if err != nil {
			return err
		}
		sequence, err := p.sink.put(ctx, ses, m, p.subject, p.fence)
		if err != nil {
			p.ambiguous = true
			return p.explainRecord(err)
		}
		p.settled = sequence
		p.add(sequence, uint64(len(rows[:n])))
		rows = rows[n:]
	}
	return nil
}

// refer takes note that the newest snapshot counts from now on.
func (p *streamPublisher) refer() {
	if w := p.written; w != nil {
		p.count, p.since = w.since(p.count), w.began
		p.toldCount -= min(p.toldCount, w.count)
		p.weight -= min(p.weight, w.weight)
		p.toldWeight -= min(p.toldWeight, w.weight)
		p.written, p.alone = nil, false
	}
}

// tidy deletes what the control message that was just written makes needless.
// What fails here is no harm, and is tried again with the next.
func (p *streamPublisher) tidy(ctx context.Context, ses *session, f facts, outdated []snapshotRef) {
	if len(outdated) > 0 {
		if store, err := ses.shelf.open(ctx, p.sink, ses, f.replicas); err == nil {
			for _, ref := range outdated {
				p.remove(ctx, ses, store, ref)
			}
		}
		// Also those of another process that did not get this far.
		oldest := p.control.Snapshots[len(p.control.Snapshots)-1].Sequence
		p.purge(ctx, ses, jetstream.WithPurgeSubject(p.subject+"."+rowsToken+".>"), jetstream.WithPurgeSequence(oldest+1))
	}
	if p.records++; p.records >= purgeEvery && f.fenced {
		p.records = 0
		p.purge(ctx, ses, jetstream.WithPurgeSubject(p.subject), jetstream.WithPurgeKeep(1))
	}
}

func (p *streamPublisher) purge(ctx context.Context, ses *session, options ...jetstream.StreamPurgeOpt) {
	ctx, done := ses.patience(ctx, ses.isAPI)
	defer done()
	stream, err := ses.stream.handle(ctx, ses.js, p.sink.jetstream.Stream)
	if err == nil {
		err = stream.Purge(ctx, options...)
	}
	if err != nil {
		p.sink.log.Debug("old control messages stay for now", "crd", p.flow.CRD, "route", p.flow.Route, "error", apiWords(because(ctx, err)))
	}
}

// writtenSnapshot is a snapshot that the next control message refers to.
type writtenSnapshot struct {
	ref    snapshotRef
	count  uint64 // of the tail, when it began
	weight uint64 // of the tail, then
	began  time.Time
}

// since is the tail that is left of one when the snapshot counts. Where its
// first message is is not known, but that it comes after the snapshot.
func (w *writtenSnapshot) since(t tail) tail {
	if t.Count <= w.count {
		return tail{}
	}
	return tail{First: max(t.First, w.ref.Sequence+1), Count: t.Count - w.count}
}

// SnapshotDue implements journal.Journal.
func (p *streamPublisher) SnapshotDue(rows int) bool {
	if !p.turn.TryAcquire(1) {
		return false // something in the background; there is another time
	}
	defer p.turn.Release(1)
	switch {
	case p.lost():
		return true // it fails, and so does the record after it, which has the flow claimed again
	case !p.claimed || p.ambiguous || p.written != nil:
		return false
	case p.alone:
		return true
	case p.count.Count == 0 || time.Since(p.shot) < p.sink.kept.pace(snapshotPause):
		return false
	}
	return p.weight >= uint64(max(leastTail, rows/2)) || p.ages()
}

// ages tells whether retention comes near the tail. It takes the oldest
// messages; what is needed should not be in the older half of the stream, by
// number or by age. The turn is held.
func (p *streamPublisher) ages() bool {
	older, maxAge := p.sink.kept.retention(p.count.First)
	return p.count.Count > 0 && (older || maxAge > 0 && time.Since(p.since) > maxAge/2)
}

// OnDue implements journal.Journal.
func (p *streamPublisher) OnDue(call func()) {
	if call == nil {
		p.due.Store(nil)
		return
	}
	p.due.Store(&call)
}

// lost tells whether the claim was found to be void, maybe by something in the
// background of which the flow knows nothing. The turn is held.
func (p *streamPublisher) lost() bool { return !p.claimed && !p.created.IsZero() }

// remind says that a snapshot has become due, if retention has made it so, or
// that the claim is void.
func (p *streamPublisher) remind() {
	call := p.due.Load()
	if call == nil || !p.turn.TryAcquire(1) {
		return // nobody writes one, or something is being done; there is another time
	}
	is := p.lost() || p.claimed && (p.alone || p.ages())
	p.turn.Release(1)
	if is {
		(*call)()
	}
}

// Snapshot implements journal.Journal.
func (p *streamPublisher) Snapshot(ctx context.Context, state journal.State, rows iter.Seq[journal.Row]) error {
	if !p.sink.publishing.Enter() {
		return p.sink.fail(sinks.ErrClosed)
	}
	defer p.sink.publishing.Leave()
	if err := p.turn.Acquire(ctx, 1); err != nil {
		return p.sink.fail(err)
	}
	ses, f, err := p.ready(ctx)
	if err == nil && !p.claimed {
		err = p.unclaimed()
	}
	if err == nil && p.ambiguous {
		err = errors.New("it is not known what of the flow is stored")
	}
	h := snapshotHeader{
		Stream: f.created, Ref: snapshotRef{Epoch: p.control.Epoch, Sequence: p.told}, Base: p.control.Base, State: state,
	}
	p.shot = time.Now()
	w := &writtenSnapshot{ref: h.Ref, count: p.toldCount, weight: p.toldWeight, began: p.shot}
	p.turn.Release(1)
	if err != nil {
		return p.sink.fail(err)
	}
	store, err := ses.shelf.open(ctx, p.sink, ses, f.replicas)
	if err == nil {
		err = p.save(ctx, ses, store, h, rows)
	}
	if err != nil {
		return p.sink.fail(fmt.Errorf("snapshot of the ledger: %w", err))
	}
	failpoint.Here(failpoint.AfterSnapshot)
	if err := p.turn.Acquire(ctx, 1); err != nil {
		return p.sink.fail(err)
	}
	defer p.turn.Release(1)
	if p.claimed && p.control.Epoch == h.Ref.Epoch && p.created.Equal(h.Stream) && p.control.Base == h.Base {
		p.written = w
	}
	return nil
}

// refresh writes the control message again before retention takes it.
func (p *streamPublisher) refresh(ctx context.Context) {
	if !p.turn.TryAcquire(1) {
		return // it is in use
	}
	defer p.turn.Release(1)
	if !p.claimed {
		return
	}
	_, f, err := p.ready(ctx)
	if err != nil || !f.fenced || !p.goes(f) {
		return
	}
	p.sink.kept.refreshes()
	if err := p.write(ctx, nil, p.control.State, false); err != nil {
		p.sink.log.Debug("control message is not refreshed", "crd", p.flow.CRD, "route", p.flow.Route, "error", err)
		if fenced, is := errors.AsType[*journal.FencedError](err); is {
			p.sink.kept.tellFenced(fenced)
		}
	}
}

// goes tells whether retention comes near the control message, by age or as
// other flows' messages push it out. The turn is held.
func (p *streamPublisher) goes(f facts) bool {
	return f.maxAge > 0 && time.Since(p.control.Time) >= f.maxAge/4 || f.pushesOut && p.sink.kept.pushedOut(p.fence)
}
