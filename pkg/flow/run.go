package flow

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sources"
)

// Target is what a run follows, and what of it is told.
type Target struct {
	Resource sources.Resource
	// CRD is the uid of the CRD whose objects they are.
	CRD types.UID
	// Existing says that the CRD was there when the route became active, so
	// that the objects of its first list are existing and not created.
	Existing bool
	// Created is when the CRD was, in seconds of Unix time by the API server's
	// clock; 0 where there is none.
	Created int64
	// Rules say what of the objects and their changes is delivered.
	Rules *Rules
}

// Run follows a target and delivers what it finds, until it is told to stop,
// to drain or to abort. When Done is closed,
// no goroutine, watch or informer of it is left.
type Run struct {
	flow   *Flow
	target Target
	origin events.Origin
	queue  *queue
	series *series
	// retries are those of all flows to the sink.
	retries prometheus.Counter
	// source hands what happens from a resource version on, or all that there
	// is, to a watcher until ctx is done.
	source func(ctx context.Context, to *watcher, from sources.Start) error
	// presence says whether an object exists that left a selection; nil in
	// tests that do not ask.
	presence presence
	watchers []*watcher

	following  context.Context // done: no longer listen
	listenNot  context.CancelFunc
	delivering context.Context // done: no longer deliver
	deliverNot context.CancelFunc
	sourcing   context.Context // done: the source is of no use; part of following
	sourceNot  context.CancelCauseFunc
	done       chan struct{}

	// successor is the target's CRD where what is left of the one before it is to
	// be drained.
	successor *Successor
	// anew: what was delivered before is not in the place where events go now.
	anew bool
	// handling is held by the one watcher that makes something of what it
	// hears, so that the others wait when it does. It guards what follows, and
	// what watchers have of their own. resync is the requested one that is under
	// way, reselected that the route selects otherwise than when the ledger was
	// kept, each until all is told of it. told is what no event that was made
	// before this run has a later sequence than. past is nil where nobody asks
	// what objects were like before.
	handling   sync.Mutex
	resync     uint64
	reselected bool
	told       uint64
	past       past
	draining   bool // nobody is listened to any more

	// unanswered is what is left of the batch that was on its way when
	// delivering ended; only deliver writes it.
	unanswered []item
	saver      saver

	// mu guards what others look at: what follows, and of the target its Resource,
	// which a drain learns from the journal.
	mu      sync.Mutex
	absent  uint64 // the resource version at which the CRD was seen to be gone
	missing bool   // the API server answers 404 to list or watch
	final   bool   // no other run follows in this process
	drained bool
	err     error
	onDone  func()
}

// presence is what of sources.Presence a run needs.
type presence interface {
	Of(ctx context.Context, r sources.Resource, namespace, name string) (uid types.UID, asOf uint64, err error)
	All(ctx context.Context, r sources.Resource, namespace string, object func(*metav1.PartialObjectMetadata)) (asOf uint64, err error)
}

// Start begins to follow the target. ctx ending is an abort.
func (f *Flow) Start(ctx context.Context, target Target) *Run {
	f.condition.setActive(target, "")
	r := f.newRun(ctx, target)
	r.series.starts.Add(1)
	go r.run(true)
	return r
}

func (f *Flow) isClaimed() bool {
	select {
	case <-f.claimed:
		return true
	default:
		return false
	}
}

func (f *Flow) newRun(ctx context.Context, target Target) *Run {
	r := &Run{
		flow: f, target: target,
		queue:   newQueue(f.env.Memory),
		series:  f.env.Metrics.of(f.id),
		retries: f.env.Metrics.retriesTo(f.id.Sink),
		done:    make(chan struct{}),

		saver: saver{digestsStay: target.Rules.digestsStay()},
	}
	if f.env.API.Presence != nil {
		r.presence = f.env.API.Presence
	}
	for _, namespace := range target.Rules.namespaces() {
		r.watchers = append(r.watchers, &watcher{run: r, namespace: namespace})
	}
	if target.Rules.needsPast() {
		r.past = past{}
	}
	r.source = func(ctx context.Context, to *watcher, from sources.Start) error {
		return sources.Follow(ctx, f.env.API, target.Resource, target.Rules.selected(to.namespace), from, to)
	}
	r.delivering, r.deliverNot = context.WithCancel(ctx)
	r.following, r.listenNot = context.WithCancel(r.delivering)
	r.sourcing, r.sourceNot = context.WithCancelCause(r.following)
	f.run.Store(r)
	f.journal.OnDue(func() { r.queue.mark(progress{}) }) // has deliver look whether it is
	return r
}

// Stop ends the run: it stops listening at once, goes on delivering what it
// has heard for as long as grace, and is then done. What was not delivered is
// found again by the flow's next run. It may be called often.
func (r *Run) Stop(grace time.Duration) {
	r.listenNot()
	stop := time.AfterFunc(grace, r.deliverNot)
	context.AfterFunc(r.delivering, func() { stop.Stop() })
}

// End is Stop where the process is about to end: within the grace the ledger
// is put down so that the way back is short.
func (r *Run) End(grace time.Duration) {
	r.mu.Lock()
	r.final = true
	r.mu.Unlock()
	r.Stop(grace)
}

// Done is closed when the run has ended and nothing of it is left.
func (r *Run) Done() <-chan struct{} { return r.done }

// OnDone has f called when the run is done, or now if it is. It is called once,
// for one who cannot afford a goroutine that waits for each run.
func (r *Run) OnDone(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.done:
		go f()
	default:
		r.onDone = f
	}
}

// over closes Done, and tells who wants to know.
func (r *Run) over() {
	r.mu.Lock()
	close(r.done)
	onDone := r.onDone
	r.mu.Unlock()
	if onDone != nil {
		onDone()
	}
}

// Err is, once the run is done, why it could not go on: a
// *journal.FencedError where another bridge has taken over.
func (r *Run) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *Run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
}

func (r *Run) run(follow bool) {
	defer r.over()
	defer r.deliverNot() // releases all contexts
	defer r.flow.run.Store(nil)
	defer r.flow.journal.OnDue(nil)
	defer r.queue.discard()
	defer func() { r.flow.unsaved = r.saver.rows }()
	r.saver.take(r.flow.unsaved)
	if !r.claim() || !r.begin(follow) {
		return
	}
	delivered := make(chan struct{})
	r.queue.serve(func() {
		if r.deliver() {
			close(delivered)
		}
	})
	if follow {
		r.follow()
	}
	absent, spared := r.drain()
	r.queue.close()
	<-delivered
	r.finish(absent, spared)
}

// follow hands what the sources bring to the watchers, until the run is told to
// end. A source that cannot go on is not asked again, and ends the others.
func (r *Run) follow() {
	if !r.isRewound() {
		starts := make([]sources.Start, len(r.watchers))
		for n, w := range r.watchers {
			starts[n] = w.start()
		}
		var following sync.WaitGroup
		for n, w := range r.watchers[1:] {
			following.Go(func() { r.watch(w, starts[n+1]) })
		}
		r.watch(r.watchers[0], starts[0]) // most flows have one, and no goroutine more for it
		following.Wait()
		if r.Err() != nil {
			return
		}
	}
	if r.isRewound() {
		<-r.following.Done()
	}
}

// watch follows what one watcher is for.
func (r *Run) watch(w *watcher, from sources.Start) {
	if err := r.source(r.sourcing, w, from); err != nil {
		r.fail(err)
		r.sourceNot(err)
	}
}

// partDone takes note that one more watch has told its part of the requested
// resync, or of what the route selects now. When all have, what is left is told
// of: objects that none of them selects. It tells whether that was done before
// ctx ended.
func (r *Run) partDone(ctx context.Context) bool {
	owing := 0
	newest := uint64(0)
	for _, w := range r.watchers {
		if w.owes {
			owing++
		}
		newest = max(newest, w.version)
	}
	if owing > 1 {
		return true
	}
	if r.reselected {
		for _, w := range r.watchers {
			absent := r.flow.ledger.where(func(key []byte, of row) bool {
				return of.list != w.list && of.version <= w.version && w.covers(key)
			})
			if !r.ended(ctx, absent, w.version, progress{}, true) {
				return false
			}
		}
		unwatched := r.flow.ledger.where(func(key []byte, _ row) bool {
			return !slices.ContainsFunc(r.watchers, func(w *watcher) bool { return w.covers(key) })
		})
		if !r.ended(ctx, unwatched, newest, progress{}, true) {
			return false
		}
	}
	r.queue.mark(progress{resync: r.resync, selection: r.target.Rules.selection()})
	r.resync, r.reselected = 0, false
	return true
}

// version is that of the CRD that the run follows.
func (r *Run) version() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.target.Resource.Kind.Version
}

// isRewound tells whether the API server has been put back to before what was
// delivered, and nobody has said yet how to go on.
func (r *Run) isRewound() bool { return r.flow.ledger.state().Rewound != 0 }

// finish closes the books when nothing is delivered any more. What a drain has
// spared is of the CRD that is there.
func (r *Run) finish(absent uint64, spared int) {
	ledger := r.flow.ledger
	pending, _ := r.queue.waiting()
	ledger.forgetPending(r.unanswered)
	r.series.pending.Store(0)
	drained := absent != 0 && pending == 0 && ledger.count(absent) == spared
	if drained {
		failpoint.Here(failpoint.AfterDrain)
		ledger.endIncarnation()
		if spared > 0 {
			ledger.begin(r.target.CRD, false) // whose end is told if that goes in its turn
		}
	}
	if r.Err() == nil && r.delivering.Err() == nil {
		r.save(r.delivering)
		r.mu.Lock()
		final := r.final
		r.mu.Unlock()
		if final && len(r.unanswered) == 0 {
			r.lastSnapshot(r.delivering)
		}
	}
	r.saver.wait()
	r.mu.Lock()
	r.drained = drained
	r.mu.Unlock()
}

// rewound notes that what the API server tells is older than what was
// delivered, and gives up the source.
func (r *Run) rewound(err *sources.RewoundError) {
	r.flow.ledger.setRewound(err.Position)
	r.flow.condition.setRewound(r.rewoundWords(err))
	r.sourceNot(err)
	r.queue.mark(progress{}) // has it recorded
}

// invalid notes an object or answer that the bridge cannot understand. It is
// nothing that a retry mends, so the flow says so until it is started anew.
func (r *Run) invalid(err error) {
	r.flow.log.Error("what the API server sent cannot be made an event, and is left out", "error", err)
	r.flow.condition.setInvalid(err)
}

// stateNow is what is to be recorded of the flow.
func (r *Run) stateNow() journal.State {
	s := r.flow.ledger.state()
	id := r.flow.id
	s.CRD, s.Route, s.Sink = id.CRD, id.Route, id.Sink
	s.Active = r.flow.active
	s.Version, s.Kind, s.Namespaced = r.target.Resource.Kind.Version, r.target.Resource.Kind.Kind, r.target.Resource.Namespaced
	return s
}
