package lifecycle

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// recallRetry is how often a sink is asked for what it keeps, until it says.
	recallRetry = time.Second
	// keptFor is for how long the ledger of a flow that no route selects any
	// more is kept, so that a change that is taken back repeats nothing.
	keptFor = 7 * 24 * time.Hour
)

// recall asks the sinks which flows they know. Those of CRDs that are no more
// may have to be drained, and nobody else remembers those that only a wildcard
// named.
func (s *Supervisor) recall(ctx context.Context) {
	for name, sink := range s.desired.Load().sinks {
		keeper := sink.Keeper()
		if keeper == nil {
			continue
		}
		s.asking.Go(func() {
			for {
				kept, err := keeper.Flows(ctx)
				if err == nil {
					s.handOver(ctx, name, keeper, kept)
					return
				}
				if errors.Is(err, sinks.ErrClosed) {
					return // it was replaced
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(recallRetry):
				}
			}
		})
	}
}

// handOver gives what a sink knows to the goroutine of Start, and has the sink
// forget what nobody has wanted for long.
func (s *Supervisor) handOver(ctx context.Context, name string, keeper sinks.Keeper, all []sinks.Kept) {
	var wanted []sinks.Kept
	for _, kept := range all {
		if s.selects(kept) {
			wanted = append(wanted, kept)
			continue
		}
		forgotten, err := keeper.Forget(ctx, kept, time.Now().Add(-keptFor))
		switch {
		case err != nil:
			s.options.Log.Debug("ledger of a flow that no route selects stays", "crd", kept.CRD, "route", kept.Route, "sink", kept.Sink, "keeper", name, "error", err)
		case forgotten:
			s.options.Log.Info("ledger forgotten: no route has selected the flow for a week", "crd", kept.CRD, "route", kept.Route, "sink", kept.Sink, "keeper", name)
		default:
			s.options.Log.Info("ledger kept of a flow that no route selects, for a week after it was written last", "crd", kept.CRD, "route", kept.Route, "sink", kept.Sink, "keeper", name)
		}
	}
	select {
	case s.recalled <- wanted:
	case <-ctx.Done():
	}
}

// selects tells whether a flow that a sink knows is one of the configuration.
func (s *Supervisor) selects(kept sinks.Kept) bool {
	return s.desired.Load().wants(flow.ID{CRD: kept.CRD, Route: kept.Route, Sink: kept.Sink})
}

// remember settles the flows that a sink knows: those of CRDs that are not
// there are drained.
func (s *Supervisor) remember(runs context.Context, all []sinks.Kept) {
	if s.ending {
		return
	}
	for _, kept := range all {
		if _, pattern := s.patterns[flow.ID{CRD: kept.CRD, Route: kept.Route, Sink: kept.Sink}]; pattern {
			continue
		}
		if !s.selects(kept) {
			continue // not any more
		}
		if _, known := s.crds[kept.CRD]; known {
			continue // its flows are settled
		}
		if _, there := s.found[kept.CRD]; there {
			continue // the controller looks at it, whether or not it is still there
		}
		s.apply(runs, observation{name: kept.CRD, absent: s.asOf})
	}
}

// beginAbsent begins with what is known before the controller tells of CRDs:
// those that are named and not there, and the wildcards. Their ledgers are
// claimed at once, so that it is known from now on that their routes are active.
func (s *Supervisor) beginAbsent(runs context.Context, routes []*route) {
	for _, e := range s.patterns {
		s.settle(runs, e)
	}
	for _, r := range routes {
		for _, pattern := range r.CRDs {
			name := string(pattern)
			if _, there := s.found[name]; !there && !pattern.IsWildcard() && r.Selects(name) {
				s.apply(runs, observation{name: name, absent: s.asOf})
			}
		}
	}
}

// requests are resyncs that people have asked for.
type requests struct {
	mu    sync.Mutex
	asked map[string]uint64
	news  chan struct{} // holds a token while there are some that were not taken
}

// add takes note of a request. It does not block.
func (r *requests) add(route string, number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[route] = max(r.asked[route], number)
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *requests) take() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = map[string]uint64{}
	return asked
}

// resync has flows tell of their objects again.
func (s *Supervisor) resync(asked map[string]uint64) {
	for route, number := range asked {
		s.resyncs[route] = max(s.resyncs[route], number)
	}
	for id, e := range s.entries {
		number, is := asked[id.Route]
		if is && e.flow.RequestResync(number) && e.run != nil && !s.ending {
			e.run.Stop(rebuildGrace)
		}
	}
}

// fail ends Start with the error, if it is the first.
func (s *Supervisor) fail(err error) {
	select {
	case s.fatal <- err:
	default:
	}
}
