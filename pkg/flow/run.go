package flow

import (
	"context"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sources"
)

// Target is what a run follows.
type Target struct {
	Resource sources.Resource
	// CRD is the uid of the CRD whose objects they are.
	CRD types.UID
	// Existing says that the CRD was there when the route became active, so
	// that the objects of its first list are existing and not created.
	Existing bool
}

// Run follows a target and delivers what it finds, until it is told to stop,
// to drain or to abort. It is the handler of its source. When Done is closed,
// no goroutine, watch or informer of it is left.
type Run struct {
	flow   *Flow
	target Target
	origin events.Origin
	queue  *queue
	series series

	following  context.Context // done: no longer listen
	listenNot  context.CancelFunc
	delivering context.Context // done: no longer deliver
	deliverNot context.CancelFunc
	done       chan struct{}

	// heard is set once a list has been heard to its end; only the source
	// uses it. unanswered is what is left of the batch that was on its way
	// when delivering ended; only deliver writes it.
	heard      bool
	unanswered []item

	mu      sync.Mutex
	absent  uint64 // the resource version at which the CRD was seen to be gone
	missing bool   // the API server answers 404 to list or watch
	drained bool
	err     error
}

// afterGone is how long a run goes on listening when its CRD is gone: the API
// server may still be sending the deletions that it made before it ended the
// watch, and an object's last state is better than the deduction that it is gone.
const afterGone = 2 * time.Second

// Start begins to follow the target. ctx ending is an abort.
func (f *Flow) Start(ctx context.Context, target Target) *Run {
	recreated := f.ledger.begin(target.CRD)
	position, listed := f.ledger.resume()
	f.condition.setActive(rule(target.Resource), listed, "")
	r := f.newRun(ctx, target)
	r.heard = listed
	r.series.starts.Inc()
	if recreated {
		r.series.recreated.Inc()
	}
	resume := ""
	if listed && position > 0 {
		resume = strconv.FormatUint(position, 10)
	}
	go r.run(func() error { return sources.Follow(r.following, f.env.API, target.Resource, resume, r) })
	return r
}

// StartDrain begins to deliver the end of all objects that are still known,
// of a CRD that is gone and was described by the target.
func (f *Flow) StartDrain(ctx context.Context, target Target, absent uint64) *Run {
	f.condition.setActive(rule(target.Resource), true, gone)
	r := f.newRun(ctx, target)
	r.absent = absent
	go r.run(func() error { return nil })
	return r
}

const gone = "the CRD is gone"

func (f *Flow) newRun(ctx context.Context, target Target) *Run {
	kind := target.Resource.Kind
	r := &Run{
		flow: f, target: target,
		origin: events.Origin{
			Cluster: f.env.Cluster, Group: kind.Group, Version: kind.Version, Kind: kind.Kind,
			Resource: target.Resource.Plural, Namespaced: target.Resource.Namespaced, Route: f.id.Route,
		},
		queue:  newQueue(f.env.Memory),
		series: f.env.Metrics.of(f.id),
		done:   make(chan struct{}),
	}
	r.delivering, r.deliverNot = context.WithCancel(ctx)
	r.following, r.listenNot = context.WithCancel(r.delivering)
	f.run.Store(r)
	return r
}

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

// Stop ends the run: it stops listening at once, goes on delivering what it
// has heard for as long as grace, and is then done. What was not delivered is
// found again by the flow's next run. It may be called often.
func (r *Run) Stop(grace time.Duration) {
	r.listenNot()
	stop := time.AfterFunc(grace, r.deliverNot)
	context.AfterFunc(r.delivering, func() { stop.Stop() })
}

// Done is closed when the run has ended and nothing of it is left.
func (r *Run) Done() <-chan struct{} { return r.done }

// Drained tells, once the run is done, whether the deletion of every object
// is durable.
func (r *Run) Drained() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drained
}

// Err is, once the run is done, why it could not follow its target.
func (r *Run) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Run) run(follow func() error) {
	defer close(r.done)
	defer r.deliverNot() // releases both contexts
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		r.deliver()
	}()

	err := follow()
	r.mu.Lock()
	absent := r.absent
	r.mu.Unlock()
	if absent != 0 {
		r.drain(absent)
	}
	r.queue.close()
	<-delivered
	pending, _ := r.queue.waiting()
	r.queue.discard()
	r.flow.ledger.forgetPending(r.unanswered)
	r.series.pending.Set(0)
	drained := absent != 0 && pending == 0 && len(r.flow.ledger.upTo(absent)) == 0
	if drained {
		r.flow.ledger.endIncarnation()
	}
	r.flow.run.Store(nil)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.drained, r.err = drained, err
}

// drain says of every object that is still known that it is deleted. An
// object that is newer than the CRD's absence is another incarnation's.
func (r *Run) drain(absent uint64) {
	for _, left := range r.flow.ledger.upTo(absent) {
		if !r.remove(r.delivering, left, absent, 0) {
			return
		}
	}
}

// Condition takes the API server's answer to a list or watch.
func (r *Run) Condition(err error) {
	r.mu.Lock()
	r.missing = apierrors.IsNotFound(err)
	if r.missing && r.absent != 0 {
		r.listenNot()
	}
	r.mu.Unlock()
	r.flow.condition.setSource(err)
}

// invalid notes an object or answer that the bridge cannot understand. It is
// nothing that a retry mends, so the flow says so until it is started anew.
func (r *Run) invalid(err error) {
	r.flow.log.Error("what the API server sent cannot be made an event, and is left out", "error", err)
	r.flow.condition.setInvalid(err)
}
