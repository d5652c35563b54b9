package sinks_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crbridge/crbridge/pkg/sinks"
)

// TestSeriesOfSinks shows that a series is there while a sink counts in it, and
// no longer, whichever sink of its name that is.
func TestSeriesOfSinks(t *testing.T) {
	const suppressed, unheard, last = "bridge_duplicates_suppressed_total", "bridge_events_unheard_total", "bridge_events_unheard_last_timestamp_seconds"
	for _, row := range []struct {
		why  string
		do   func(m *sinks.Metrics)
		want map[string]float64
	}{
		{"from the start", func(m *sinks.Metrics) { m.Unheard("main") }, map[string]float64{unheard: 0}},
		{"until the sink is closed", func(m *sinks.Metrics) {
			c := m.Unheard("main")
			c.Add(3)
			c.Close()
		}, map[string]float64{}},
		{"on when another takes its place and counts the same", func(m *sinks.Metrics) {
			before := m.Unheard("main")
			before.Add(3)
			after := m.Unheard("main")
			before.Close()
			before.Close() // which may be said again
			after.Add(1)
		}, map[string]float64{unheard: 4, last: 1}},
		{"not when the other is of another kind", func(m *sinks.Metrics) {
			before := m.Unheard("main")
			before.Add(3)
			m.Suppressed("main").Add(1)
			before.Close()
		}, map[string]float64{suppressed: 1}},
		{"not for what a sink counts after it is closed", func(m *sinks.Metrics) {
			c, other := m.Suppressed("main"), m.Unheard("main")
			c.Close()
			other.Close()
			c.Add(1)
			other.Add(1)
		}, map[string]float64{}},
		{"with no moment where there was none", func(m *sinks.Metrics) { m.Unheard("main").Add(0) }, map[string]float64{unheard: 0}},
	} {
		t.Run(row.why, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			m, err := sinks.NewMetrics(registry)
			if err != nil {
				t.Fatal(err)
			}
			row.do(m)
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{}
			for _, f := range families {
				for _, s := range f.GetMetric() {
					got[f.GetName()] += s.GetCounter().GetValue()
					if s.GetGauge().GetValue() > 0 { // a moment
						got[f.GetName()]++
					}
				}
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
