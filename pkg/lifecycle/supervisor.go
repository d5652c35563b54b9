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
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Options are what a supervisor works with.
type Options struct {
	Routes []config.Route
	Sinks  map[string]sinks.Sink
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

	observations chan observation
	ended        chan *entry
	due          chan *entry
	recalled     chan []sinks.Kept
	requests     requests
	fatal        chan error // holds the first reason for which the bridge cannot go on

	// mu guards entries and patterns for readers. Only the goroutine of Start
	// writes them.
	mu       sync.RWMutex
	entries  map[flow.ID]*entry
	patterns map[flow.ID]*entry // of wildcards, which are followed by the entries of what matches
	leading  bool

	rules map[string]*flow.Rules // of the routes, by name

	// These belong to the goroutine of Start.
	crds    map[string]observation
	atStart map[string]types.UID // CRDs that were there when the routes became active
	asOf    uint64               // the resource version that this was at
	resyncs map[string]uint64    // the last request for each route
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
// Start, but for flow, which is set once.
type entry struct {
	flow   *flow.Flow
	route  *config.Route
	run    *flow.Run   // nil while nothing runs
	target flow.Target // of run, or of the last one
	starts starts
	timer  *time.Timer // until the next start, nil while none is due
	// failure is why the last run could not follow its target.
	failure error
}

// rulesOf are the options of a route's rules.
func rulesOf(r *config.Route) flow.RuleOptions {
	return flow.RuleOptions{
		Namespaces: r.Namespaces, LabelSelector: r.LabelSelector, FieldSelector: r.FieldSelector,
		Events: r.Events, When: r.When, SpecOnly: r.Changes.SpecOnly, Ignore: r.Changes.Ignore,
		Content: string(r.Payload.Content), Drop: r.Payload.Drop, Keep: r.Payload.Keep, Redact: r.Payload.Redact,
	}
}

// NewSupervisor makes the flows of the routes' named CRDs; they wait. Flows of
// wildcards are made when a CRD matches. It fails where a route's rules cannot
// be compiled.
func NewSupervisor(o Options) (*Supervisor, error) {
	s := &Supervisor{
		options:      o,
		observations: make(chan observation),
		ended:        make(chan *entry),
		due:          make(chan *entry),
		recalled:     make(chan []sinks.Kept),
		requests:     requests{asked: map[string]uint64{}, news: make(chan struct{}, 1)},
		fatal:        make(chan error, 1),
		entries:      map[flow.ID]*entry{},
		patterns:     map[flow.ID]*entry{},
		resyncs:      map[string]uint64{},
		crds:         map[string]observation{},
		flapping:     map[flow.ID]starts{},
		rules:        map[string]*flow.Rules{},
	}
	for i := range o.Routes {
		rules, err := flow.NewRules(rulesOf(&o.Routes[i]))
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", o.Routes[i].Name, err)
		}
		s.rules[o.Routes[i].Name] = rules
	}
	for i := range o.Routes {
		route := &o.Routes[i]
		for _, pattern := range route.CRDs {
			for _, sink := range route.Sinks {
				switch {
				case pattern.IsWildcard():
					id := flow.ID{CRD: string(pattern), Route: route.Name, Sink: sink}
					s.patterns[id] = s.newEntry(route, id, nil)
					s.patterns[id].flow.Idle(s.idle())
				case route.Selects(string(pattern)):
					s.ensure(route, string(pattern), sink).flow.Idle(s.idle())
				}
			}
		}
	}
	for name, sink := range o.Sinks {
		keeper := sink.Keeper()
		switch {
		case keeper == nil && o.State != "":
			o.Log.Info("sink has no stream: its ledgers are kept in another, and each of its events is delivered at least once, again after a crash",
				"sink", name, "keeper", o.State)
		case keeper != nil:
			keeper.Notify(sinks.Listener{Fenced: func(err *journal.FencedError) { s.fail(err) }, Resync: s.requests.add})
		}
	}
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
	return slices.ContainsFunc(s.options.Routes, func(r config.Route) bool { return r.Selects(crd) })
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
	s.lead()
	if err := s.learn(ctx); err != nil {
		return nil // ctx ended before the API server answered
	}
	runs, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	recalling := s.recall(ctx)
	defer recalling()
	s.beginAbsent(runs)
	stop := ctx.Done()
	for !s.ending || s.running() {
		select {
		case err := <-s.fatal:
			// What runs is not waited for: it cannot deliver anything any more.
			return err
		case kept := <-s.recalled:
			s.remember(runs, kept)
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

// learn asks which CRDs there are, as often as it takes: what is there now is
// existing on the routes that become active, and what is not comes later.
func (s *Supervisor) learn(ctx context.Context) error {
	for told := ""; ; {
		var err error
		if s.atStart, s.asOf, err = s.present(ctx); err == nil {
			break
		}
		if text := err.Error(); text != told {
			s.options.Log.Warn("the API server does not say which CRDs there are; retrying", "error", err)
			told = text
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return nil
}

const noCRD = "there is no such CRD; the flow starts when it is created"

// apply takes note of how a CRD is, and settles its flows.
func (s *Supervisor) apply(runs context.Context, o observation) {
	if o.crd == nil {
		delete(s.atStart, o.name)
	}
	s.crds[o.name] = o
	for i := range s.options.Routes {
		route := &s.options.Routes[i]
		if !route.Selects(o.name) {
			continue
		}
		for _, sink := range route.Sinks {
			s.settle(runs, s.ensure(route, o.name, sink))
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
	for i := range s.options.Routes {
		route := &s.options.Routes[i]
		for _, sink := range route.Sinks {
			if e, ok := s.entries[flow.ID{CRD: crd, Route: route.Name, Sink: sink}]; ok && e.run != nil {
				return
			}
		}
	}
	delete(s.crds, crd)
}

// ensure is the entry of a flow, made if there is none.
func (s *Supervisor) ensure(route *config.Route, crd, sink string) *entry {
	id := flow.ID{CRD: crd, Route: route.Name, Sink: sink}
	if e, ok := s.entries[id]; ok {
		return e
	}
	e := s.newEntry(route, id, s.patternOf(route, crd, sink))
	e.starts = s.flapping[id]
	delete(s.flapping, id)
	if n := s.resyncs[route.Name]; n > 0 {
		e.flow.RequestResync(n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[id] = e
	return e
}

// newEntry makes a flow, with its ledger where its events go, or else where
// the configuration says that ledgers are kept.
func (s *Supervisor) newEntry(route *config.Route, id flow.ID, pattern *flow.Flow) *entry {
	of := sinks.Flow{Route: id.Route, CRD: id.CRD}
	publisher := s.options.Sinks[id.Sink].Publisher(of)
	kept, is := publisher.(journal.Journal)
	if !is {
		kept = &journal.Memory{}
		if sink, named := s.options.Sinks[s.options.State]; named {
			kept = sink.Keeper().Journal(of, id.Sink) // the configuration names no other
		}
	}
	return &entry{route: route, flow: flow.New(id, s.options.Flows, publisher, kept, pattern)}
}

// patternOf is the flow of the wildcard that brings a CRD onto the route; nil
// where the route names the CRD.
func (s *Supervisor) patternOf(route *config.Route, crd, sink string) *flow.Flow {
	if slices.Contains(route.CRDs, config.CRDPattern(crd)) {
		return nil
	}
	for _, pattern := range route.CRDs {
		if pattern.Matches(crd) {
			return s.patterns[flow.ID{CRD: string(pattern), Route: route.Name, Sink: sink}].flow
		}
	}
	return nil
}

// settle brings one flow closer to what should be: it starts what is missing,
// and tells what should no longer run to end; the rest follows when it has.
func (s *Supervisor) settle(runs context.Context, e *entry) {
	id := e.flow.ID()
	if s.ending || s.entries[id] != e {
		return // a pattern's has nothing to follow
	}
	o, known := s.crds[id.CRD]
	switch {
	case !known && e.run == nil:
		s.rest(e)
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
			e.target.Rules = s.rules[e.route.Name]
			s.watch(runs, e, e.flow.StartDrain(runs, e.target, absent))
		}
	default:
		s.rest(e)
	}
}

// rest is how a flow waits for its CRD: with no series, and with no entry if
// only a wildcard named it.
func (s *Supervisor) rest(e *entry) {
	e.flow.Forget() // before the state says that the flow is at rest
	e.flow.Idle(flow.Waiting, noCRD)
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
	version, err := crd.choose(e.route.Version)
	target := flow.Target{
		Resource: crd.resource(version), CRD: crd.UID,
		Existing: s.atStart[crd.Name] == crd.UID, Created: crd.Created, Rules: s.rules[e.route.Name],
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
			e.target.CRD, e.target.Rules = crd.UID, s.rules[e.route.Name]
			s.watch(runs, e, e.flow.StartDrainOthers(runs, e.target))
		}
	case err != nil:
		e.flow.Idle(flow.Failed, err.Error())
	case !crd.Established:
		reason := "the CRD is not established yet"
		if crd.NotEstablished != "" {
			reason += ": " + crd.NotEstablished
		}
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

// watch holds the handle of a run and waits for its end.
func (s *Supervisor) watch(runs context.Context, e *entry, run *flow.Run) {
	e.run = run
	go func() {
		<-run.Done()
		select {
		case s.ended <- e:
		case <-runs.Done(): // Start has returned
		}
	}()
}

// finish takes note that a flow's run has ended, and settles what comes next.
func (s *Supervisor) finish(runs context.Context, e *entry) {
	run := e.run
	e.run = nil
	if s.ending {
		e.flow.Idle(flow.Stopped, ended)
		return
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
