package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// unused is a sink that nothing gets to.
type unused struct{ sinks.Sink }

func (unused) Publisher(sinks.Flow) sinks.Publisher { return nil }
func (unused) Keeper() sinks.Keeper                 { return nil }

// BenchmarkReconcile measures what it takes the supervisor to hear of one CRD,
// where there are many others, beside the same where there are few. It prints the
// ratio, which should be near 1: nothing may be looked through for one CRD.
func BenchmarkReconcile(b *testing.B) {
	few := 0.0
	for _, others := range []int{10, 10_000} {
		b.Run(fmt.Sprint(others, " others"), func(b *testing.B) {
			s, err := NewSupervisor(Options{
				Desired: Desired{
					Routes: []config.Route{{Name: "r", CRDs: []config.CRDPattern{"*"}, Sinks: []string{"s"}, Events: events.Types()}},
					Sinks:  map[string]sinks.Sink{"s": unused{}},
				},
				Flows: flow.Environment{
					Cluster: "bench", Memory: flow.NewMemory(1), Metrics: flow.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
				},
				Backoff: DefaultBackoff(), Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				b.Fatal(err)
			}
			s.desired.Load().routes[0].pending = false
			// One that is not established has a flow that waits.
			named := func(n int) observation {
				name := fmt.Sprintf("things%d.example.com", n)
				return observation{name: name, crd: &CRD{
					Name: name, UID: types.UID(name), Group: "example.com", Kind: "Thing", Plural: fmt.Sprint("things", n), Namespaced: true,
					Versions: []Version{{Name: "v1", Served: true, Storage: true}},
				}}
			}
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			for n := range others {
				s.apply(ctx, named(n))
			}
			if len(s.entries) != others {
				b.Fatalf("%d flows, want %d", len(s.entries), others)
			}
			one := named(others / 2)
			b.ReportAllocs()
			for b.Loop() {
				s.apply(ctx, one)
			}
			each := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if few == 0 {
				few = each
			}
			b.ReportMetric(each/few, "x")
		})
	}
}
