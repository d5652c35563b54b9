package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Options are what a supervisor works with.
type Options struct {
	Desired // at first
	// State is the name of the sink that keeps the ledgers of flows to sinks
	// that keep none themselves; empty where nobody does.
	State string
	Flows flow.Environment
	// Elected says that the supervisor starts only when this bridge is elected
	// leader; until then its flows are on standby.
	Elected bool
	// Grace is how long flows may go on delivering when the bridge ends.
	Grace   time.Duration
	Backoff Backoff
	Log     *slog.Logger
}

// rebuildGrace is how long a run that makes way for its successor may go on
// delivering what it has heard. What it does not get done, the successor does.
const rebuildGrace = 5 * time.Second

// Supervisor owns the flows: it starts, stops and drains their runs as CRDs
// come, change and go. One goroutine, that of Start, decides; it holds runs by
// handle, and starts a flow's next run only when the one before is done.
type Supervisor struct {
	options Options
	present func(context.Context) (map[string]types.UID, uint64, error)

	// desired is what should be. Once Start has been called, only its goroutine
	// changes it.
	desired atomic.Pointer[desired]
	// state is the sink that keeps the ledgers of others; nil where nobody
	// does. It stays what it was at first.
	state sinks.Sink
	// started says that Start has been called; starting guards it. over is
	// closed when Start has returned.
	starting sync.Mutex
	started  bool
	over     chan struct{}

	observations     chan observation
	ended            chan *entry
	due              chan *entry
	recalled         chan []sinks.Kept
	learnings        chan learned
	reconfigurations chan reconfiguration
	requests         requests
	fatal            chan error // holds the first reason for which the bridge cannot go on
	// asking are goroutines that ask the API server or sinks something, for
	// the one of Start, which waits for them.
	asking sync.WaitGroup

	// mu guards entries and patterns for readers. Only the goroutine of Start
	// writes them.
	mu       sync.RWMutex
	entries  map[flow.ID]*entry
	patterns map[flow.ID]*entry // of wildcards, which are followed by the entries of what matches
	leading  bool

	// These belong to the goroutine of Start.
	crds    map[string]observation
	found   map[string]types.UID // CRDs that were there when the API server was last asked which are
	asOf    uint64               // the resource version that this was at
	resyncs map[string]uint64    // the last request for each route
	waiting []reconfiguration    // for flows to let go of sinks
	// flapping remembers the starts of flows that only a wildcard named and
	// that are gone, for as long as they count.
	flapping map[flow.ID]starts
	ending   bool
}

// observation is what the API server said of a CRD: how it is, or that it is
// gone as of a resource version.
type observation struct {
	name   string
	crd    *CRD
	absent uint64
}

// entry is a flow and what runs of it. Its fields belong to the goroutine of
// Start; others read flow, which it changes under mu.
type entry struct {
	flow    *flow.Flow
	sink    sinks.Sink // that the flow leads to
	pattern *flow.Flow // of the wildcard that it is of
	route   *route
	// unwanted: there should be no such flow. stale: it should be another one,
	// to another sink. Either is done when nothing of it runs any more.
	unwanted, stale bool
	// claimed: of a wildcard's flow, that its run has begun.
	claimed bool

	run    *flow.Run   // nil while nothing runs
	target flow.Target // of run, or of the last one
	starts starts
	timer  *time.Timer // until the next start, nil while none is due
	// failure is why the last run could not follow its target.
	failure error
}

// NewSupervisor makes the flows of the routes' named CRDs; they wait. Flows of
// wildcards are made when a CRD matches. It fails where a route's rules cannot
// be compiled.
func NewSupervisor(o Options) (*Supervisor, error) {
	s := &Supervisor{
		options:          o,
		over:             make(chan struct{}),
		observations:     make(chan observation),
		ended:            make(chan *entry),
		due:              make(chan *entry),
		recalled:         make(chan []sinks.Kept),
		learnings:        make(chan learned),
		reconfigurations: make(chan reconfiguration),
		requests:         requests{asked: map[string]uint64{}, news: make(chan struct{}, 1)},
		fatal:            make(chan error, 1),
		resyncs:          map[string]uint64{},
		crds:             map[string]observation{},
		flapping:         map[flow.ID]starts{},
	}
	if o.State != "" {
		s.state = o.Sinks[o.State]
	}
	first, err := o.from(nil)
	if err != nil {
		return nil, err
	}
	s.adopt(first)
	return s, nil
}

// idle is how a flow is of which nothing is known yet.
func (s *Supervisor) idle() (flow.State, string) {
	if s.options.Elected {
		return flow.Standby, "another bridge leads, or none has been elected yet"
	}
	return flow.Waiting, notYet
}

// concerns tells whether the CRD is on any route.
func (s *Supervisor) concerns(crd string) bool {
	return s.desired.Load().concerns(crd)
}

// observe hands an observation to the goroutine of Start, and waits until it
// has been taken.
func (s *Supervisor) observe(ctx context.Context, o observation) error {
	select {
	case s.observations <- o:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// NeedLeaderElection makes the manager start the supervisor when elected.
func (s *Supervisor) NeedLeaderElection() bool { return true }

// Start supervises until ctx is done; then it stops all runs, and returns when
// they have delivered what they could within the grace. It is called once.
func (s *Supervisor) Start(ctx context.Context) error {
	s.starting.Lock()
	s.started = true
	s.starting.Unlock()
	defer close(s.over)
	s.lead()
	uids, asOf, err := s.askAPI(ctx)
	if err != nil {
		return nil // ctx ended before the API server answered
	}
	runs, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	asking, askNot := context.WithCancel(ctx)
	defer s.asking.Wait()
	defer askNot()
	s.learn(asking, runs, learned{s.desired.Load(), uids, asOf})
	stop := ctx.Done()
	for !s.ending || s.running() {
		select {
		case err := <-s.fatal:
			// What runs is not waited for: it cannot deliver anything any more.
			return err
		case kept := <-s.recalled:
			s.remember(runs, kept)
		case l := <-s.learnings:
			s.learn(asking, runs, l)
		case r := <-s.reconfigurations:
			s.reconfigure(asking, runs, r)
		case <-s.requests.news:
			s.resync(s.requests.take())
		case o := <-s.observations:
			s.apply(runs, o)
		case e := <-s.ended:
			s.finish(runs, e)
		case e := <-s.due:
			e.timer = nil
			s.settle(runs, e)
		case <-stop:
			stop = nil
			s.end()
		}
	}
	return nil
}

func (s *Supervisor) lead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leading = true
	for e := range s.all() {
		e.flow.Idle(flow.Waiting, notYet)
	}
}

const notYet = "the API server has not said yet whether the CRD exists"

const noCRD = "there is no such CRD; the flow starts when it is created"

// noSuchCRD says so, and which one may have been meant.
func (s *Supervisor) noSuchCRD(name string) string {
	if meant := config.Nearest(name, slices.Collect(maps.Keys(s.found))); meant != "" {
		return noCRD + "; did you mean " + meant + "?"
	}
	return noCRD
}

// apply takes note of how a CRD is, and settles its flows.
func (s *Supervisor) apply(runs context.Context, o observation) {
	if o.crd == nil {
		delete(s.found, o.name)
	}
	s.crds[o.name] = o
	for _, r := range s.desired.Load().routes {
		if !r.Selects(o.name) {
			continue
		}
		for _, sink := range r.Sinks {
			s.settle(runs, s.ensure(r, o.name, sink))
		}
	}
	s.forget(o.name)
}

// forget lets go of what is known of a CRD that is gone, once nothing of it
// is left to be drained.
func (s *Supervisor) forget(crd string) {
	if o, known := s.crds[crd]; !known || o.crd != nil {
		return
	}
	for _, r := range s.desired.Load().routes {
		for _, sink := range r.Sinks {
			if e, ok := s.entries[flow.ID{CRD: crd, Route: r.Name, Sink: sink}]; ok && e.run != nil {
				return
			}
		}
	}
	delete(s.crds, crd)
}

// ensure is the entry of a flow, made if there is none.
func (s *Supervisor) ensure(r *route, crd, sink string) *entry {
	id := flow.ID{CRD: crd, Route: r.Name, Sink: sink}
	if e, ok := s.entries[id]; ok {
		return e
	}
	e := s.newEntry(r, id)
	e.starts = s.flapping[id]
	delete(s.flapping, id)
	if n := s.resyncs[r.Name]; n > 0 {
		e.flow.RequestResync(n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[id] = e
	return e
}

// newEntry makes a flow, with its ledger where its events go, or else where
// the configuration says that ledgers are kept.
func (s *Supervisor) newEntry(r *route, id flow.ID) *entry {
	of := sinks.Flow{Route: id.Route, CRD: id.CRD}
	sink := s.desired.Load().sinks[id.Sink]
	publisher := sink.Publisher(of)
	kept, is := publisher.(journal.Journal)
	if !is {
		kept = &journal.Memory{}
		if s.state != nil {
			kept = s.state.Keeper().Journal(of, id.Sink) // the configuration names no other
		}
	}
	pattern := s.patternOf(r, id)
	return &entry{route: r, sink: sink, pattern: pattern, flow: flow.New(id, s.options.Flows, publisher, kept, pattern)}
}

// settle brings one flow closer to what should be: it starts what is missing,
// and tells what should no longer run to end; the rest follows when it has.
func (s *Supervisor) settle(runs context.Context, e *entry) {
	id := e.flow.ID()
	if s.ending || e.unwanted || e.stale || !e.route.knows(id.CRD) {
		return // it is on its way out, or what is there may be existing or created
	}
	if s.patterns[id] == e {
		if e.run == nil && !e.claimed { // it has nothing to follow
			e.claimed, e.target.Rules = true, e.route.rules
			s.watch(runs, e, e.flow.StartDrain(runs, e.target, s.asOf))
		} else if e.run == nil {
			e.flow.Rest() // its claim was all that it is for
		}
		return
	}
	o, known := s.crds[id.CRD]
	switch {
	case !known && e.run == nil:
		if _, there := s.found[id.CRD]; !there { // otherwise the controller looks at it
			s.rest(e)
		}
	case !known: // its drain is under way
	case o.crd == nil:
		s.gone(runs, e, o.absent)
	default:
		s.there(runs, e, o.crd)
	}
}

// gone drains the flow of a CRD that is no more.
func (s *Supervisor) gone(runs context.Context, e *entry, absent uint64) {
	switch {
	case e.run != nil:
		e.run.Drain(absent)
	case e.flow.Holds(absent):
		if s.mayStart(runs, e) {
			e.target.Rules = e.route.rules
			s.watch(runs, e, e.flow.StartDrain(runs, e.target, absent))
		}
	default:
		s.rest(e)
	}
}

// rest is how a flow waits for its CRD: with no series, and with no entry if
// only a wildcard named it.
func (s *Supervisor) rest(e *entry) {
	e.flow.Rest() // before the state says that the flow is at rest
	e.flow.Idle(flow.Waiting, s.noSuchCRD(e.flow.ID().CRD))
	if e.timer != nil && e.timer.Stop() {
		e.timer = nil
	}
	id := e.flow.ID()
	if slices.Contains(e.route.CRDs, config.CRDPattern(id.CRD)) || e.flow.Holds(math.MaxUint64) {
		return
	}
	now := time.Now()
	s.flapping[id] = e.starts
	maps.DeleteFunc(s.flapping, func(_ flow.ID, of starts) bool { return now.Sub(of.last) >= s.options.Backoff.Stable })
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, id)
}

// there makes the flow follow the CRD, in the version that it should.
func (s *Supervisor) there(runs context.Context, e *entry, crd *CRD) {
	version, err := crd.Choose(e.route.Version)
	if err == nil && !crd.Namespaced && e.route.rules.NamesNamespaces() {
		err = fmt.Errorf("%s is cluster-scoped, and the route selects objects of namespaces: it has none of them; take it out of the route, or put it on one without namespaces", crd.Name)
	}
	reason := crd.unestablished()
	if err != nil {
		reason = err.Error()
	}
	target := flow.Target{
		Resource: crd.resource(version), CRD: crd.UID,
		Existing: e.route.present[crd.Name] == crd.UID, Created: crd.Created, Rules: e.route.rules,
	}
	switch {
	case e.run != nil && err == nil && target == e.target:
		if crd.Deleting {
			e.flow.Going()
		}
	case e.run != nil:
		e.run.Stop(rebuildGrace)
	case (err != nil || !crd.Established) && e.flow.HoldsOthers(crd.UID):
		if s.mayStart(runs, e) {
			e.target.CRD, e.target.Rules = crd.UID, e.route.rules
			s.watch(runs, e, e.flow.StartDrainOthers(runs, e.target, crd.successor(e.route.rules, reason)))
		}
	case err != nil:
		e.flow.Idle(flow.Failed, reason)
	case !crd.Established:
		e.flow.Rest()
		e.flow.Idle(flow.Waiting, reason)
	default:
		s.start(runs, e, target, crd.Deleting)
	}
}

// start begins a run, now or when the backoff lets it.
func (s *Supervisor) start(runs context.Context, e *entry, target flow.Target, deleting bool) {
	if !s.mayStart(runs, e) {
		return
	}
	e.target = target
	s.watch(runs, e, e.flow.Start(runs, target))
	if deleting {
		e.flow.Going()
	}
}

// mayStart tells whether the backoff lets a run begin now, and notes that it
// does. Where it does not, the flow is settled again when it will.
func (s *Supervisor) mayStart(runs context.Context, e *entry) bool {
	if e.timer != nil {
		return false
	}
	now := time.Now()
	wait := e.starts.wait(s.options.Backoff, now)
	if wait == 0 {
		e.starts.started(s.options.Backoff, now)
		e.failure = nil
		return true
	}
	if e.failure == nil {
		e.flow.Idle(flow.Waiting, "it was started often of late; the next start is in "+wait.Round(time.Millisecond).String())
	}
	e.timer = time.AfterFunc(wait, func() {
		select {
		case s.due <- e:
		case <-runs.Done():
		}
	})
	return false
}

// watch holds the handle of a run until its end.
func (s *Supervisor) watch(runs context.Context, e *entry, run *flow.Run) {
	e.run = run
	run.OnDone(func() {
		select {
		case s.ended <- e:
		case <-runs.Done(): // Start has returned
		}
	})
}

// finish takes note that a flow's run has ended, and settles what comes next.
func (s *Supervisor) finish(runs context.Context, e *entry) {
	run := e.run
	e.run = nil
	if s.ending {
		e.flow.Idle(flow.Stopped, ended)
		return
	}
	defer s.release()
	if e.unwanted || e.stale {
		s.change(e)
	}
	e.failure = run.Err()
	if fenced, is := errors.AsType[*journal.FencedError](e.failure); is {
		s.fail(fenced)
		return
	}
	switch {
	case errors.Is(e.failure, journal.ErrReplaced):
		e.failure = nil // it is restored when it starts again
	case e.failure != nil:
		e.flow.Idle(flow.Failed, e.failure.Error())
	}
	s.settle(runs, e)
	s.forget(e.flow.ID().CRD)
}

// end stops all runs; Start waits for them.
func (s *Supervisor) end() {
	s.ending = true
	for e := range s.all() {
		if e.timer != nil {
			e.timer.Stop()
		}
		if e.run != nil {
			e.run.End(s.options.Grace)
			continue
		}
		e.flow.Idle(flow.Stopped, ended)
	}
}

// all are the entries of CRDs and of patterns.
func (s *Supervisor) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, entries := range []map[flow.ID]*entry{s.entries, s.patterns} {
			for _, e := range entries {
				if !yield(e) {
					return
				}
			}
		}
	}
}

const ended = "the bridge is ending"

func (s *Supervisor) running() bool {
	for e := range s.all() {
		if e.run != nil {
			return true
		}
	}
	return false
}
