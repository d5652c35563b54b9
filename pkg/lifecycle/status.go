package lifecycle

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/flow"
)

// Leading tells whether this bridge supervises its flows: at once where there
// is no election, and otherwise since it was elected.
func (s *Supervisor) Leading() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.leading || !s.options.Elected
}

// Status is how each flow is now, sorted by CRD, route and sink. A wildcard
// that no CRD matches is one flow, with the pattern for its CRD.
func (s *Supervisor) Status() []flow.Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]flow.Status, 0, len(s.entries))
	for _, e := range s.entries {
		all = append(all, e.flow.Status())
	}
	for _, r := range s.desired.Load().routes {
		all = append(all, s.unmatched(&r.Route)...)
	}
	slices.SortFunc(all, func(a, b flow.Status) int {
		return cmp.Or(cmp.Compare(a.CRD, b.CRD), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Sink, b.Sink))
	})
	return all
}

// unmatched are the route's wildcards that no CRD matches. The lock is held.
func (s *Supervisor) unmatched(route *config.Route) []flow.Status {
	var waiting []flow.Status
	for _, pattern := range route.CRDs {
		if !pattern.IsWildcard() {
			continue
		}
		for _, sink := range route.Sinks {
			matched := false
			for id := range s.entries {
				matched = matched || (id.Route == route.Name && id.Sink == sink && pattern.Matches(id.CRD))
			}
			if matched {
				continue
			}
			state, reason := flow.Waiting, "no CRD matches; a flow starts for each that does"
			if s.options.Elected && !s.leading {
				state, reason = s.idle()
			}
			waiting = append(waiting, flow.Status{
				ID: flow.ID{CRD: string(pattern), Route: route.Name, Sink: sink}, State: state, Reason: reason,
			})
		}
	}
	return waiting
}

var flowsDesc = prometheus.NewDesc("bridge_flows", "Flows by state.", []string{"state"}, nil)

// Describe implements prometheus.Collector.
func (s *Supervisor) Describe(descs chan<- *prometheus.Desc) { descs <- flowsDesc }

// Collect counts the flows in each state.
func (s *Supervisor) Collect(metrics chan<- prometheus.Metric) {
	counts := map[flow.State]int{}
	for _, f := range s.Status() {
		counts[f.State]++
	}
	for _, state := range flow.States() {
		metrics <- prometheus.MustNewConstMetric(flowsDesc, prometheus.GaugeValue, float64(counts[state]), string(state))
	}
}
