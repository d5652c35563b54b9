package flow

import (
	"context"
	"maps"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sources"
)

// afterGone is how long a run goes on listening when its CRD is gone: the API
// server may still be sending the deletions that it made before it ended the
// watch, and an object's last state is better than the deduction that it is gone.
const afterGone = 2 * time.Second

// unableFor is how long an API server has to say that it cannot list what it
// serves until it is believed. Just after a CRD was made it says so for
// milliseconds.
const unableFor = 15 * time.Second

// StartDrain begins to deliver the end of all objects that are still known of
// a CRD that is gone. The target describes it, as far as that is known: what is
// missing the journal knows, where there is something to be drained. A flow
// that has not been claimed yet is claimed by it.
func (f *Flow) StartDrain(ctx context.Context, target Target, absent uint64) *Run {
	going := gone
	if !f.isClaimed() {
		going = goneUnknown
	}
	f.condition.setActive(target, going)
	r := f.newRun(ctx, target)
	r.absent = absent
	go r.run(false)
	return r
}

// Successor is a CRD that has taken the place of another of its name and cannot
// be followed for now, as far as the end of the other's objects asks for it.
type Successor struct {
	// Reason says why it cannot be followed.
	Reason string
	// Empty is a resource version at which it was there and none of its objects
	// had a name that the route selects; 0 where none is known.
	Empty uint64
	// Resource is what to list for its objects; of no plural where that cannot be.
	Resource sources.Resource
}

// StartDrainOthers begins to deliver the end of all objects that are known of
// another CRD of that name than the target's, which cannot be followed for now.
// As the target's is there, the other and its objects are not; nobody needs to
// have seen when they went. Each deletion has a version that is below any of the
// successor's objects of the same name, so that what is told of those later
// follows it: the one at which there was none, or where they have to be asked
// for, one less than the namesake's and else that of the answer. Where none of
// that can be known, it has the one that follows where the flow had come to, which
// may be below the object's last.
func (f *Flow) StartDrainOthers(ctx context.Context, target Target, next Successor) *Run {
	r := f.newDrainOthers(ctx, target, next)
	go r.run(false)
	return r
}

func (f *Flow) newDrainOthers(ctx context.Context, target Target, next Successor) *Run {
	going := next.going()
	if !f.isClaimed() {
		going = goneUnknown
	}
	f.condition.setActive(target, going)
	r := f.newRun(ctx, target)
	r.successor = &next
	return r
}

func (s *Successor) going() string {
	return "the CRD was replaced by another, which cannot be followed: " + s.Reason
}

const (
	gone        = "the CRD is gone"
	goneUnknown = "whether the end of objects of a CRD that is gone has to be told is known when the sink has been asked"
)

// Drain says that the CRD is gone, as of that resource version: every object
// of it that is still known is deleted, however long the sink takes, and then
// the run is done. It may be called often; the first call counts.
func (r *Run) Drain(absent uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.absent != 0 {
		return
	}
	r.absent = absent
	r.flow.condition.setGoing(gone)
	if r.missing {
		r.listenNot()
		return
	}
	stop := time.AfterFunc(afterGone, r.listenNot)
	context.AfterFunc(r.following, func() { stop.Stop() })
}

// Drained tells, once the run is done, whether the deletion of every object
// is durable.
func (r *Run) Drained() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drained
}

// drain says of what is known and gone that it is deleted, and returns the
// version as of which that is so, and how many objects not newer than that are
// there all the same; 0 where nothing is gone, or the run was told to end before
// it knew.
func (r *Run) drain() (absent uint64, spared int) {
	if absent = r.gone(); absent == 0 && r.successor != nil && r.flow.HoldsOthers(r.target.CRD) {
		r.flow.condition.setGoing(r.successor.going())
		// Where no other version is known: behind all that was told.
		floor := max(r.flow.ledger.newestVersion(), r.flow.ledger.newestTold()) + 1
		if next, asOf, known := r.namesakes(r.following, floor); known {
			return asOf, r.endOthers(next, floor, asOf)
		}
		absent = r.gone() // it may have gone as well
	}
	if absent == 0 {
		return 0, 0
	}
	r.draining = true
	for left := range r.flow.ledger.upTo(absent) {
		if !r.remove(r.delivering, left, absent, progress{}, 0) {
			break
		}
		failpoint.Here(failpoint.WhileDraining)
	}
	return absent, 0
}

// gone is the resource version at which the CRD was seen to be gone; 0 where it
// was not.
func (r *Run) gone() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.absent
}

// endOthers says of every object of the CRD before the target's that it is
// deleted. One that is newer than asOf, or that the target's was seen to have, is
// the target's: it was heard of before its CRD was. It returns how many it has
// seen.
func (r *Run) endOthers(next map[string]row, floor, asOf uint64) (spared int) {
	r.draining = true
	for left := range r.flow.ledger.upTo(asOf) {
		version := asOf
		namespace, _ := split(left.key)
		switch namesake, is := next[left.key]; {
		case is && namesake.uid == left.uid:
			spared++
			continue
		case is && namesake.version > left.version:
			version = namesake.version - 1
		case (namespace == "" || r.successor.Empty == 0) && !r.watches(namespace):
			version = min(floor, asOf) // nobody has looked there
		}
		if !r.remove(r.delivering, left, version, progress{}, 0) {
			break
		}
		failpoint.Here(failpoint.WhileDraining)
	}
	return spared
}

// namesakes asks for the successor's objects of names that are known, as often
// as it takes, and returns them with a version at which there were no others. It
// tells whether there was an answer before ctx ended.
//
// An API server that answers for long, and that it cannot, is not asked further:
// that of a CRD whose conversion is misconfigured does so until somebody
// mends it.
func (r *Run) namesakes(ctx context.Context, floor uint64) (next map[string]row, asOf uint64, known bool) {
	switch {
	case r.successor.Empty != 0:
		return nil, r.successor.Empty, true
	case r.successor.Resource.Plural == "" || r.presence == nil:
		return nil, floor, true
	}
	next = map[string]row{}
	for _, w := range r.watchers {
		if !r.flow.ledger.has(w.covers) {
			continue // it need not be allowed to look there
		}
		found, at, known := r.askNamesakes(ctx, w)
		w.Condition(nil)
		maps.Copy(next, found)
		switch {
		case !known:
			return nil, 0, false
		case at == 0:
			return next, floor, true
		case asOf == 0 || at < asOf:
			asOf = at // what another list does not have was gone before any was made
		}
	}
	if asOf == 0 {
		asOf = floor
	}
	return next, asOf, true
}

// askNamesakes asks for those that one watch would tell of, and returns as of
// when the answer is; 0 where the API server says that it cannot.
func (r *Run) askNamesakes(ctx context.Context, w *watcher) (next map[string]row, asOf uint64, known bool) {
	var unable time.Time // since when it says so
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		next, asOf, err := r.listNamesakes(ctx, w)
		switch {
		case err == nil:
			return next, asOf, true
		case ctx.Err() != nil:
			return nil, 0, false
		case !isUnable(err):
			unable = time.Time{}
		case unable.IsZero():
			unable = time.Now()
		case time.Since(unable) > unableFor:
			return nil, 0, true
		}
		w.Condition(err)
		if !sleep(ctx, retry) {
			return nil, 0, false
		}
	}
}

// isUnable tells whether the API server says that it cannot list a resource, and
// that not because of etcd: an outage of that is waited for.
func isUnable(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsInternalError(err) && !strings.Contains(err.Error(), "etcdserver: ")
}

func (r *Run) listNamesakes(ctx context.Context, w *watcher) (next map[string]row, asOf uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	next = map[string]row{}
	asOf, err = r.presence.All(ctx, r.successor.Resource, w.namespace, func(o *metav1.PartialObjectMetadata) {
		key, seen, err := identify(&object.Object{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), ResourceVersion: o.ResourceVersion})
		switch {
		case err != nil:
			r.invalid(err)
		case r.flow.ledger.knows(key):
			next[key] = seen
		}
	})
	return next, asOf, err
}
