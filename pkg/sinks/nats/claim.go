package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Claim implements journal.Journal: first the control message with a new
// epoch, which shuts everybody else out, and only then what is durable: the
// newest snapshot and the stream's messages since.
func (p *streamPublisher) Claim(ctx context.Context, into journal.Restorer) (journal.Claim, error) {
	if !p.sink.publishing.Enter() {
		return journal.Claim{}, p.sink.fail(sinks.ErrClosed)
	}
	defer p.sink.publishing.Leave()
	if err := p.turn.Acquire(ctx, 1); err != nil {
		return journal.Claim{}, p.sink.fail(err)
	}
	defer p.turn.Release(1)
	asked := p.sink.tails.expect()
	defer asked()
	ses, f, err := p.ready(ctx)
	if errors.Is(err, journal.ErrReplaced) {
		p.claimed, err = false, nil
	}
	if err != nil {
		return journal.Claim{}, p.sink.fail(err)
	}
	if p.claimed {
		err := p.settle(ctx, ses, f, asked)
		if errors.Is(err, journal.ErrReplaced) {
			f, err = p.sink.ensureStream(ctx, ses)
		}
		if err != nil {
			return journal.Claim{}, p.sink.fail(err)
		}
	}
	if p.claimed {
		for _, row := range p.landed {
			into.Restore(row)
		}
		p.landed, p.stored = nil, nil
		p.tell()
		return journal.Claim{State: p.control.State, Known: true}, nil
	}
	claim, err := p.takeOver(ctx, ses, f, into, asked)
	if err != nil {
		return journal.Claim{}, p.sink.fail(err)
	}
	return claim, nil
}

// ready is the session and the stream in it. It fails with ErrReplaced where a
// claim was made in another stream, or in one that went on from here.
func (p *streamPublisher) ready(ctx context.Context) (*session, facts, error) {
	ses, err := p.sink.session()
	if err != nil {
		return nil, facts{}, err
	}
	f, err := p.sink.ensureStream(ctx, ses)
	if err != nil {
		return nil, facts{}, err
	}
	if p.claimed && (!p.created.Equal(f.created) || f.last < p.settled && ses != p.session) {
		why := "it was created anew"
		if p.created.Equal(f.created) {
			why = fmt.Sprintf("it ends at %d and not at %d or later: it was restored, or lost what it had not synced", f.last, p.settled)
		}
		return ses, f, p.void(why)
	}
	p.session = ses
	if p.claimed {
		p.behindFence.Store(f.fenced) // the stream may have got, or lost, the control subjects
	}
	return ses, f, nil
}

// void takes note that the claim is for something that is no more.
func (p *streamPublisher) void(why string) error {
	p.claimed = false
	p.sink.log.Warn("stream is not what it was; the ledger is rebuilt from what there is",
		"crd", p.flow.CRD, "route", p.flow.Route, "stream", p.sink.jetstream.Stream, "reason", why)
	return journal.ErrReplaced
}

// unclaimed is why nothing can be done with the flow now. It may be something
// in the background that has found the claim void.
func (p *streamPublisher) unclaimed() error {
	if p.created.IsZero() {
		return errNotClaimed
	}
	return journal.ErrReplaced
}

// takeOver claims the flow and restores its ledger.
func (p *streamPublisher) takeOver(ctx context.Context, ses *session, f facts, into journal.Restorer, asked func()) (journal.Claim, error) {
	r := restoration{p: p, ses: ses, f: f, into: into}
	if err := r.moveIn(ctx); err != nil {
		return journal.Claim{}, err
	}
	var last uint64
	var err error
	if r.first, last, err = p.ends(ctx, ses); err != nil {
		return journal.Claim{}, err
	}
	to := p.fence
	if !f.fenced {
		to = last
	}
	if err := r.fromSnapshot(ctx, to); err != nil {
		return journal.Claim{}, err
	}
	if err := r.fromTail(ctx, to, asked); err != nil {
		return journal.Claim{}, err
	}
	var requested uint64
	if r.state.CRD == "" {
		if requested, err = p.sink.requested(ctx, ses, p.flow.Route); err != nil {
			return journal.Claim{}, err
		}
	}
	p.control.State, p.control.Tail, p.count, p.weight, p.since = r.state, r.tail, r.tail, r.weight, r.since
	p.control.Snapshots, p.control.Base, p.control.Stream = r.snapshots, r.base, f.created
	p.settled, p.created, p.session = max(p.fence, to), f.created, ses
	p.elsewhere = 0
	if r.anywhere() {
		p.elsewhere = to
	}
	p.ambiguous, p.stored, p.landed, p.written = false, nil, nil, nil
	p.claimed = true
	p.tell()
	p.behindFence.Store(f.fenced)
	p.sink.keepUp(p, f.maxAge)
	if !r.denied { // what could not be read for lack of a permission may be good
		p.cleanUp(ctx, ses, f)
	}
	if !r.claimed && !r.restored && r.replaced {
		p.sink.log.Warn("stream is not what it was; this is a new start: all that is there is told of as existing",
			"crd", p.flow.CRD, "route", p.flow.Route, "stream", p.sink.jetstream.Stream, "reason", "it was created anew while no bridge ran")
	}
	if gap := r.gap(); gap != "" {
		p.sink.log.Warn("ledger may be incomplete", "crd", p.flow.CRD, "route", p.flow.Route, "reason", gap)
	}
	return journal.Claim{State: r.state, Known: r.claimed || r.restored, Requested: requested, Gap: r.gap()}, nil
}

// ends are the sequences of the stream's first and last message.
func (p *streamPublisher) ends(ctx context.Context, ses *session) (first, last uint64, err error) {
	ctx, done := ses.patience(ctx, ses.isAPI)
	defer done()
	stream, err := ses.js.Stream(ctx, p.sink.jetstream.Stream)
	if err != nil {
		return 0, 0, apiWords(because(ctx, err))
	}
	p.sink.saw(stream.CachedInfo())
	state := stream.CachedInfo().State
	return state.FirstSeq, state.LastSeq, nil
}

// restoration is one way back to a ledger.
type restoration struct {
	p    *streamPublisher
	ses  *session
	f    facts
	into journal.Restorer

	old      control // the control message that was there
	claimed  bool    // there was one, in this stream
	known    bool    // and it could be read
	wrong    string  // what is wrong with it otherwise
	previous uint64  // its sequence
	first    uint64  // of the stream's messages

	store      jetstream.ObjectStore // nil where there is none
	shut       error                 // why there is none
	candidates []snapshotRef         // newest first

	from      uint64 // where the tail begins
	newest    bool   // from the newest snapshot, or from the beginning as there never was one
	base      uint64
	state     journal.State
	snapshots []snapshotRef
	restored  bool // something was
	replaced  bool // there are snapshots of another stream of that name
	denied    bool // the server does not permit to read a snapshot
	tail      tail
	weight    uint64    // its rows
	since     time.Time // when the first of it was stored
	before    uint64    // messages of the tail that the old control message counts
	failed    string    // why a snapshot could not be used
}

// moveIn writes the claim. A stream that takes no control messages has none.
func (r *restoration) moveIn(ctx context.Context) error {
	p := r.p
	var err error
	for range 10 {
		if err := r.look(ctx); err != nil {
			return err
		}
		p.control, p.fence = r.claim(), 0
		if !r.f.fenced {
			return nil
		}
		p.fence, err = p.sink.writeControl(ctx, r.ses, p.subject, &p.control, r.previous)
		if err == nil || !isWrongSequence(err) {
			return err
		}
		// Another was faster; what it has written is what is taken over.
	}
	return fmt.Errorf("others claim the flow at the same time: %w", err)
}

// look finds what the claim before has left. Nothing is written before that is
// known: a claim that is not finished must not hide it from the next.
func (r *restoration) look(ctx context.Context) (err error) {
	if r.f.fenced {
		if r.old, r.previous, r.wrong, err = r.p.sink.readControl(ctx, r.ses, r.p.subject); err != nil {
			return err
		}
		if r.old.Rebase { // and the next, which would have named it, was not written
			r.old.Base, r.old.Rebase = r.previous, false
		}
	}
	r.claimed = r.previous != 0
	if r.claimed && r.wrong == "" && !r.old.Stream.Equal(r.f.created) {
		// Copied here from another stream, so that what it says of positions
		// and sequences is nothing here; or of a claim that was not finished.
		r.claimed, r.old = false, control{Epoch: r.old.Epoch, Owner: r.old.Owner}
	}
	r.known = r.claimed && r.wrong == ""
	return r.openShelf(ctx)
}

// openShelf opens the bucket, and lists the flow's snapshots where no control
// message names them. It fails where it cannot be known now what there is.
func (r *restoration) openShelf(ctx context.Context) (err error) {
	s, shelf := r.p.sink, &r.ses.shelf
	r.candidates = r.old.Snapshots
	r.store, err = shelf.open(ctx, s, r.ses, r.f.replicas)
	if err == nil && !r.known {
		r.candidates, err = shelf.of(ctx, r.ses, r.store, r.p.shelfName())
	}
	if err == nil {
		s.notes.set(s.log, noteSnapshots)
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, denied := errors.AsType[*deniedError](err)
	_, missing := errors.AsType[*noBucketError](err)
	switch {
	case denied || missing:
		s.notes.set(s.log, noteSnapshots, "ledgers have no snapshots, so that a restart has to read all of the stream: "+err.Error())
	case !r.known || len(r.candidates) > 0:
		return err // there may be one, and it is needed
	}
	r.store, r.shut = nil, err
	return nil
}

// claim is the control message that makes the flow this bridge's.
func (r *restoration) claim() control {
	c := control{
		Format: controlFormat, Epoch: r.epoch(), Owner: r.p.sink.owner, Time: time.Now().UTC(), Stream: r.f.created,
		State: r.old.State, Snapshots: r.old.Snapshots, Tail: r.old.Tail, Base: r.old.Base,
	}
	if !r.anywhere() {
		c.Pattern = r.p.pattern
	}
	if !r.known && len(r.candidates) > 0 {
		// It does not say what the ledger is made of. Until it does, it is as
		// good as one of another stream.
		c.Stream = time.Time{}
	}
	return c
}

// anywhere tells whether events of the flow may have other subjects than they
// would have now. A flow that nobody knows has none.
func (r *restoration) anywhere() bool {
	if r.p.foreign != "" {
		return false // its events are not here
	}
	if !r.known {
		return !r.f.fenced || r.previous != 0 || len(r.candidates) > 0
	}
	return r.old.Pattern != r.p.pattern
}

// epoch is higher than that of any claim of the flow that is known of. Where no
// control message says it, as the stream was purged, the snapshots do.
func (r *restoration) epoch() uint64 {
	highest := max(r.old.Epoch, r.p.control.Epoch)
	if !r.known && len(r.candidates) > 0 {
		highest = max(highest, r.candidates[0].Epoch)
	}
	if !r.f.fenced {
		return max(highest, 1) // a claim shuts nobody out: the newest snapshot is the one of the highest sequence
	}
	return highest + 1
}

// lagPauses are between attempts to read a snapshot, where a replica that is
// behind may have answered.
var lagPauses = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond}

// fromSnapshot restores the newest snapshot that is whole, and not of what the
// stream no longer has: it may have been put back to an earlier state. It
// fails where it is not known whether a snapshot is whole: without it, events
// that only it has would be told once more, and ends would not be told.
func (r *restoration) fromSnapshot(ctx context.Context, to uint64) error {
	r.into.Reset()
	r.from, r.state, r.base = 1, r.old.State, r.old.Base
	r.newest = true
	if r.store == nil {
		if len(r.candidates) > 0 {
			r.newest, r.failed = false, r.shut.Error()
		}
		return nil
	}
	for i, ref := range r.candidates {
		if ref.Sequence > to {
			r.replaced = true
			continue
		}
		h, err := r.read(ctx, ref)
		switch {
		case err == nil && h.Stream.Equal(r.f.created):
			r.take(h, i)
			return nil
		case err == nil:
			r.replaced = true // of a stream of that name that is no more
		default:
			if err := r.without(ctx, ref, err); err != nil {
				return err
			}
		}
		r.into.Reset()
	}
	return nil
}

// read loads a snapshot. What a replica that is behind may have said is not
// believed at once: neither that there is none, nor that a part is missing.
func (r *restoration) read(ctx context.Context, ref snapshotRef) (h snapshotHeader, err error) {
	for attempt := 0; ; attempt++ {
		h, err = r.p.load(ctx, r.ses, r.store, ref, r.into)
		if err == nil || attempt == len(lagPauses) || !errors.Is(err, errBehind) && !errors.Is(err, jetstream.ErrDigestMismatch) {
			return h, err
		}
		r.into.Reset()
		if !sinks.Sleep(ctx, lagPauses[attempt]) {
			return h, ctx.Err()
		}
	}
}

// take goes on from the candidate, which was restored.
func (r *restoration) take(h snapshotHeader, candidate int) {
	ref := r.candidates[candidate]
	r.from, r.restored = ref.Sequence+1, true
	r.snapshots = append(r.snapshots, ref)
	if r.known { // one to fall back to
		r.snapshots = append(r.snapshots, r.candidates[candidate+1:]...)
	} else {
		r.state, r.base = h.State, h.Base
	}
}

// without does without a snapshot, if the error says that it is of no use or
// cannot be had. Any other error is returned: the snapshot may well be good.
func (r *restoration) without(ctx context.Context, ref snapshotRef, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, denied := errors.AsType[*deniedError](err)
	_, unfit := errors.AsType[*unfitError](err)
	name := ref.name(r.p.shelfName())
	if !denied && !unfit {
		return fmt.Errorf("snapshot %s cannot be read: %w", name, apiWords(err))
	}
	r.denied = r.denied || denied
	r.newest = false
	r.failed = fmt.Sprintf("snapshot %s cannot be used: %s", name, words(err))
	r.p.sink.log.Warn("ledger is rebuilt from the stream", "crd", r.p.flow.CRD, "route", r.p.flow.Route, "reason", r.failed)
	return nil
}

// fromTail restores what the stream says from there on, up to the claim.
func (r *restoration) fromTail(ctx context.Context, to uint64, asked func()) error {
	rebased := r.base == 0 || r.from > r.base
	rebase := func(sequence uint64) {
		if !rebased && sequence > r.base {
			r.into.Rebase()
			rebased = true
		}
	}
	err := r.p.sink.tails.read(&reading{
		ctx: ctx, flow: r.p, from: r.from, to: to, toTheEnd: !r.f.fenced,
		anywhere: r.anywhere() || !r.newest, // what the control message says is of the newest
		take: func(t tailRow) {
			rebase(t.sequence)
			for _, row := range t.rows {
				r.into.Restore(row)
			}
			r.restored = true
			if r.old.State.Kind == "" && t.kind != "" { // the state is lost, and the CRD may be gone as well
				_, r.state.Version, _ = strings.Cut(t.apiVersion, "/")
				r.state.Kind, r.state.Namespaced = t.kind, strings.Contains(t.rows[0].Key, "/")
				r.state.CRD = r.p.flow.CRD
			}
			if r.tail.Count == 0 {
				r.since = t.stored
			}
			r.tail.add(t.sequence)
			r.weight += uint64(len(t.rows))
			if t.sequence <= r.previous {
				r.before++
			}
		},
	}, asked)
	if err != nil {
		return err
	}
	rebase(to)
	return nil
}

// gap says why something may be missing.
func (r *restoration) gap() string {
	const way = "; objects are compared with what is left of it, and some may be told of again (bridge resync tells of all)"
	name := r.p.sink.jetstream.Stream
	lost := r.first > r.from // messages between are no more
	switch {
	case r.known && r.newest && r.f.maxMsgsPerSubject > 0 && r.p.ownSubjects():
		return "" // the newest message of each object stays
	case r.known && r.newest && lost && r.old.Tail.First != 0 && r.old.Tail.First < r.first:
		return fmt.Sprintf("stream %s begins at %d, and events of this flow since %d have not been read: its retention is shorter than the time without a snapshot, or it was purged%s",
			name, r.first, r.old.Tail.First, way)
	case r.known && r.newest && r.before < r.old.Tail.Count:
		return fmt.Sprintf("stream %s has %d of %d events of this flow since %d: others were deleted from it%s",
			name, r.before, r.old.Tail.Count, r.old.Tail.First, way)
	case !r.newest && lost:
		return r.failed + fmt.Sprintf(", and stream %s no longer has all since the one before", name) + way
	case !r.known && r.restored && lost:
		return fmt.Sprintf("stream %s begins at %d and the flow's control message is gone: it was purged, or its retention is shorter than the bridge was down%s",
			name, r.first, way)
	case r.wrong != "":
		return r.wrong + way
	}
	return ""
}

// ownSubjects tells whether nobody but one object of one flow has a subject, so
// that nothing but a newer event of it can take an event's place.
func (p *streamPublisher) ownSubjects() bool {
	return p.foreign == "" && perObject(p.sink.subject)
}

// settle finds out what has become of what had no answer: first it moves the
// fence, so that bytes that are still on their way come to nothing, then it
// reads what did arrive.
func (p *streamPublisher) settle(ctx context.Context, ses *session, f facts, asked func()) error {
	if !p.ambiguous {
		return nil
	}
	var to uint64
	if f.fenced {
		if err := p.moveFence(ctx, ses); err != nil {
			return err
		}
		to = p.fence
	} else {
		var err error
		if _, to, err = p.ends(ctx, ses); err != nil {
			return err
		}
	}
	if to > p.settled {
		if p.stored == nil {
			p.stored = map[string]struct{}{}
		}
		var found []tailRow
		err := p.sink.tails.read(&reading{
			ctx: ctx, flow: p, from: p.settled + 1, to: to, toTheEnd: !f.fenced,
			take: func(t tailRow) { found = append(found, t) },
		}, asked)
		if err != nil {
			return err
		}
		arrived := 0
		for _, t := range found {
			if t.id != "" {
				arrived++
				p.stored[t.id] = struct{}{}
			}
			p.landed = append(p.landed, t.rows...)
			p.add(t.sequence, uint64(len(t.rows)))
		}
		p.sink.suppressed.Add(arrived)
		p.settled = to
	}
	p.ambiguous = false
	return nil
}

// moveFence writes the control message once more.
func (p *streamPublisher) moveFence(ctx context.Context, ses *session) error {
	for range 3 {
		next := p.control
		next.Time, next.Tail, next.Rebase = time.Now().UTC(), p.count, false
		sequence, err := p.sink.writeControl(ctx, ses, p.subject, &next, p.fence)
		if err == nil {
			p.control, p.fence = next, sequence
			return nil
		}
		if !isWrongSequence(err) {
			return err
		}
		if moved, err := p.whose(ctx, ses); moved || err != nil {
			return err
		}
	}
	return errors.New("the control message is not where it was said to be; trying again")
}

// whose finds out why the fence is not where it was thought to be. It tells
// whether this bridge has moved it itself, by a message that had no answer.
func (p *streamPublisher) whose(ctx context.Context, ses *session) (moved bool, err error) {
	c, sequence, wrong, err := p.sink.readControl(ctx, ses, p.subject)
	switch {
	case err != nil:
		return false, err
	case sequence == 0:
		// The subject is empty: the stream is another, or it was purged, or
		// keeps messages for less long than the bridge was cut off.
		ses.stream.doubt()
		f, err := p.sink.ensureStream(ctx, ses)
		if err != nil {
			return false, err
		}
		if !p.created.Equal(f.created) {
			return false, p.void("it was created anew")
		}
		p.sink.notes.set(p.sink.log, notePurged, fmt.Sprintf(
			"control messages of stream %s were deleted while the bridge ran: it was purged, or its retention is very short; "+
				"what readers had not read by then they have missed, and `bridge resync --route R` for each route of this sink tells of all objects again",
			p.sink.jetstream.Stream))
		p.fence, p.alone = 0, true
		return false, nil
	case wrong != "" && c.Epoch <= p.control.Epoch:
		return false, fmt.Errorf("%s: another program writes to %s", wrong, p.subject)
	case c.Owner == p.sink.owner && c.Epoch == p.control.Epoch && sequence > p.fence:
		p.fence = sequence
		return true, nil
	case c.Owner == p.sink.owner && sequence == p.fence:
		return false, nil // refused for another message that is under way; it is tried again
	case c.Epoch > p.control.Epoch:
		return false, p.fenced(c.Owner)
	default:
		return false, p.void("its control message is an older one: it was put back to an earlier state")
	}
}

func (p *streamPublisher) fenced(owner string) error {
	return &journal.FencedError{Flow: p.flow.String(), Owner: owner}
}

// cleanUp deletes snapshots of the flow that nothing refers to: a bridge that
// crashed has left them behind. What fails here is tried at the next claim.
func (p *streamPublisher) cleanUp(ctx context.Context, ses *session, f facts) {
	store, err := ses.shelf.open(ctx, p.sink, ses, f.replicas)
	if err != nil {
		return
	}
	refs, err := ses.shelf.of(ctx, ses, store, p.shelfName())
	if err != nil {
		return
	}
	for i, ref := range refs {
		if !slices.Contains(p.control.Snapshots, ref) && (f.fenced && ref.Epoch < p.control.Epoch || i >= snapshotsKept) {
			p.remove(ctx, ses, store, ref)
		}
	}
}
