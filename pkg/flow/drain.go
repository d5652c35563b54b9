package flow

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sources"
)

// afterGone is how long a run goes on listening when its CRD is gone: the API
// server may still be sending the deletions that it made before it ended the
// watch, and an object's last state is better than the deduction that it is gone.
const afterGone = 2 * time.Second

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
// that can be known, it has the one that follows the newest that was told, which
// may be below the object's last.
func (f *Flow) StartDrainOthers(ctx context.Context, target Target, next Successor) *Run {
	going := gone
	if !f.isClaimed() {
		going = goneUnknown
	}
	f.condition.setActive(target, going)
	r := f.newRun(ctx, target)
	r.successor = &next
	go r.run(false)
	return r
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
// version as of which that is so; 0 where nothing is gone, or the run was told to
// end before it knew.
func (r *Run) drain() (absent uint64) {
	r.mu.Lock()
	absent = r.absent
	r.mu.Unlock()
	if absent == 0 && r.successor != nil && r.flow.HoldsOthers(r.target.CRD) {
		untold := r.flow.ledger.newestVersion() + 1
		next, asOf, known := r.namesakes(r.following, untold)
		if known {
			r.endAll(asOf, func(left keyed) uint64 { return r.before(left, next, untold, asOf) })
			return asOf
		}
		r.mu.Lock()
		absent = r.absent // it may have gone as well
		r.mu.Unlock()
	}
	if absent != 0 {
		r.endAll(absent, func(keyed) uint64 { return absent })
	}
	return absent
}

// endAll says of every object that is known that it is deleted, as of a version
// of its own. One that is newer than the absence is of another CRD.
func (r *Run) endAll(absent uint64, at func(keyed) uint64) {
	r.draining = true
	for left := range r.flow.ledger.upTo(absent) {
		if !r.remove(r.delivering, left, at(left), progress{}, 0) {
			return
		}
		failpoint.Here(failpoint.WhileDraining)
	}
}

// before is a version at which the object was gone and there was none of the
// successor's of its name: asOf, unless next has one that was made before that,
// or nobody has looked in its namespace.
func (r *Run) before(left keyed, next map[string]row, untold, asOf uint64) uint64 {
	namespace, _ := split(left.key)
	namesake, is := next[left.key]
	switch {
	case is && namesake.uid != left.uid && namesake.version > left.version:
		return namesake.version - 1
	case r.successor.Empty == 0 && !r.watches(namespace):
		return untold
	}
	return asOf
}

// namesakes asks for the successor's objects of names that are known, as often
// as it takes, and returns them with a version at which there were no others. It
// tells whether there was an answer before ctx ended.
func (r *Run) namesakes(ctx context.Context, untold uint64) (next map[string]row, asOf uint64, known bool) {
	switch {
	case r.successor.Empty != 0:
		return nil, r.successor.Empty, true
	case r.successor.Resource.Plural == "" || r.presence == nil:
		return nil, untold, true
	}
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		next, asOf, err := r.askNamesakes(ctx)
		if err == nil {
			r.watchers[0].Condition(nil)
			return next, asOf, true
		}
		if ctx.Err() != nil {
			return nil, 0, false
		}
		r.watchers[0].Condition(err)
		if !sleep(ctx, retry) {
			return nil, 0, false
		}
	}
}

func (r *Run) askNamesakes(ctx context.Context) (next map[string]row, asOf uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	next = map[string]row{}
	var invalid error
	for _, w := range r.watchers {
		at, err := r.presence.All(ctx, r.successor.Resource, w.namespace, func(o *metav1.PartialObjectMetadata) {
			key, seen, err := identify(&object.Object{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), ResourceVersion: o.ResourceVersion})
			switch {
			case err != nil:
				invalid = err
			case r.flow.ledger.knows(key):
				next[key] = seen
			}
		})
		if err != nil {
			return nil, 0, err
		}
		if asOf == 0 || at < asOf {
			asOf = at // what another list does not have was gone before any was made
		}
	}
	return next, asOf, invalid
}
