package flow

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/object"
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
			objects := make([]versions, names)
			for i := range objects {
				objects[i] = large(fmt.Sprint("o", i))
			}
			tellAll(b, r, objects)
			size := 0
			for _, kept := range r.past {
				size += len(kept.content)
			}
			version := names + 1
			b.ReportAllocs()
			for b.Loop() {
				version++
				r.watchers[0].Changed(b.Context(), objects[version%names].at(version))
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

// versions is an object of about 2 KiB of JSON, as a watch brings it. Each
// version has its own size.
type versions struct {
	of   *object.Object
	text [][]byte // what is between its numbers
}

func large(name string) versions {
	const number = 999999999
	u := thing(name, "", number)
	items := make([]any, 20)
	for i := range items {
		items[i] = map[string]any{"sku": fmt.Sprintf("sku-%s-%d", name, i), "count": int64(i), "note": strings.Repeat("n", 20) + name}
	}
	u.Object["spec"] = map[string]any{"size": int64(number), "items": items, "tags": slices.Repeat([]any{"a tag"}, 10)}
	u.Object["status"] = map[string]any{"ready": true}
	o := asSent(u)
	return versions{o, bytes.Split(o.JSON, []byte(strconv.Itoa(number)))}
}

// at is the object in that version.
func (v versions) at(version int) *object.Object {
	n := strconv.Itoa(version)
	return &object.Object{
		Namespace: v.of.Namespace, Name: v.of.Name, UID: v.of.UID, ResourceVersion: n, JSON: bytes.Join(v.text, []byte(n)),
	}
}

// tellAll tells the run of a list of all of them.
func tellAll(b *testing.B, r *Run, objects []versions) {
	b.Helper()
	w := r.watchers[0]
	version := strconv.Itoa(len(objects) + 1)
	if err := w.ListStarted(b.Context(), version); err != nil {
		b.Fatal(err)
	}
	for i := range objects {
		w.Listed(b.Context(), objects[i].at(i+1))
	}
	w.ListFinished(b.Context(), version)
}

// BenchmarkUnchanged measures what a list of metadata costs a flow for an object
// that has not changed, of 100,000.
func BenchmarkUnchanged(b *testing.B) {
	const objects = 100_000
	env := Environment{Cluster: "bench", Memory: NewMemory(64 << 20), Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)}
	f := New(ID{CRD: "widgets.example.com", Route: "r", Sink: "s"}, env, nowhere{}, &journal.Memory{}, nil)
	r := f.newRun(b.Context(), Target{CRD: "crd", Rules: Everything()})
	listed := make([]*object.Object, objects)
	for i := range listed {
		listed[i] = bare(thing(fmt.Sprint("o", i), "", i+1))
		key, seen, err := identify(listed[i])
		if err != nil {
			b.Fatal(err)
		}
		f.ledger.rows.put(key, seen)
	}
	w := r.watchers[0]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if !w.Unchanged(b.Context(), listed[i%objects]) {
			b.Fatal("it is known, and told to be wanted")
		}
	}
}
