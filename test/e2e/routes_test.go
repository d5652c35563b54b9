//go:build unix

package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/crbridge/crbridge/test/controlplane"
)

// TestTwoRoutes shows that each route gets its own events of a CRD that both name.
func TestTwoRoutes(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t, w.kind.route("a"), w.kind.route("b"))
	b.waitState(t, w.kind.name, "a", "running")
	b.waitState(t, w.kind.name, "b", "running")
	w.kind.add(t, "one", nil)
	w.kind.set(t, "one", "size", 1)
	w.kind.drop(t, "one")

	byRoute := map[string][]string{}
	ids := map[string]bool{}
	for _, m := range w.stream.wait(t, w.kind.name, 6) {
		byRoute[m.attributes["route"]] = append(byRoute[m.attributes["route"]], m.what())
		ids[m.attributes["id"]] = true
	}
	each := []string{"created default/one", "updated default/one", "deleted default/one"}
	if diff := cmp.Diff(map[string][]string{"a": each, "b": each}, byRoute); diff != "" {
		t.Errorf("events by route (-want +got):\n%s", diff)
	}
	if len(ids) != 6 {
		t.Errorf("%d ids among 6 events", len(ids))
	}
}

// TestSinkDown shows that a sink that cannot be reached blocks its own flows
// and holds up nothing else, and that they catch up when it comes back.
func TestSinkDown(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	down := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	if err := down.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	routes := w.kind.route("up") + fmt.Sprintf("  - {name: down, crds: [%s], sinks: [down]}\n", w.kind.name)
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: "routes:\n" + routes + natsConfig(w.nats) +
			fmt.Sprintf("  down: {nats: {url: %q, jetstream: {stream: K8S}}}\n", down.URL()),
	})
	b.waitState(t, w.kind.name, "up", "running")
	for i := range 20 {
		w.kind.add(t, fmt.Sprintf("o%d", i), nil)
	}
	w.stream.wait(t, w.kind.name, 20)
	if f := b.waitState(t, w.kind.name, "down", "blocked"); f.Reason == "" || f.LastError == "" {
		t.Errorf("a blocked flow does not say what it waits for: %+v", f)
	}
	b.waitReady(t, 200, "[!] sinks: not all are connected")
	for _, s := range b.status(t).Sinks {
		if s.Connected != (s.Name == "main") {
			t.Errorf("sink %s: connected is %v", s.Name, s.Connected)
		}
	}

	if err := down.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	subscribe(t, down).wait(t, w.kind.name, 20)
	b.waitState(t, w.kind.name, "down", "running")
}

// TestManyBlockedFlows shows that what flows hold while their sink is down is
// bounded for all of them together, not for each: lists as well as queues.
func TestManyBlockedFlows(t *testing.T) {
	const (
		objects = 60
		size    = 32 << 10
	)
	flows := 200 // of one CRD, so that the API server is not what is tested
	if raceEnabled {
		flows = 40 // the race detector is after the order of things, not their number
	}
	// 64 MiB of queued events; for each flow 1 MiB for what HTTP holds of its
	// watch (256 KiB, and the chunks that it comes in), a page of a list, the
	// object that waits for room, and the decoders' buffers, which take five
	// times an object's size; and as much again until Go's collector comes by.
	// Were the objects held, they would be 1.9 MiB for each.
	bound := float64(2 * (64<<20 + flows<<20))
	w := newWorld(t)
	w.kind.create(t)
	var routes []string
	for i := range flows {
		routes = append(routes, w.kind.route(fmt.Sprintf("r%d", i)))
	}
	b := w.bridge(t, routes...)
	for i := range flows {
		b.waitState(t, w.kind.name, fmt.Sprintf("r%d", i), "running")
	}
	w.nats.Kill()
	padding := strings.Repeat("x", size)
	for i := range objects {
		w.kind.add(t, fmt.Sprintf("o%d", i), map[string]any{"padding": padding})
	}
	peak := 0.0
	eventually(t, func() error {
		peak = max(peak, b.gauge(t, "go_memstats_heap_inuse_bytes"))
		blocked := 0
		for _, f := range b.status(t).Flows {
			if f.State == "blocked" && f.Pending > 0 {
				blocked++
			}
		}
		if blocked < flows {
			return fmt.Errorf("%d of %d flows are blocked", blocked, flows)
		}
		return nil
	})
	peak = max(peak, b.gauge(t, "go_memstats_heap_inuse_bytes"))
	t.Logf("%d flows of %.1f MiB each: heap at most %.1f MiB", flows, float64(objects*size)/(1<<20), peak/(1<<20))
	if peak > bound {
		t.Errorf("the heap is %v bytes, more than %v", peak, bound)
	}
	if err := w.nats.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	messages := w.stream.wait(t, w.kind.name, flows*objects)
	if len(messages) != flows*objects {
		t.Errorf("%d events, not %d", len(messages), flows*objects)
	}
}

// TestForbidden shows that a missing right stops one flow, says which rule it
// is, and that granting it is enough.
func TestForbidden(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	other := newKind(t, w.cp.Admin())
	other.create(t)
	crds := rbacv1.PolicyRule{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"get", "list", "watch"}}
	rule := func(k *kind) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{k.group}, Resources: []string{"widgets"}, Verbs: []string{"list", "watch"}}
	}
	account, err := w.cp.ServiceAccount(t.Context(), "default", "forbidden-test", []rbacv1.PolicyRule{crds, rule(w.kind)})
	if err != nil {
		t.Fatal(err)
	}
	b := startBridge(t, config{
		kubeconfig: account.Kubeconfig,
		body:       "routes:\n" + w.kind.route("test") + other.route("other") + natsConfig(w.nats),
	})
	b.waitState(t, w.kind.name, "test", "running")
	f := b.waitState(t, other.name, "other", "forbidden")
	want := fmt.Sprintf(`{apiGroups: [%q], resources: ["widgets"], verbs: [list, watch]}`, other.group)
	if !strings.Contains(f.Reason, want) {
		t.Errorf("the reason does not name the rule %s: %s", want, f.Reason)
	}
	w.kind.add(t, "one", nil)
	w.expect(t, "created default/one")

	other.add(t, "one", nil)
	if err := account.SetClusterRules(t.Context(), []rbacv1.PolicyRule{crds, rule(w.kind), rule(other)}); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, other.name, "other", "running")
	if got := summary(w.stream.wait(t, other.name, 1)); got != "existing default/one" {
		t.Errorf("events of the flow that was forbidden: %s", got)
	}
}
