package flow

import (
	"bytes"
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sources"
)

// watcher is the handler of one of a run's watches: it hears what the API
// server says of the objects of one namespace, or of all, and how far it has
// come with that. A run's watchers take turns; what they make of what they hear
// is the run's.
type watcher struct {
	run       *Run
	namespace string

	// These belong to who holds run.handling. first: a list is the first one of
	// its incarnation. owes: this watch has its part still to do of the
	// requested resync, whose number is resync, or of telling what the route
	// selects since its selection changed (reselected). surveys: the next list
	// is a survey. behind: there is something that the watch has yet to tell.
	// surveyed: when the survey was made, until the watch has come as far.
	// list and version are the number and the resource version of the last list,
	// and listing says that it goes on: what it has not told yet is not absent.
	first      bool
	owes       bool
	listing    bool
	resync     uint64
	reselected bool
	surveys    bool
	behind     bool
	surveyed   uint64
	list       uint32
	version    uint64
}

// covers tells whether the watch tells of the object with the key.
func (w *watcher) covers(key []byte) bool {
	if w.namespace == allNamespaces {
		return true
	}
	namespace, _, _ := bytes.Cut(key, []byte("/"))
	return string(namespace) == w.namespace
}

// start is where the watch begins.
func (w *watcher) start() sources.Start {
	position, listed := w.run.flow.ledger.resume(w.namespace)
	w.first = !listed
	if !listed || position == 0 {
		w.owes = w.resync != 0 || w.reselected
		return sources.Start{}
	}
	w.owes = w.resync != 0 || w.reselected
	w.surveys = w.owes
	return sources.Start{Position: formatVersion(position), Survey: w.surveys}
}

// at is a position of the watch.
func (w *watcher) at(version uint64) progress {
	return progress{reached: reached{watch: w.namespace, position: version}}
}

// ListStarted begins to compare a list with the ledger. It refuses one that is
// older than what was delivered, and, where events are to have its version for
// a sequence, one that is not newer.
func (w *watcher) ListStarted(_ context.Context, resourceVersion string) error {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	version, err := parseVersion(resourceVersion)
	if err != nil {
		return err
	}
	position, listed := r.flow.ledger.resume(w.namespace)
	if w.reselected {
		position = max(position, r.told)
	}
	switch {
	case position > version:
		return &sources.RewoundError{Position: position, Is: version}
	case w.reselected && version <= r.told:
		return sources.ErrTooSoon
	case listed && position > 0 && !w.surveys:
		r.series.resyncs[resyncExpired].Add(1)
	}
	w.list, w.version, w.listing = r.flow.ledger.startList(), version, true
	// One that had done its part has not while it lists anew: others' parts count
	// what it has listed.
	w.owes = w.owes || r.reselected || r.resync != 0
	return nil
}

// Listed compares one object of a list with the ledger.
func (w *watcher) Listed(ctx context.Context, o *object.Object) {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	key, seen, err := identify(o)
	if err != nil {
		r.invalid(err)
		return
	}
	if r.sourcing.Err() != nil {
		return // what follows an object that has been put back is no news either
	}
	r.flow.ledger.markListed(key, w.list)
	w.changed(ctx, o, key, seen, true)
	failpoint.Here(failpoint.InFirstList)
}

// Knows tells whether the ledger has rows of what the watch covers, and they are
// enough to tell what is new. They are not where each object is told of again,
// or a run has yet to learn what objects are like.
func (w *watcher) Knows(context.Context) bool {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	switch {
	case w.resync != 0,
		r.past != nil && len(r.past) == 0,
		r.target.Rules.changes != nil && !r.flow.ledger.hasDigests():
		return false
	}
	return r.flow.ledger.has(w.covers)
}

// Unchanged compares an object of a list with the ledger, as far as that can be
// done without the object: it tells whether Listed would make nothing of it, and
// notes that the list has it then.
func (w *watcher) Unchanged(_ context.Context, o *object.Object) bool {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	key, seen, err := identify(o)
	switch {
	case err != nil:
		return false // Listed says so
	case r.sourcing.Err() != nil:
		return true // as Listed has it
	case !w.settled(key, seen):
		return false
	}
	r.flow.ledger.markListed(key, w.list)
	failpoint.Here(failpoint.InFirstList)
	return true
}

// settled tells whether this version of an object is known, and nothing is to be
// told of it or learned from it; see changed.
func (w *watcher) settled(key string, seen row) bool {
	r := w.run
	s := r.flow.ledger.observe(key, seen, true)
	switch {
	case !s.alive, s.known.uid != seen.uid, s.known.version != seen.version, s.known.is(doubted),
		w.resync != 0 && !s.known.is(resent),
		w.reselected && !s.known.is(sent),
		r.past != nil && !r.past.has(key, seen),
		r.target.Rules.changes != nil && !s.known.digested():
		return false
	}
	return true
}

// ListFinished says of every object that the list did not have that it is
// gone, or no longer selected, and moves the position to where the list was
// made.
func (w *watcher) ListFinished(ctx context.Context, resourceVersion string) {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	version, err := parseVersion(resourceVersion)
	if err != nil {
		r.invalid(err)
		return
	}
	if r.sourcing.Err() != nil || ctx.Err() != nil {
		return
	}
	w.listing = false
	if w.surveys {
		w.surveys, w.surveyed = false, version
		// Of what is no longer selected the watch may tell as well, and better.
		w.behind = w.behind || w.reselected
		if !w.behind {
			w.reach(ctx, version)
		}
		return
	}
	absent := r.flow.ledger.where(func(key []byte, of row) bool {
		return of.list != w.list && of.version <= version && w.covers(key)
	})
	if !r.ended(ctx, absent, version, w.at(0), r.target.Rules.selective() || w.reselected) {
		return
	}
	r.queue.mark(progress{reached: reached{w.namespace, version, true}})
	w.first = false
	w.surveyed = 0
	w.done(ctx)
}

// Changed compares an object that the watch brought with the ledger.
func (w *watcher) Changed(ctx context.Context, o *object.Object) {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	key, seen, err := identify(o)
	if err != nil {
		r.invalid(err)
		return
	}
	w.changed(ctx, o, key, seen, false)
	w.reach(ctx, seen.version)
}

// Deleted makes the last event of an object.
func (w *watcher) Deleted(ctx context.Context, o *object.Object) {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	key, seen, err := identify(o)
	if err != nil {
		r.invalid(err)
		return
	}
	w.deleted(ctx, o, key, seen)
	w.reach(ctx, seen.version)
}

// Progressed moves the position while nothing changes.
func (w *watcher) Progressed(ctx context.Context, resourceVersion string) {
	r := w.run
	r.handling.Lock()
	defer r.handling.Unlock()
	version, err := parseVersion(resourceVersion)
	if err != nil {
		r.invalid(err)
		return
	}
	w.progress(ctx, version)
}

// progress moves the position, unless ctx is done: the reflector may hand over
// one thing more then, after one that found no room in time.
func (w *watcher) progress(ctx context.Context, position uint64) {
	if position > 0 && ctx.Err() == nil {
		w.run.queue.mark(w.at(position))
		w.reach(ctx, position)
	}
}

// reach takes note that the watch has told of all up to a version, unless ctx
// is done: the last of it may have found no room.
func (w *watcher) reach(ctx context.Context, version uint64) {
	if !w.listing && w.surveyed != 0 && version >= w.surveyed && ctx.Err() == nil {
		w.done(ctx)
	}
}

// CaughtUp takes it for told what the survey knew. An object whose end the watch
// tells later than that has been told to be gone, by deduction, and what it did
// before is left out.
func (w *watcher) CaughtUp(ctx context.Context) {
	w.run.handling.Lock()
	defer w.run.handling.Unlock()
	w.reach(ctx, w.surveyed)
}

// Busy tells whether events wait, or are on their way to the sink.
func (w *watcher) Busy() bool {
	pending, _ := w.run.queue.waiting()
	return pending > 0
}

// done takes note that this watch has told its part of what the run has to
// tell beside what happens.
func (w *watcher) done(ctx context.Context) {
	if !w.owes {
		return
	}
	if w.run.partDone(ctx) {
		w.owes, w.resync, w.surveyed, w.reselected, w.behind = false, 0, 0, false, false
	}
}

// watched tells whether the watch that follows a survey tells of a version.
func (w *watcher) watched(version uint64) bool {
	position, _ := w.run.flow.ledger.resume(w.namespace)
	return version > position
}

// Condition takes the API server's answer to a list or watch.
func (w *watcher) Condition(err error) {
	r := w.run
	if rewound, is := errors.AsType[*sources.RewoundError](err); is {
		r.rewound(rewound)
		return
	}
	r.mu.Lock()
	r.missing = apierrors.IsNotFound(err)
	if r.missing && r.absent != 0 {
		r.listenNot()
	}
	r.mu.Unlock()
	r.flow.condition.setSource(w.namespace, err)
}
