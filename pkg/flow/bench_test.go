package flow

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sources"
)

// nowhere takes every event and keeps none.
type nowhere struct{}

func (nowhere) Publish(_ context.Context, batch []events.Event) (int, error) { return len(batch), nil }

// BenchmarkRules measures what a route's rules cost for an update of an object
// of 2 KiB, from the watch to an event that is ready to be sent, as a ratio to
// a route without rules in the same run ("x"), and how much of the heap each
// object takes for them ("B/object").
func BenchmarkRules(b *testing.B) {
	plain := 0.0
	for _, row := range []struct {
		name string
		with RuleOptions
	}{
		{"none", RuleOptions{}},
		{"changes specOnly, sent", RuleOptions{SpecOnly: true}},
		{"changes specOnly, left out", RuleOptions{SpecOnly: true, Ignore: []string{"spec.size"}}},
		{"changes ignore, sent", RuleOptions{Ignore: []string{"status"}}},
		{"when a field", RuleOptions{When: "object.spec.size >= 0"}},
		{"when by oldObject", RuleOptions{When: "oldObject == null || object.spec.size != oldObject.spec.size"}},
		{"payload metadata", RuleOptions{Content: "metadata"}},
		{"payload change", RuleOptions{Content: "change"}},
		{"payload drop", RuleOptions{Drop: []string{"spec.items[*].note"}}},
		{"payload redact", RuleOptions{Redact: []string{"spec.items[*].note"}}},
	} {
		b.Run(row.name, func(b *testing.B) {
			row.with.Events = events.Types()
			rules, err := NewRules(row.with)
			if err != nil {
				b.Fatal(err)
			}
			env := Environment{Cluster: "bench", Memory: NewMemory(64 << 20), Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)}
			f := New(ID{CRD: "widgets.example.com", Route: "r", Sink: "s"}, env, nowhere{}, &journal.Memory{}, nil)
			r := f.newRun(b.Context(), Target{
				Resource: sources.Resource{Kind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}, Plural: "widgets", Namespaced: true},
				CRD:      "crd", Rules: rules,
			})
			follows := make(chan struct{})
			r.source = func(ctx context.Context, _ *watcher, _ sources.Start) error {
				close(follows)
				<-ctx.Done()
				return nil
			}
			go r.run(true)
			<-follows
			const names = 1000
			objects := make([]*unstructured.Unstructured, names)
			for i := range objects {
				objects[i] = large(fmt.Sprint("o", i), i+1)
			}
			list(b.Context(), r, names+1, objects...)
			size := 0
			for _, kept := range r.past {
				size += len(kept.content)
			}
			version := names + 1
			b.ReportAllocs()
			for b.Loop() {
				version++
				o := objects[version%names]
				o.SetResourceVersion(fmt.Sprint(version))
				o.Object["spec"].(map[string]any)["size"] = int64(version) //nolint:forcetypeassert // it was made so
				r.Changed(b.Context(), o)
			}
			each := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if row.name == "none" {
				plain = each
			}
			if plain > 0 {
				b.ReportMetric(each/plain, "x")
			}
			b.ReportMetric(float64(size)/names, "B/object")
			r.Stop(0)
			<-r.Done()
		})
	}
}

// large is an object of about 2 KiB of JSON.
func large(name string, version int) *unstructured.Unstructured {
	o := object(name, "", version)
	items := make([]any, 20)
	for i := range items {
		items[i] = map[string]any{"sku": fmt.Sprintf("sku-%s-%d", name, i), "count": int64(i), "note": strings.Repeat("n", 20) + name}
	}
	o.Object["spec"] = map[string]any{"size": int64(0), "items": items, "tags": slices.Repeat([]any{"a tag"}, 10)}
	o.Object["status"] = map[string]any{"ready": true, "observed": int64(version)}
	return o
}
