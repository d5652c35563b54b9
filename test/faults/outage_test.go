//go:build unix

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// TestLongOutage shows that the bridge stays within its bound while NATS is down
// and thousands of objects change, and that nothing is missing afterwards.
// CRBRIDGE_OUTAGE says for how long, as 30m; it is short by default.
func TestLongOutage(t *testing.T) {
	const (
		objects = 5000
		size    = 4 << 10
		pace    = 500 // changes a second
		bound   = 256 << 20
	)
	if raceEnabled {
		t.Skip("not with the race detector, which takes several times the memory")
	}
	t.Parallel() // it waits, most of the time
	outage := 30 * time.Second
	if s := os.Getenv("CRBRIDGE_OUTAGE"); s != "" {
		var err error
		if outage, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	opts := Options{Bridge: build(t), Seed: 1, Dir: t.ArtifactDir(), Progress: progress(t)}
	w, err := newWorld(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	w.load.stop()
	k := w.kinds[0]
	padding := strings.Repeat("x", size)
	if err := each(objects, func(i int) error { return k.fill(ctx, i, padding) }); err != nil {
		t.Fatal(err)
	}
	if err := w.active().start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := w.recovered(ctx); err != nil {
		t.Fatal(err)
	}
	before := w.active().most()
	w.nats.kill()
	w.loses()
	changed := change(ctx, k, objects, pace, outage)
	during := w.active().most()
	if err := w.nats.start(ctx); err != nil {
		t.Fatal(err)
	}
	took, err := w.recovered(ctx)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, w.active().status(ctx), w.logs())
	}
	after := w.active().most()
	report := newReport(opts)
	if err := w.judge(ctx, report); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d changes of %d objects of %d bytes while NATS was down for %v; delivers again after %v; resident at most %.0f MiB before, %.0f during, %.0f after; bound %.0f",
		changed, objects, size, outage, took.Round(time.Millisecond), before/(1<<20), during/(1<<20), after/(1<<20), float64(bound)/(1<<20))
	if max(during, after) > bound {
		t.Errorf("%.0f bytes resident, more than %d", max(during, after), bound)
	}
	if len(report.Violations) > 0 {
		t.Error(report)
	}
}

// most is the most memory that the bridge was seen to have.
func (b *bridge) most() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peak
}

// each does something n times, some of them at once.
func each(n int, do func(int) error) error {
	const atOnce = 16
	var work sync.WaitGroup
	errs := make([]error, atOnce)
	for worker := range atOnce {
		work.Go(func() {
			for i := worker; i < n && errs[worker] == nil; i += atOnce {
				errs[worker] = do(i)
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

func (k *kind) fill(ctx context.Context, i int, padding string) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": k.group + "/" + k.versions[0], "kind": k.kind, "spec": map[string]any{"content": int64(0), "padding": padding},
	}}
	o.SetName(fmt.Sprintf("large-%d", i))
	o.SetNamespace("default")
	_, err := k.objects("default").Create(ctx, o, metav1.CreateOptions{})
	return err
}

// change changes objects at the pace for a while, and says how often it did.
func change(ctx context.Context, k *kind, objects, pace int, d time.Duration) (changed int) {
	const workers = 8
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	counts := make([]int, workers)
	var work sync.WaitGroup
	for worker := range workers {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		work.Go(func() {
			tick := time.NewTicker(time.Second * workers / time.Duration(pace))
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				patch := fmt.Sprintf(`{"spec":{"content":%d}}`, random.Int64())
				name := fmt.Sprintf("large-%d", random.IntN(objects))
				_, err := k.objects("default").Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
				if err == nil {
					counts[worker]++
				} else if !apierrors.IsNotFound(err) && ctx.Err() == nil {
					continue // the API server is busy
				}
			}
		})
	}
	work.Wait()
	for _, n := range counts {
		changed += n
	}
	return changed
}
