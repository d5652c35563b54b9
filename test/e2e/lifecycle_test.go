//go:build unix

package e2e_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/crbridge/crbridge/test/controlplane"
)

// world is what most tests need: a kind of their own, a nats-server of their
// own, and a bridge between them that is not started yet.
type world struct {
	cp     *controlplane.ControlPlane
	kind   *kind
	nats   *controlplane.NATSServer
	stream *stream
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cp := shared.Get(t)
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	return &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server, stream: subscribe(t, server)}
}

// bridge starts a bridge with the routes, by default one for the kind.
func (w *world) bridge(t *testing.T, routes ...string) *bridge {
	t.Helper()
	if len(routes) == 0 {
		routes = []string{w.kind.route("test")}
	}
	return startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body:       "routes:\n" + strings.Join(routes, "") + natsConfig(w.nats),
	})
}

// TestLifeOfAnObject shows the whole of what a subscriber gets: a bridge that
// was there before the CRD, each change once, in order, with exactly the
// contract's attributes and the object as the API server had it.
func TestLifeOfAnObject(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	b := w.bridge(t)
	waiting := b.waitState(t, w.kind.name, "test", "waiting")
	if waiting.Reason == "" {
		t.Error("a flow that waits does not say for what")
	}

	w.kind.create(t)
	b.waitState(t, w.kind.name, "test", "running")
	created := w.kind.add(t, "one", map[string]any{"size": int64(1), "text": "<&> \u00e9"})
	updated := w.kind.set(t, "one", "size", 2)
	w.kind.drop(t, "one")

	messages := w.stream.wait(t, w.kind.name, 3)
	want := []struct {
		change string
		object *unstructured.Unstructured
	}{{"created", created}, {"updated", updated}, {"deleted", updated}}
	if len(messages) != len(want) {
		t.Fatalf("%d events, not %d: %s", len(messages), len(want), summary(messages))
	}
	last := uint64(0)
	for i, m := range messages {
		version := want[i].object.GetResourceVersion()
		id := string(created.GetUID()) + "." + version + ".test"
		if want[i].change == "deleted" {
			// The API server gives the deletion a resource version of its own.
			version = m.attributes["resourceversion"]
			id = string(created.GetUID()) + ".deleted.test"
		}
		number, err := strconv.ParseUint(version, 10, 64)
		if err != nil || number <= last {
			t.Errorf("%s: resource version %q after %d: %v", m.what(), version, last, err)
		}
		last = number
		attributes := maps.Clone(m.attributes)
		if attributes["time"] == "" {
			t.Errorf("%s: no time", m.what())
		}
		delete(attributes, "time")
		if diff := cmp.Diff(map[string]string{
			"specversion": "1.0", "type": "dev.crbridge.resource." + want[i].change + ".v1", "id": id,
			"source": "/clusters/test/apis/" + w.kind.group + "/widgets", "subject": "default/one",
			"datacontenttype": "application/json",
			"apiversion":      w.kind.apiVersion(), "kind": "Widget", "namespace": "default", "name": "one",
			"uid": string(created.GetUID()), "resourceversion": version, "route": "test",
			"partitionkey": "default/one", "sequence": fmt.Sprintf("%020d", number),
		}, attributes); diff != "" {
			t.Errorf("%s: attributes (-want +got):\n%s", m.what(), diff)
		}
		if m.msgID != id {
			t.Errorf("%s: Nats-Msg-Id is %q, not %q", m.what(), m.msgID, id)
		}
		if subject := "k8s.test." + strings.ReplaceAll(w.kind.group, ".", "_") + ".widgets.default.one"; m.subject != subject {
			t.Errorf("%s: subject is %q, not %q", m.what(), m.subject, subject)
		}
		object := want[i].object.DeepCopy()
		unstructured.RemoveNestedField(object.Object, "metadata", "managedFields")
		object.SetResourceVersion(version)
		if diff := cmp.Diff(asJSON(t, object.Object), m.data); diff != "" {
			t.Errorf("%s: data (-want +got):\n%s", m.what(), diff)
		}
	}
}

// TestExistingAndCreated tells objects that were there from those that came.
func TestExistingAndCreated(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	w.kind.add(t, "old", nil)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "new", nil)
	w.expect(t, "existing default/old", "created default/new")
}

// expect waits for just these events of the kind, in this order.
func (w *world) expect(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, m := range w.stream.wait(t, w.kind.name, len(want)) {
		got = append(got, m.what())
	}
	compare(t, want, got)
}

func compare(t *testing.T, want, got []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestCRDDeleted shows that each of many objects gets its deletion when their
// CRD goes, and that nothing of the flow is left but its wish to start again.
func TestCRDDeleted(t *testing.T) {
	t.Parallel() // it waits, most of the time
	const objects = 500
	w := newWorld(t)
	b := w.bridge(t)
	w.kind.create(t)
	b.waitState(t, w.kind.name, "test", "running")
	for i := range objects {
		w.kind.add(t, fmt.Sprintf("o%d", i), nil)
	}
	w.stream.wait(t, w.kind.name, objects)
	w.kind.remove(t)
	b.waitState(t, w.kind.name, "test", "waiting")

	messages := w.stream.wait(t, w.kind.name, 2*objects)
	deleted := map[string]int{}
	for _, m := range messages[objects:] {
		if m.attributes["type"] != "dev.crbridge.resource.deleted.v1" {
			t.Fatalf("%s after the CRD's deletion", m.what())
		}
		deleted[m.attributes["uid"]]++
	}
	if len(messages) != 2*objects || len(deleted) != objects {
		t.Errorf("%d events, %d uids deleted, want %d and %d", len(messages), len(deleted), 2*objects, objects)
	}
	if left := b.seriesOf(t, w.kind.name); len(left) > 0 {
		t.Errorf("series that are left: %v", left)
	}
	// The API server counts a watch until it has noticed that it is closed.
	eventually(t, func() error {
		if watchers := w.watchers(t); watchers != 0 {
			return fmt.Errorf("%v watches are left at the API server", watchers)
		}
		return nil
	})
	if f := b.flow(t, w.kind.name, "test"); f.Objects != 0 || f.Pending != 0 {
		t.Errorf("objects or events are left: %+v", f)
	}
}

// watchers is how many watches of the kind the API server serves.
func (w *world) watchers(t *testing.T) float64 {
	t.Helper()
	n, err := w.cp.Metric(t.Context(), "apiserver_longrunning_requests", map[string]string{"group": w.kind.group, "verb": "WATCH"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestScopeChanges shows that a CRD may come back as another one.
func TestScopeChanges(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	b := w.bridge(t)
	w.kind.create(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.stream.wait(t, w.kind.name, 1)
	w.kind.remove(t)

	w.kind.scope = apiextensions.ClusterScoped
	w.kind.create(t)
	one := w.kind.add(t, "one", nil)
	messages := w.stream.wait(t, w.kind.name, 3)
	w.expect(t, "created default/one", "deleted default/one", "created one")
	last := messages[2]
	if _, there := last.attributes["namespace"]; there || last.attributes["uid"] != string(one.GetUID()) {
		t.Errorf("the cluster-scoped object's attributes: %v", last.attributes)
	}
	if !strings.HasSuffix(last.subject, ".widgets._.one") {
		t.Errorf("the cluster-scoped object's subject: %s", last.subject)
	}
}

// TestScopeChangesWhileTheSinkIsDown shows that objects of the CRD that was get
// their end also when the bridge could not tell of it before the next came.
func TestScopeChangesWhileTheSinkIsDown(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	b := w.bridge(t)
	w.kind.create(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.stream.wait(t, w.kind.name, 1)
	w.nats.Kill()
	w.kind.remove(t)
	b.waitState(t, w.kind.name, "test", "draining")
	w.kind.scope = apiextensions.ClusterScoped
	w.kind.create(t)
	w.kind.add(t, "one", nil)
	if err := w.nats.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.stream.wait(t, w.kind.name, 3)
	w.kind.remove(t)
	b.waitState(t, w.kind.name, "test", "waiting")
	var got []string
	for _, m := range w.stream.wait(t, w.kind.name, 4) {
		got = append(got, m.what())
	}
	slices.Sort(got) // two objects' events may be in either order
	if diff := cmp.Diff([]string{"created default/one", "created one", "deleted default/one", "deleted one"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if lines := strings.Count(b.log(t), "\n"); lines > 100 {
		t.Errorf("%d lines of log", lines)
	}
}

// TestVersionNoLongerServed shows that a flow moves on to another version with
// its ledger: nothing is sent again, and nothing is missed.
func TestVersionNoLongerServed(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t, "v1", "v2")
	b := w.bridge(t)
	if f := b.waitState(t, w.kind.name, "test", "running"); f.Version != "v1" {
		t.Errorf("the version that is watched is %s, not the storage version v1", f.Version)
	}
	w.kind.add(t, "one", nil)
	w.kind.add(t, "two", nil)
	w.stream.wait(t, w.kind.name, 2)

	w.kind.version = "v2"
	w.kind.update(t, func(crd *apiextensions.CustomResourceDefinition) { crd.Spec.Versions[0].Served = false })
	eventually(t, func() error {
		if f := b.flow(t, w.kind.name, "test"); f.Version != "v2" || f.State != "running" {
			return fmt.Errorf("the flow is %s on version %s", f.State, f.Version)
		}
		return nil
	})
	w.kind.set(t, "one", "size", 2)
	w.expect(t, "created default/one", "created default/two", "updated default/one")
	if got := w.stream.all(t, w.kind.name)[2].attributes["apiversion"]; got != w.kind.apiVersion() {
		t.Errorf("apiversion is %s, not %s", got, w.kind.apiVersion())
	}
}

// TestVersionOfTheRoute shows that a route's version counts, and that one that
// is not served is told in words.
func TestVersionOfTheRoute(t *testing.T) {
	w := newWorld(t)
	w.kind.create(t, "v1", "v2")
	b := w.bridge(t, w.kind.route("right", "version: v2"), w.kind.route("wrong", "version: v3"))
	if f := b.waitState(t, w.kind.name, "right", "running"); f.Version != "v2" {
		t.Errorf("version %s is watched, not v2", f.Version)
	}
	f := b.waitState(t, w.kind.name, "wrong", "failed")
	if want := "version v3 of " + w.kind.name + " is not served; served are: v2, v1;"; !strings.HasPrefix(f.Reason, want) {
		t.Errorf("the reason is %q, not %q…", f.Reason, want)
	}
}

// TestWildcard shows that CRDs that match come and go by themselves.
func TestWildcard(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	pattern := "*." + w.kind.group
	left := newKind(t, w.cp.Admin())
	left.create(t)
	b := w.bridge(t, fmt.Sprintf("  - {name: all, crds: [%q, '*.%s'], excludeCRDs: [%s], sinks: [main]}\n", pattern, left.group, left.name))
	b.waitState(t, pattern, "all", "waiting")
	w.kind.create(t)
	b.waitState(t, w.kind.name, "all", "running")
	if f := b.flow(t, pattern, "all"); f.State != "none" {
		t.Errorf("the pattern is %s although a CRD matches", f.State)
	}
	if f := b.flow(t, left.name, "all"); f.State != "none" {
		t.Errorf("a CRD that is excluded has a flow: %+v", f)
	}
	w.kind.add(t, "one", nil)
	w.expect(t, "created default/one")
	w.kind.remove(t)
	b.waitState(t, pattern, "all", "waiting")
	w.expect(t, "created default/one", "deleted default/one")
	if f := b.flow(t, w.kind.name, "all"); f.State != "none" {
		t.Errorf("a flow that only the wildcard named is still there: %+v", f)
	}
}

// TestSpecEdited shows that an edit of the CRD, after which the API server ends
// all watches, makes no event and loses none.
func TestSpecEdited(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.stream.wait(t, w.kind.name, 1)
	for i := range 3 {
		w.kind.update(t, func(crd *apiextensions.CustomResourceDefinition) {
			crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Description = strconv.Itoa(i)
			crd.Labels = map[string]string{"edit": strconv.Itoa(i)}
		})
		w.kind.set(t, "one", "size", i)
	}
	eventually(t, func() error {
		messages := w.stream.all(t, w.kind.name)
		last := messages[len(messages)-1]
		if spec, _ := last.data["spec"].(map[string]any); spec["size"] != float64(2) {
			return fmt.Errorf("the last event's spec is %v", spec)
		}
		return nil
	})
	for _, m := range w.stream.all(t, w.kind.name)[1:] {
		if !strings.HasPrefix(m.what(), "updated") {
			t.Errorf("%s after an edit of the CRD", m.what())
		}
	}
}

// TestFlappingCRD creates and deletes a CRD many times: what the bridge holds
// afterwards is what it held before, and its log stays readable. One cycle in
// ten has an object too; the API server takes none for the first two seconds
// of a CRD's life.
func TestFlappingCRD(t *testing.T) {
	cycles := 200
	if raceEnabled {
		cycles = 20 // the race detector is after the order of things, not their number
	}
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	// The heap is compared between garbage collections. One for each tenth
	// that is added keeps the garbage small beside what is live.
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + w.kind.route("test") + natsConfig(w.nats), env: []string{"GOGC=10"},
	})
	objects := 0
	cycle := func(i int) {
		w.kind.create(t)
		b.waitState(t, w.kind.name, "test", "running")
		if i%10 == 0 {
			objects++
			w.kind.add(t, "one", map[string]any{"cycle": int64(i)})
			w.stream.wait(t, w.kind.name, 2*objects-1)
		}
		w.kind.remove(t)
		b.waitState(t, w.kind.name, "test", "waiting")
		w.stream.wait(t, w.kind.name, 2*objects)
	}
	const warmUp = 10
	for i := range warmUp {
		cycle(i)
	}
	goroutines, heap := b.gauge(t, "go_goroutines"), b.gauge(t, "go_memstats_heap_alloc_bytes")
	lines := strings.Count(b.log(t), "\n")
	for i := warmUp; i < warmUp+cycles; i++ {
		cycle(i)
	}
	eventually(t, func() error {
		if now := b.gauge(t, "go_goroutines"); now > goroutines {
			return fmt.Errorf("%v goroutines, %v before", now, goroutines)
		}
		return nil
	})
	eventually(t, func() error {
		if now := b.gauge(t, "go_memstats_heap_alloc_bytes"); now > 1.25*heap {
			return fmt.Errorf("%v bytes of heap, %v before", now, heap)
		}
		return nil
	})
	log := b.log(t)
	perCycle := float64(strings.Count(log, "\n")-lines) / float64(cycles)
	t.Logf("%d cycles: goroutines %v, then %v; heap %v, then %v; %.1f log lines a cycle",
		cycles, goroutines, b.gauge(t, "go_goroutines"), heap, b.gauge(t, "go_memstats_heap_alloc_bytes"), perCycle)
	if perCycle >= 1 { // each has four changes of state
		t.Errorf("%.1f log lines a cycle, want fewer than one", perCycle)
	}
	if strings.Contains(log, "could not find the requested resource") {
		t.Error("the log has a reflector's 404")
	}
	if got := len(w.stream.all(t, w.kind.name)); got != 2*objects {
		t.Errorf("%d events, not %d", got, 2*objects)
	}
}

// asJSON is a value as it is after a way through JSON.
func asJSON(t *testing.T, object map[string]any) map[string]any {
	t.Helper()
	content, err := (&unstructured.Unstructured{Object: object}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, content)
}
