package flow

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/crbridge/crbridge/pkg/events"
)

// TestMetrics: a flow has all of its series from the start, as Prometheus has
// it, and none when it is forgotten.
func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(registry)
	id := ID{CRD: "things.example.com", Route: "r", Sink: "s"}
	s := m.of(id)
	if m.of(id) != s {
		t.Error("a flow's next run has other series")
	}
	s.deliveredOne(events.Updated)
	s.pending.Store(3)
	s.starts.Add(1)
	s.resyncs[resyncExpired].Add(2)
	for _, lag := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, time.Hour} {
		s.lag.observe(lag)
	}
	const want = `
# HELP bridge_delivery_lag_seconds Time from when a change was observed to when its event was durable in the sink.
# TYPE bridge_delivery_lag_seconds histogram
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="0.001"} 2
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="0.004"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="0.016"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="0.064"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="0.256"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="1.024"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="4.096"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="16.384"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="65.536"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="262.144"} 3
bridge_delivery_lag_seconds_bucket{crd="things.example.com",route="r",sink="s",le="+Inf"} 4
bridge_delivery_lag_seconds_sum{crd="things.example.com",route="r",sink="s"} 3600.002000001
bridge_delivery_lag_seconds_count{crd="things.example.com",route="r",sink="s"} 4
# HELP bridge_events_delivered_total Events that are durable in the sink.
# TYPE bridge_events_delivered_total counter
bridge_events_delivered_total{crd="things.example.com",route="r",sink="s",type="created"} 0
bridge_events_delivered_total{crd="things.example.com",route="r",sink="s",type="deleted"} 0
bridge_events_delivered_total{crd="things.example.com",route="r",sink="s",type="deselected"} 0
bridge_events_delivered_total{crd="things.example.com",route="r",sink="s",type="existing"} 0
bridge_events_delivered_total{crd="things.example.com",route="r",sink="s",type="updated"} 1
# HELP bridge_events_pending Events that are made and not yet durable in the sink.
# TYPE bridge_events_pending gauge
bridge_events_pending{crd="things.example.com",route="r",sink="s"} 3
# HELP bridge_resyncs_total Complete lists that were compared with the ledger, by why: expired (the API server no longer had the history), recreated (the CRD is another), requested (by bridge resync), selection (the route selects otherwise), lost (the sink no longer has all that the ledger is made of).
# TYPE bridge_resyncs_total counter
bridge_resyncs_total{crd="things.example.com",reason="expired",route="r",sink="s"} 2
bridge_resyncs_total{crd="things.example.com",reason="lost",route="r",sink="s"} 0
bridge_resyncs_total{crd="things.example.com",reason="recreated",route="r",sink="s"} 0
bridge_resyncs_total{crd="things.example.com",reason="requested",route="r",sink="s"} 0
bridge_resyncs_total{crd="things.example.com",reason="selection",route="r",sink="s"} 0
`
	err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"bridge_delivery_lag_seconds", "bridge_events_delivered_total", "bridge_events_pending", "bridge_resyncs_total")
	if err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	m.forget(id)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		t.Errorf("%s is left", f.GetName())
	}
}
