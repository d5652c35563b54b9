//go:build linux && cluster

package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// orders is the manifest of a CRD of the group.
func orders(group string) []byte {
	return fmt.Appendf(nil, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: orders.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {plural: orders, singular: order, kind: Order, listKind: OrderList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, group)
}

// dynamic is a client that does not hold itself back.
func (w *world) dynamic(t *testing.T) dynamic.Interface {
	t.Helper()
	config := rest.CopyConfig(w.Admin())
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// objects are the orders of the group in the namespace default.
func (w *world) objects(t *testing.T, group string) dynamic.ResourceInterface {
	t.Helper()
	return w.dynamic(t).Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "orders"}).Namespace("default")
}

func order(group, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/v1", "kind": "Order", "metadata": map[string]any{"name": name}, "spec": map[string]any{"size": int64(0)},
	}}
}

// load creates, changes and deletes orders until it is stopped.
type load struct {
	changes atomic.Int64
	stop    func()
}

// pace is the pause of each of the workers between two changes: some 100
// changes a second, so that a gap of the subscriber's is a gap of the bridge's.
const (
	workers = 4
	pace    = 30 * time.Millisecond
	names   = 40
)

func (w *world) load(t *testing.T, group string) *load {
	t.Helper()
	objects := w.objects(t, group)
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{}
	var work sync.WaitGroup
	for worker := range workers {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		work.Go(func() {
			for ctx.Err() == nil {
				// Each has names of its own.
				name := fmt.Sprintf("o%d", random.IntN(names/workers)*workers+worker)
				// Not ended in the middle.
				if err := change(t.Context(), objects, group, name, random); err != nil { //nolint:contextcheck // as above
					t.Error(err)
					return
				}
				l.changes.Add(1)
				select {
				case <-ctx.Done():
				case <-time.After(pace):
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); work.Wait() })
	t.Cleanup(l.stop)
	return l
}

func change(ctx context.Context, objects dynamic.ResourceInterface, group, name string, random *rand.Rand) error {
	if random.IntN(10) == 0 {
		err := objects.Delete(ctx, name, metav1.DeleteOptions{})
		if err == nil || !apierrors.IsNotFound(err) {
			return err
		}
	}
	patch := fmt.Sprintf(`{"spec":{"size":%d}}`, random.Int64())
	_, err := objects.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = objects.Create(ctx, order(group, name), metav1.CreateOptions{})
	}
	return err
}

// arrivals are when events arrived at a subscriber outside the cluster.
type arrivals struct {
	mu    sync.Mutex
	times []time.Time
}

func (w *world) arrivals(t *testing.T) *arrivals {
	t.Helper()
	a := &arrivals{}
	connection, err := nats.Connect(w.NATS.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connection.Close)
	if _, err := connection.Subscribe("k8s.>", func(*nats.Msg) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.times = append(a.times, time.Now())
	}); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.times)
}

// more waits for so many more events.
func (a *arrivals) more(t *testing.T, count int) {
	t.Helper()
	want := a.count() + count
	eventually(t, func() error {
		if got := a.count(); got < want {
			return fmt.Errorf("%d events, not %d", got, want)
		}
		return nil
	})
}

// gap is the longest time that the subscriber had nothing, since then.
func (a *arrivals) gap(since time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var longest time.Duration
	last := since
	for _, at := range a.times {
		if at.After(since) {
			longest = max(longest, at.Sub(last))
			last = at
		}
	}
	return longest.Round(time.Millisecond)
}
