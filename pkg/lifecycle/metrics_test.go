package lifecycle

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// TestSinkSeries: the counters of a sink that is configured are there, and 0,
// before a flow runs, and of no other.
func TestSinkSeries(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	of := func(sink string) Desired {
		return Desired{
			Routes: []config.Route{{Name: "r", CRDs: []config.CRDPattern{"things.example.com"}, Sinks: []string{sink}, Events: events.Types()}},
			Sinks:  map[string]sinks.Sink{sink: unused{}},
		}
	}
	s, err := NewSupervisor(Options{
		Desired: of("first"),
		Flows: flow.Environment{
			Cluster: "test", Memory: flow.NewMemory(1), Metrics: flow.NewMetrics(registry), Log: slog.New(slog.DiscardHandler),
		},
		Backoff: DefaultBackoff(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	has := func(sink string) {
		t.Helper()
		text := "# HELP bridge_delivery_retries_total Deliveries that a sink did not take and that were tried again.\n" +
			"# TYPE bridge_delivery_retries_total counter\nbridge_delivery_retries_total{sink=\"" + sink + "\"} 0\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text)); err != nil {
			t.Error(err)
		}
	}
	has("first")
	if _, err := s.Reconfigure(t.Context(), of("second")); err != nil {
		t.Fatal(err)
	}
	has("second")
}
