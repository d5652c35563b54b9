package lifecycle

import (
	"cmp"
	"slices"
	"time"

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

var (
	flowsDesc  = prometheus.NewDesc("bridge_flows", "Flows by state.", []string{"state"}, nil)
	leaderDesc = prometheus.NewDesc("bridge_leader", "Whether this bridge runs the flows: 1 if it does, 0 while it is a standby.", nil, nil)
	stateDesc  = prometheus.NewDesc("bridge_flow_state",
		"1 for the state that a flow is in. A flow that waits for its CRD, or that another bridge runs, has no series.",
		[]string{"state", "crd", "route", "sink"}, nil)
	objectsDesc = prometheus.NewDesc("bridge_flow_objects", "Objects of a flow that are known to exist.",
		[]string{"crd", "route", "sink"}, nil)
	oldestDesc = prometheus.NewDesc("bridge_events_pending_oldest_timestamp_seconds",
		"When the oldest event that is not yet durable was observed. There is no series while nothing is pending.",
		[]string{"crd", "route", "sink"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Supervisor) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{flowsDesc, leaderDesc, stateDesc, objectsDesc, oldestDesc} {
		descs <- d
	}
}

// Collect counts the flows in each state, and tells how each one is of which
// something runs, or should.
func (s *Supervisor) Collect(metrics chan<- prometheus.Metric) {
	now := time.Now()
	counts := map[flow.State]int{}
	for _, f := range s.Status() {
		counts[f.State]++
		switch f.State {
		case flow.Waiting, flow.Standby, flow.Stopped:
			continue
		}
		tell := func(d *prometheus.Desc, value float64, first ...string) {
			metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append(first, f.CRD, f.Route, f.Sink)...)
		}
		tell(stateDesc, 1, string(f.State))
		tell(objectsDesc, float64(f.Objects))
		if f.Lag > 0 {
			tell(oldestDesc, float64(now.Add(-f.Lag).UnixMilli())/1000)
		}
	}
	for _, state := range flow.States() {
		metrics <- prometheus.MustNewConstMetric(flowsDesc, prometheus.GaugeValue, float64(counts[state]), string(state))
	}
	leads := 0.0
	if s.Leading() {
		leads = 1
	}
	metrics <- prometheus.MustNewConstMetric(leaderDesc, prometheus.GaugeValue, leads)
}
