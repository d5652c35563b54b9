//go:build unix

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/test/controlplane"
)

// fill creates that many objects, some at once.
func (k *kind) fill(t *testing.T, count int) {
	t.Helper()
	const atOnce = 8
	var work sync.WaitGroup
	errs := make(chan error, atOnce)
	for worker := range atOnce {
		work.Go(func() {
			for i := worker; i < count; i += atOnce {
				o := &unstructured.Unstructured{Object: map[string]any{
					"apiVersion": k.apiVersion(), "kind": "Widget", "metadata": map[string]any{"name": fmt.Sprintf("o%d", i)},
				}}
				if _, err := k.objects().Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	work.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
}

// shake changes the objects that fill made, at random, until it is stopped,
// and returns how many changes the API server took.
func (k *kind) shake(t *testing.T, count int) (changes *atomic.Int64, stop func()) {
	t.Helper()
	const workers = 4
	changes = new(atomic.Int64)
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for worker := range workers {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		work.Go(func() {
			for ctx.Err() == nil {
				name := fmt.Sprintf("o%d", random.IntN(count))
				patch := fmt.Sprintf(`{"spec":{"size":%d}}`, random.Int64())
				// Not ended in the middle: its answer says whether it counts.
				if _, err := k.objects().Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil { //nolint:contextcheck // as above
					t.Error(err)
					return
				}
				changes.Add(1)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); work.Wait() })
	t.Cleanup(stop)
	return changes, stop
}

// requests are how many requests the API server has had for the kind.
func (w *world) requests(t *testing.T, verb string) float64 {
	t.Helper()
	n, err := w.cp.Metric(t.Context(), "apiserver_request_total", map[string]string{
		"verb": verb, "group": w.kind.group, "resource": "widgets",
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRestartUnderLoad shows that a bridge that is killed while 1,000 objects
// change goes on where it was: it makes no list, and each version is in the
// stream once.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel() // it waits, most of the time
	const objects = 1000
	w := newWorld(t)
	w.kind.create(t)
	w.kind.fill(t, objects)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	changes, stop := w.kind.shake(t, objects)
	eventually(t, func() error { return missing(int(changes.Load()), 300, w.kind.name) })

	lists := w.requests(t, "LIST")
	for _, end := range []struct {
		how string
		do  func(*bridge)
	}{
		{"SIGKILL", func(b *bridge) { b.Kill() }},
		{"SIGTERM", func(b *bridge) {
			if err := b.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		end.do(b)
		down := changes.Load()
		eventually(t, func() error { return missing(int(changes.Load()-down), 100, w.kind.name) })
		last := w.kind.set(t, "o0", "after", end.how).GetResourceVersion()
		began := time.Now()
		b = w.bridge(t)
		eventually(t, func() error {
			messages, err := w.stream.read(t.Context(), w.kind.name, 0)
			if err == nil && !slices.ContainsFunc(messages, func(m message) bool { return m.attributes["resourceversion"] == last }) {
				err = fmt.Errorf("version %s is not there yet", last)
			}
			return err
		})
		t.Logf("after %s: %d changes while it was down, caught up %v after its start", end.how, changes.Load()-down, time.Since(began).Round(time.Millisecond))
		changes.Add(1) // that of o0
	}
	if now := w.requests(t, "LIST"); now != lists {
		t.Errorf("%v lists for two restarts", now-lists)
	}
	stop()
	messages := w.stream.wait(t, w.kind.name, objects+int(changes.Load()))
	checkOrder(t, messages)
	kinds := map[string]int{}
	for _, m := range messages {
		what, _, _ := strings.Cut(m.what(), " ")
		kinds[what]++
		if m.attributes["coalesced"] != "" || m.attributes["inferred"] != "" {
			t.Errorf("%s is %v", m.what(), m.attributes)
		}
	}
	if kinds["existing"] != objects || kinds["updated"] != int(changes.Load()) || len(kinds) != 2 {
		t.Errorf("%v, not %d existing and %d updated", kinds, objects, changes.Load())
	}
}

// TestChangesWhileDown shows what is told of what changed while no bridge ran:
// from the API server's history where it has it, and from a comparison where
// it does not.
func TestChangesWhileDown(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	kill := func(t *testing.T, b *bridge) { t.Helper(); b.Kill() }
	stop := func(t *testing.T, b *bridge) {
		t.Helper()
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	before := []string{"created default/changed", "created default/gone", "created default/replaced", "created default/same"}
	for _, test := range []struct {
		why       string
		end       func(*testing.T, *bridge)
		compacted bool
		more      string
		want      []string
	}{
		{
			"killed", kill, false, "",
			append(before, "updated default/changed", "updated default/changed", "deleted default/gone",
				"deleted default/replaced", "created default/replaced", "created default/brief", "deleted default/brief", "created default/new"),
		},
		{
			"stopped", stop, false, "",
			append(before, "updated default/changed", "updated default/changed", "deleted default/gone",
				"deleted default/replaced", "created default/replaced", "created default/brief", "deleted default/brief", "created default/new"),
		},
		{
			"killed, and the history is gone", kill, true, "",
			append(before, "updated default/changed coalesced", "created default/new", "deleted default/replaced inferred",
				"created default/replaced", "deleted default/gone inferred"),
		},
		{
			"killed, the route wants ends only", kill, false, "events: [deleted]",
			[]string{"deleted default/gone", "deleted default/replaced", "deleted default/brief"},
		},
		{
			"killed, the route wants ends only, and the history is gone", kill, true, "events: [deleted]",
			[]string{"deleted default/replaced inferred", "deleted default/gone inferred"},
		},
		{
			"killed, the route wants beginnings only, and the history is gone", kill, true, "events: [created]",
			append(before, "created default/new", "created default/replaced"),
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if test.compacted {
				w = newOwnWorld(t)
			}
			w.kind.create(t)
			var more []string
			if test.more != "" {
				more = append(more, test.more)
			}
			route := w.kind.route("test", more...)
			b := w.bridge(t, route)
			b.waitState(t, w.kind.name, "test", "running")
			var last *unstructured.Unstructured
			for _, name := range []string{"changed", "gone", "replaced", "same"} {
				last = w.kind.add(t, name, nil)
			}
			w.recorded(t, last)
			test.end(t, b)

			w.kind.set(t, "changed", "size", 1)
			w.kind.set(t, "changed", "size", 2)
			w.kind.drop(t, "gone")
			w.kind.drop(t, "replaced")
			w.kind.add(t, "replaced", nil)
			w.kind.add(t, "brief", nil)
			w.kind.drop(t, "brief")
			last = w.kind.add(t, "new", nil)
			if test.compacted {
				w.compact(t)
			}
			w.bridge(t, route)
			w.recorded(t, last)
			w.kind.add(t, "last", nil)
			w.kind.drop(t, "last")
			want := test.want
			for _, event := range []string{"created", "deleted"} {
				if test.more == "" || strings.Contains(test.more, event) {
					want = append(slices.Clone(want), event+" default/last")
				}
			}
			w.expectMarked(t, want...)
		})
	}
}

// newOwnWorld is a world with a control plane of its own, for a test that
// breaks it.
func newOwnWorld(t *testing.T, flags ...string) *world {
	t.Helper()
	cp := controlplane.ForTest(t, controlplane.Options{APIServerFlags: flags})
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	return &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server, stream: subscribe(t, server)}
}

// compact makes the API server forget what was before now.
func (w *world) compact(t *testing.T) {
	t.Helper()
	if err := w.cp.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.cp.APIServer.Kill() // it has a history of its own
	if err := w.cp.APIServer.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// recorded waits until the flow of the route test has recorded that it has come
// as far as the object's version.
func (w *world) recorded(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	version := versionOf(t, object)
	eventually(t, func() error {
		position, err := w.stream.position(t.Context(), w.kind.name, "test")
		if err == nil && position < version {
			err = fmt.Errorf("the flow has recorded %d, not %d", position, version)
		}
		return err
	})
}

// position is what the flow's control message says.
func (s *stream) position(ctx context.Context, crd, route string) (uint64, error) {
	resource, group, _ := strings.Cut(crd, ".")
	stream, err := s.js.Stream(ctx, "K8S")
	if err != nil {
		return 0, err
	}
	m, err := stream.GetLastMsgForSubject(ctx, fmt.Sprintf("crbridge.K8S.test.%s.%s.%s", route, strings.ReplaceAll(group, ".", "_"), resource))
	if err != nil {
		return 0, err
	}
	var control struct {
		State struct {
			Position  uint64
			Positions map[string]uint64
		}
	}
	if err := json.Unmarshal(m.Data, &control); err != nil {
		return 0, err
	}
	position := control.State.Position
	for _, of := range control.State.Positions { // the least, where namespaces have their own
		if position == 0 || of < position {
			position = of
		}
	}
	return position, nil
}

// expectMarked is expect, with how an event came about.
func (w *world) expectMarked(t *testing.T, want ...string) {
	t.Helper()
	messages := w.stream.wait(t, w.kind.name, len(want))
	checkOrder(t, messages)
	var got []string
	for _, m := range messages {
		what := m.what()
		for _, mark := range []string{"coalesced", "inferred"} {
			if m.attributes[mark] == "true" {
				what += " " + mark
			}
		}
		got = append(got, what)
	}
	compare(t, want, got)
}
