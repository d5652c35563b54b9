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
// it, but for when things happened that have not; and none when it is forgotten.
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
	for _, never := range timestamps {
		if n := seriesOf(t, registry, never); n != 0 {
			t.Errorf("%s has %d series, and it has not happened", never, n)
		}
	}
	before := time.Now()
	s.oversize.add()
	s.whenErrors.add()
	s.ledgerLost()
	for _, name := range timestamps {
		at := time.UnixMilli(int64(1000 * valueOf(t, registry, name)))
		if at.Before(before.Truncate(time.Millisecond)) || at.After(time.Now()) {
			t.Errorf("%s is %v, and it was after %v", name, at, before)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	m.forget(id)
	if left := seriesOf(t, registry); left > 0 {
		t.Errorf("%d series are left", left)
	}
}

var timestamps = []string{
	"bridge_events_oversize_last_timestamp_seconds", "bridge_when_errors_last_timestamp_seconds", "bridge_ledger_lost_last_timestamp_seconds",
}

// seriesOf is how many series there are of that name, or of any without one.
func seriesOf(t *testing.T, registry *prometheus.Registry, name ...string) int {
	t.Helper()
	n, err := testutil.GatherAndCount(registry, name...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// valueOf is the value of a counter or gauge that has one series.
func valueOf(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("%s has %d series", name, seriesOf(t, registry, name))
	return 0
}

// TestRestingMetrics: a flow that rests has no series, and its counters go on
// when it comes back, so that one whose CRD comes and goes is seen to start again
// and again; but only for as long as it may come back, and for a day.
func TestRestingMetrics(t *testing.T) {
	const starts = "bridge_flow_starts_total"
	id := ID{CRD: "things.example.com", Route: "r", Sink: "s"}
	began := time.Now()
	tests := []struct {
		name string // the reason for the row
		then func(*Metrics)
		want float64
	}{
		{"its CRD comes back", func(*Metrics) {}, 3},
		{"it is told to rest as often as its CRD is looked at", func(m *Metrics) { m.rest(id, began.Add(time.Hour)) }, 3},
		{"others rest, hours later", func(m *Metrics) { m.rest(ID{CRD: "others.example.com"}, began.Add(keptFor-time.Second)) }, 3},
		{"the configuration has it still", func(m *Metrics) { m.Configured(func(ID) bool { return true }, []string{"s"}) }, 3},
		{"the configuration has it no more", func(m *Metrics) { m.Configured(func(ID) bool { return false }, []string{"s"}) }, 1},
		{"its flow is no more", func(m *Metrics) { m.forget(id) }, 1},
		{"a day has passed", func(m *Metrics) { m.rest(ID{CRD: "others.example.com"}, began.Add(keptFor)) }, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			registry := prometheus.NewPedanticRegistry()
			m := NewMetrics(registry)
			for range 2 {
				m.of(id).starts.Add(1)
				m.rest(id, began)
				if n := seriesOf(t, registry, starts); n != 0 {
					t.Fatalf("a flow that rests has %d series", n)
				}
			}
			tt.then(m)
			m.of(id).starts.Add(1)
			if got := valueOf(t, registry, starts); got != tt.want {
				t.Errorf("%v starts, want %v", got, tt.want)
			}
			if len(m.resting) > 0 {
				t.Errorf("counters are kept of %v", m.resting)
			}
		})
	}
}

// TestSinkMetrics: a sink's series begin with 0 before a flow runs, outlive flows
// that rest, and end with the sink.
func TestSinkMetrics(t *testing.T) {
	const retries = "bridge_delivery_retries_total"
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(registry)
	id := ID{CRD: "things.example.com", Route: "r", Sink: "s"}
	wanted := func(ID) bool { return true }
	m.Configured(wanted, []string{"s"})
	if got := valueOf(t, registry, retries); got != 0 {
		t.Errorf("%v retries before there is a flow", got)
	}
	m.of(id)
	m.retriesTo("s").Inc()
	m.rest(id, time.Now())
	m.Configured(wanted, []string{"other", "s"})
	if got := testutil.ToFloat64(m.retriesTo("s")); got != 1 {
		t.Errorf("%v retries, want 1", got)
	}
	m.Configured(wanted, nil)
	if n := seriesOf(t, registry, retries); n != 0 {
		t.Errorf("%d series of sinks that there are not", n)
	}
}
