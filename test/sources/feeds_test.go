//go:build unix

package sources_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/pkg/sources"
)

// together has so many follow everything of the CRD, with one watch.
func together(t *testing.T, w *world, c sources.Cluster, count int) (all []*recorder, stops []func()) {
	t.Helper()
	for range count {
		r := newRecorder()
		all = append(all, r)
		stops = append(stops, follow(t, c, w.resource, sources.Start{}, r))
	}
	for _, r := range all {
		r.waitTold(t, "list", "listed all")
	}
	w.create(t, "first") // after which they are all at the same place
	for _, r := range all {
		r.waitTold(t, "list", "listed all", "changed first")
	}
	w.watchers(t, 1)
	return all, stops
}

func sharing(t *testing.T, w *world) sources.Cluster {
	t.Helper()
	c := cluster(t, w.cp.Admin())
	c.Feeds = &sources.Feeds{}
	return c
}

// TestSharedWatch shows that the API server serves one watch to those who
// follow the same, that each hears of everything once, and that the watch goes
// on when the one who opened it has gone.
func TestSharedWatch(t *testing.T) {
	w := newWorld(t, shared.Get(t), "shared.example.com")
	c := sharing(t, w)
	all, stops := together(t, w, c, 5)
	want := []string{"list", "listed all", "changed first"}
	write := func(to ...*recorder) {
		for range 50 {
			name := fmt.Sprintf("o%03d", len(want))
			w.create(t, name)
			want = append(want, "changed "+name)
		}
		if err := w.objects.Delete(t.Context(), "o003", metav1.DeleteOptions{}); err == nil {
			want = append(want, "deleted o003")
		} else if !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		for _, r := range to {
			r.waitTold(t, want...)
		}
	}
	write(all...)
	w.watchers(t, 1)
	for i, stop := range stops[:4] {
		stop()
		write(all[i+1:]...)
		w.watchers(t, 1)
	}

	// Others have watches of their own.
	other := newRecorder()
	followSelected(t, c, w.resource, sources.Selection{Labels: "a=b"}, sources.Start{}, other)
	other.wait(t, func(told []string, _ error) bool { return slices.Contains(told, "listed all") })
	w.watchers(t, 2)

	// One that goes on from where it was needs none.
	resumed := newRecorder()
	all[4].mu.Lock()
	position := all[4].position
	all[4].mu.Unlock()
	follow(t, c, w.resource, sources.Start{Position: position}, resumed)
	w.create(t, "last")
	resumed.waitTold(t, "changed last")
	all[4].waitTold(t, append(want, "changed last")...)
	w.watchers(t, 2)
}

// TestBlockedLeavesSharedWatch shows that one that blocks has the others wait
// for a moment at most, and misses nothing.
func TestBlockedLeavesSharedWatch(t *testing.T) {
	w := newWorld(t, shared.Get(t), "leaves.example.com")
	all, _ := together(t, w, sharing(t, w), 3)
	all[0].gate.Lock()
	want := []string{"list", "listed all", "changed first"}
	for i := range 40 {
		name := fmt.Sprintf("o%02d", i)
		w.createWith(t, name, map[string]any{"large": strings.Repeat("x", 4<<10)})
		want = append(want, "changed "+name)
	}
	for _, r := range all[1:] {
		r.waitTold(t, want...)
	}
	w.watchers(t, 1) // none for the one that takes nothing
	all[0].gate.Unlock()
	all[0].waitTold(t, want...)
}

// TestSharedWatchOfCRDThatGoes shows that each hears of each end, and then that
// there is nothing to follow any more.
func TestSharedWatchOfCRDThatGoes(t *testing.T) {
	w := newWorld(t, shared.Get(t), "goes.example.com")
	all, stops := together(t, w, sharing(t, w), 3)
	if err := w.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), w.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		r.wait(t, func(told []string, err error) bool {
			return slices.Contains(told, "deleted first") && apierrors.IsNotFound(err)
		})
	}
	for _, stop := range stops {
		stop()
	}
	w.watchers(t, 0)
}
