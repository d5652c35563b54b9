package lifecycle

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// reconfiguration is what should be from now on.
type reconfiguration struct {
	desired *desired
	// released is closed when no flow uses a sink any more that is not among
	// those of desired.
	released chan struct{}
}

// learned is which CRDs there are, as asked for a reconfiguration.
type learned struct {
	of   *desired
	uids map[string]types.UID
	asOf uint64
}

// ErrEnded is why a supervisor that has ended is not reconfigured.
var ErrEnded = errors.New("the supervisor has ended")

// Reconfigure makes other routes and sinks those that should be. A flow that is
// the same in both goes on undisturbed. One that is no longer wanted is stopped,
// and nobody is told that its objects are gone: its ledger stays where it is,
// so that it goes on from there if it is wanted again. One whose rules, version
// or sink are others is stopped, and when it has ended begins anew.
//
// It returns when this is under way. released is closed when the sinks that are
// not among the new ones are not used any more. It fails where the routes
// cannot be compiled, and then nothing has changed.
//
// One call at a time.
func (s *Supervisor) Reconfigure(ctx context.Context, d Desired) (released <-chan struct{}, err error) {
	next, err := d.from(s.desired.Load())
	if err != nil {
		return nil, err
	}
	r := reconfiguration{desired: next, released: make(chan struct{})}
	s.starting.Lock()
	if !s.started {
		defer s.starting.Unlock()
		s.adopt(next)
		close(r.released)
		return r.released, nil
	}
	s.starting.Unlock()
	select {
	case s.reconfigurations <- r:
		return r.released, nil
	case <-s.over:
		return nil, ErrEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// adopt makes the flows of what should be while nothing runs.
func (s *Supervisor) adopt(next *desired) {
	s.listen(s.desired.Load(), next)
	s.desired.Store(next)
	s.tellMetrics(next)
	s.mu.Lock()
	s.entries, s.patterns = map[flow.ID]*entry{}, map[flow.ID]*entry{}
	s.mu.Unlock()
	s.ensureAll(next)
}

// tellMetrics has the metrics be of what should be, and of nothing else.
func (s *Supervisor) tellMetrics(d *desired) {
	s.options.Flows.Metrics.Configured(d.wants, slices.Collect(maps.Keys(d.sinks)))
}

// ensureAll makes the flows of the CRDs that routes name, and of wildcards.
func (s *Supervisor) ensureAll(d *desired) {
	for _, r := range d.routes {
		for _, pattern := range r.CRDs {
			for _, sink := range r.Sinks {
				id := flow.ID{CRD: string(pattern), Route: r.Name, Sink: sink}
				switch {
				case pattern.IsWildcard():
					if _, ok := s.patterns[id]; !ok {
						e := s.newEntry(r, id)
						e.flow.Idle(s.idle())
						s.mu.Lock()
						s.patterns[id] = e
						s.mu.Unlock()
					}
				case r.Selects(string(pattern)):
					if _, ok := s.entries[id]; !ok {
						s.ensure(r, string(pattern), sink).flow.Idle(s.idle())
					}
				}
			}
		}
	}
}

// listen has the new ones among the sinks report what others do.
func (s *Supervisor) listen(before, next *desired) {
	for name, sink := range next.sinks {
		if before != nil && before.sinks[name] == sink {
			continue
		}
		keeper := sink.Keeper()
		switch {
		case keeper == nil && s.state != nil:
			s.options.Log.Info("sink has no stream: its ledgers are kept in another, and each of its events is delivered at least once, again after a crash",
				"sink", name, "keeper", s.options.State)
		case keeper != nil:
			keeper.Notify(sinks.Listener{
				Fenced: func(err *journal.FencedError) {
					// A sink that was replaced sees its successor take over.
					if s.desired.Load().sinks[name] == sink || sink == s.state {
						s.fail(err)
					}
				},
				Resync: s.requests.add,
			})
		}
	}
}

// reconfigure brings the flows closer to what should be from now on.
func (s *Supervisor) reconfigure(ctx, runs context.Context, r reconfiguration) {
	before := s.desired.Load()
	s.listen(before, r.desired)
	s.desired.Store(r.desired)
	s.tellMetrics(r.desired)
	for _, route := range r.desired.routes {
		if route.before != nil && route.present == nil {
			route.present = route.before.present
			if !route.pending {
				route.before = nil
			}
		}
	}
	s.waiting = append(s.waiting, r)
	maps.DeleteFunc(s.crds, func(crd string, _ observation) bool { return !r.desired.concerns(crd) })
	for e := range s.all() {
		e.unwanted = !r.desired.wants(e.flow.ID())
		if !e.unwanted {
			e.route = r.desired.route(e.flow.ID().Route)
		}
	}
	s.ensureAll(r.desired)
	for e := range s.all() {
		id := e.flow.ID()
		e.stale = !e.unwanted && (e.sink != r.desired.sinks[id.Sink] || e.pattern != s.patternOf(e.route, id))
		switch {
		case !e.unwanted && !e.stale:
		case e.run != nil:
			e.run.Stop(rebuildGrace)
		default:
			s.change(e)
		}
	}
	for _, e := range slices.Collect(s.all()) {
		s.settle(runs, e)
	}
	for crd := range maps.Clone(s.crds) { // also those of which other routes know
		s.apply(runs, s.crds[crd])
	}
	s.release()
	s.ask(ctx, r.desired)
}

// change makes a flow that does not run what it should be: none, or one with
// another sink.
func (s *Supervisor) change(e *entry) {
	id := e.flow.ID()
	if e.unwanted {
		e.flow.Forget()
		if e.timer != nil {
			e.timer.Stop()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.entries, id)
		delete(s.patterns, id)
		return
	}
	fresh := s.newEntry(e.route, id)
	s.mu.Lock()
	e.flow, e.sink, e.pattern, e.stale, e.claimed = fresh.flow, fresh.sink, fresh.pattern, false, false
	s.mu.Unlock()
	e.flow.Idle(flow.Waiting, notYet)
	if n := s.resyncs[id.Route]; n > 0 {
		e.flow.RequestResync(n)
	}
}

// release says which reconfigurations have let go of the sinks that they do
// not have.
func (s *Supervisor) release() {
	s.waiting = slices.DeleteFunc(s.waiting, func(r reconfiguration) bool {
		for e := range s.all() {
			if e.run != nil && e.sink != r.desired.sinks[e.flow.ID().Sink] {
				return false
			}
		}
		close(r.released)
		return true
	})
}

// ask finds out, beside what else goes on, which CRDs there are and what sinks
// know of flows, where routes are new.
func (s *Supervisor) ask(ctx context.Context, d *desired) {
	if !slices.ContainsFunc(d.routes, func(r *route) bool { return r.pending }) {
		return
	}
	s.asking.Go(func() {
		uids, asOf, err := s.askAPI(ctx)
		if err != nil {
			return // ctx has ended
		}
		select {
		case s.learnings <- learned{d, uids, asOf}:
		case <-ctx.Done():
		}
	})
}

// learn begins with the routes that were waiting to know which CRDs there are.
func (s *Supervisor) learn(ctx, runs context.Context, l learned) {
	if l.of != s.desired.Load() {
		return // what came after asks for itself
	}
	s.found, s.asOf = l.uids, l.asOf
	var began []*route
	for _, r := range l.of.routes {
		if r.pending {
			r.learn(l.uids)
			began = append(began, r)
		}
	}
	s.beginAbsent(runs, began)
	for _, e := range slices.Collect(maps.Values(s.entries)) {
		if slices.Contains(began, e.route) {
			s.settle(runs, e)
		}
	}
	s.recall(ctx)
}

// askAPI asks which CRDs there are, as often as it takes.
func (s *Supervisor) askAPI(ctx context.Context) (uids map[string]types.UID, asOf uint64, err error) {
	for told := ""; ; {
		if uids, asOf, err = s.present(ctx); err == nil {
			return uids, asOf, nil
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			s.options.Log.Warn("the API server does not say which CRDs there are; retrying", "error", err)
			told = text
		}
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// patternOf is the flow of the wildcard that brings a CRD onto the route; nil
// where the route names the CRD, or the flow is a wildcard's own.
func (s *Supervisor) patternOf(r *route, id flow.ID) *flow.Flow {
	if slices.Contains(r.CRDs, config.CRDPattern(id.CRD)) {
		return nil
	}
	for _, pattern := range r.CRDs {
		if pattern.Matches(id.CRD) {
			if e, ok := s.patterns[flow.ID{CRD: string(pattern), Route: r.Name, Sink: id.Sink}]; ok {
				return e.flow
			}
		}
	}
	return nil
}
