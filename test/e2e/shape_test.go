//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/crbridge/crbridge/test/controlplane"
)

// TestFilters shows which updates are told, and that a delete is told exactly
// where something was, also across a restart.
func TestFilters(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	routes := []string{
		k.route("spec", "changes: {specOnly: true}"),
		k.route("ignore", "changes: {ignore: [spec.noise, status]}"),
		k.route("when", `when: "object.spec.size > 1"`),
		k.route("old", `when: "oldObject != null && object.spec.size != oldObject.spec.size"`),
		k.route("fails", `when: "object.spec.nothing == 1"`),
		k.route("types", "events: [deleted]"),
	}
	all := []string{"spec", "ignore", "when", "old", "fails", "types"}
	b := w.bridge(t, routes...)
	for _, route := range all {
		b.waitState(t, k.name, route, "running")
	}
	k.add(t, "a", map[string]any{"size": int64(1)})
	k.patch(t, "a", map[string]any{"status": map[string]any{"n": 1}}) // no subresource: a plain field
	k.set(t, "a", "noise", 1)
	k.set(t, "a", "size", 2)
	k.add(t, "small", map[string]any{"size": int64(0)})
	k.drop(t, "small")
	want := map[string][]string{
		"spec":   {"created default/a", "updated default/a", "updated default/a", "created default/small", "deleted default/small"},
		"ignore": {"created default/a", "updated default/a", "created default/small", "deleted default/small"},
		"when":   {"updated default/a"},
		"old":    {"updated default/a"},
		"fails":  {"created default/a", "updated default/a", "updated default/a", "updated default/a", "created default/small", "deleted default/small"},
		"types":  {"deleted default/small"},
	}
	w.byRoute(t, want)
	if f := b.flow(t, k.name, "fails"); !strings.Contains(f.Reason, "no such key: nothing") || f.State != "running" {
		t.Errorf("an expression that fails is not told: %+v", f)
	}
	failures := 0.0
	for _, m := range b.metrics(t)["bridge_when_errors_total"].GetMetric() {
		failures += m.GetCounter().GetValue()
	}
	if failures != 5 {
		t.Errorf("%v failures are counted, not 5", failures)
	}

	b.Kill()
	k.patch(t, "a", map[string]any{"status": map[string]any{"n": 2}}) // while nobody looks
	b = w.bridge(t, routes...)
	for _, route := range all {
		b.waitState(t, k.name, route, "running")
	}
	k.patch(t, "a", map[string]any{"status": map[string]any{"n": 3}})
	k.drop(t, "a")
	for route, more := range map[string][]string{
		"spec": {"deleted default/a"}, "ignore": {"deleted default/a"}, "when": {"updated default/a", "updated default/a", "deleted default/a"},
		"old": {"deleted default/a"}, "fails": {"updated default/a", "updated default/a", "deleted default/a"}, "types": {"deleted default/a"},
	} {
		want[route] = append(want[route], more...)
	}
	w.byRoute(t, want)
	w.orderly(t)
}

// byRoute waits for just these events of the kind, by route.
func (w *world) byRoute(t *testing.T, want map[string][]string) {
	t.Helper()
	var got map[string][]string
	deadline := time.Now().Add(patience)
	for {
		messages, err := w.stream.read(t.Context(), w.kind.name, 0)
		got = map[string][]string{}
		for _, m := range messages {
			got[m.attributes["route"]] = append(got[m.attributes["route"]], m.what())
		}
		diff := cmp.Diff(want, got)
		if err == nil && diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("events by route (-want +got), %v:\n%s", err, diff)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestPayloads shows what of an object an event carries, by the route's keys.
func TestPayloads(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := w.bridge(t,
		k.route("metadata", "payload: {content: metadata}"),
		k.route("change", "payload: {content: change}"),
		k.route("drop", `payload: {drop: ["spec.items[*].blob", "metadata.annotations['example.com/x']"]}`),
		k.route("keep", "payload: {keep: [metadata.managedFields, \"metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']\"]}"),
	)
	for _, route := range []string{"metadata", "change", "drop", "keep"} {
		b.waitState(t, k.name, route, "running")
	}
	k.add(t, "a", map[string]any{"size": int64(1), "items": []any{map[string]any{"blob": "x", "name": "n"}}})
	a := k.patch(t, "a", map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		"example.com/x": "1", "kubectl.kubernetes.io/last-applied-configuration": "{}",
	}}, "spec": map[string]any{"size": 2}})
	last := map[string]map[string]any{}
	eventually(t, func() error {
		messages, err := w.stream.read(t.Context(), k.name, 8)
		for _, m := range messages {
			last[m.attributes["route"]] = m.data
		}
		return err
	})
	has := func(route string, path ...string) bool {
		var at any = last[route]
		for _, name := range path {
			m, is := at.(map[string]any)
			if !is || m[name] == nil {
				return false
			}
			at = m[name]
		}
		return true
	}
	for _, row := range []struct {
		why   string
		route string
		path  []string
		want  bool
	}{
		{"metadata has no spec", "metadata", []string{"spec"}, false},
		{"and its metadata", "metadata", []string{"metadata", "annotations", "example.com/x"}, true},
		{"a change has the object", "change", []string{"object", "spec", "items"}, true},
		{"and what it was like before", "change", []string{"oldObject", "spec", "items"}, true},
		{"and the patch", "change", []string{"patch"}, true},
		{"what is dropped is not there", "drop", []string{"metadata", "annotations"}, false},
		{"and the rest is", "drop", []string{"spec", "size"}, true},
		{"bookkeeping is kept", "keep", []string{"metadata", "managedFields"}, true},
		{"the annotation as well", "keep", []string{"metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"}, true},
		{"elsewhere it is not", "metadata", []string{"metadata", "managedFields"}, false},
	} {
		if got := has(row.route, row.path...); got != row.want {
			t.Errorf("%s: %v on %s is there: %t", row.why, row.path, row.route, got)
		}
	}
	items, err := json.Marshal(last["drop"]["spec"])
	if err != nil || strings.Contains(string(items), "blob") || !strings.Contains(string(items), `"name":"n"`) {
		t.Errorf("what is left of the spec is %s, %v", items, err)
	}
	patch, err := json.Marshal(last["change"]["patch"])
	if err != nil || !strings.Contains(string(patch), `"path":"/spec/size"`) || strings.Contains(string(patch), "items") {
		t.Errorf("the patch is %s, %v", patch, err)
	}

	// After a restart nobody knows what the object was like before, unless the
	// watch tells it again.
	eventually(t, func() error {
		position, err := w.stream.position(t.Context(), k.name, "change")
		if err == nil && fmt.Sprint(position) < a.GetResourceVersion() {
			err = fmt.Errorf("the flow has recorded %d", position)
		}
		return err
	})
	b.Kill()
	b = w.bridge(t, k.route("change", "payload: {content: change}"))
	b.waitState(t, k.name, "change", "running")
	k.set(t, "a", "size", 3)
	messages := w.stream.wait(t, k.name, 9)
	after := messages[8].data
	if after["object"] == nil || after["oldObject"] != nil || after["patch"] != nil {
		t.Errorf("after a restart a change is %v", after)
	}
}

// TestRedaction shows that a value that is redacted is found nowhere: not in
// NATS, its files included, not in the log on any level, the status, the page or
// the metrics; whatever goes wrong.
func TestRedaction(t *testing.T) {
	t.Parallel() // it waits, most of the time
	const secret = "hunter2-is-never-seen"
	w := newWorld(t)
	k := w.kind
	k.create(t)
	dir := t.TempDir()
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{StoreDir: dir, Config: "max_payload: 4096"})
	w.stream = subscribe(t, server)
	last := fmt.Sprintf(`{"spec":{"password":%q}}`, secret)
	put := func(name string, more map[string]any) {
		spec := map[string]any{"password": secret, "size": int64(1), "list": []any{map[string]any{"token": secret}, secret}}
		maps.Copy(spec, more)
		k.add(t, name, spec)
		k.patch(t, name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{
			"kubectl.kubernetes.io/last-applied-configuration": last,
		}}})
	}
	put("was", nil)
	redact := `redact: [spec.password, "spec.list[*]", spec.set]`
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "log: {level: debug}\nroutes:\n" +
		k.route("object", "payload: {"+redact+"}") + k.route("change", "payload: {content: change, "+redact+"}") +
		k.route("when", `when: "int(object.spec.password) > 1"`, "payload: {"+redact+"}") +
		k.route("selected", `when: "object.spec.password == '`+secret+`x'"`, "payload: {"+redact+"}") +
		k.route("spec", "changes: {specOnly: true}", "payload: {"+redact+"}") + natsConfig(server)})
	for _, route := range []string{"object", "change", "when", "spec"} {
		b.waitState(t, k.name, route, "running")
	}
	put("new", nil)
	put("large", map[string]any{"blob": strings.Repeat("x", 8000)})
	k.set(t, "new", "password", secret+"-2")
	k.set(t, "new", "set", []any{secret})
	k.drop(t, "was")
	k.drop(t, "large")
	eventually(t, func() error {
		messages, err := w.stream.read(t.Context(), k.name, 1)
		if err != nil {
			return err
		}
		ends := 0
		for _, m := range messages {
			if m.attributes["type"] == "dev.crbridge.resource.deleted.v1" {
				ends++
			}
		}
		if ends < 8 {
			return fmt.Errorf("%d deletions", ends)
		}
		return nil
	})
	redacted := 0
	for _, m := range w.stream.all(t, k.name) {
		text, err := json.Marshal(m.data)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"password":"[redacted]"`) {
			redacted++
		}
	}
	if redacted < 8 {
		t.Errorf("only %d events say that something was redacted", redacted)
	}
	// That the password was changed is told, though not to what.
	if f := b.flow(t, k.name, "spec"); f.Delivered < 6 {
		t.Errorf("%d events on the route that looks at the spec", f.Delivered)
	}
	if err := b.Stop(t.Context()); err != nil { // which writes snapshots
		t.Fatal(err)
	}
	if strings.Contains(b.log(t), secret) {
		t.Error("it is in the log")
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(content), secret) {
			t.Errorf("it is in NATS, in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRedactionInStatus looks at what a bridge shows while an expression fails
// over a redacted value.
func TestRedactionInStatus(t *testing.T) {
	t.Parallel() // it waits, most of the time
	const secret = "hunter2-is-never-shown"
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := w.bridge(t, k.route("test", `when: "int(object.spec.password) > 1"`, "payload: {redact: [spec.password]}"))
	b.waitState(t, k.name, "test", "running")
	k.add(t, "a", map[string]any{"password": secret})
	w.expect(t, "created default/a")
	b.says(t, k.name, "running", "`when` fails")
	for _, path := range []string{"/", "/api/status", "/metrics"} {
		if _, body, err := get(t.Context(), b.server+path); err != nil || strings.Contains(body, secret) {
			t.Errorf("it is on %s, %v", path, err)
		}
	}
}

// TestOversize shows that an event which the server does not take for its size
// is delivered without what makes it large, and says so, and holds up nothing.
func TestOversize(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: "max_payload: 4096"})
	w.stream = subscribe(t, server)
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + natsConfig(server)})
	b.waitState(t, k.name, "test", "running")
	k.add(t, "before", nil)
	k.add(t, "large", map[string]any{"blob": strings.Repeat("x", 8000)})
	k.patch(t, "large", map[string]any{"metadata": map[string]any{"annotations": map[string]any{"more": strings.Repeat("y", 8000)}}})
	k.add(t, "after", nil)
	k.drop(t, "large")
	w.expect(t, "created default/before", "created default/large", "updated default/large", "created default/after", "deleted default/large")
	for i, m := range w.stream.all(t, k.name) {
		large := m.attributes["name"] == "large"
		if (m.attributes["oversize"] == "true") != large {
			t.Errorf("%s: oversize is %q", m.what(), m.attributes["oversize"])
		}
		metadata, _ := m.data["metadata"].(map[string]any)
		if metadata["uid"] != m.attributes["uid"] || (m.data["spec"] != nil) == large && m.attributes["name"] == "large" {
			t.Errorf("%s: its data is %v", m.what(), m.data)
		}
		if _, has := metadata["creationTimestamp"]; large && has != (i == 1) {
			t.Errorf("%s: its metadata is %v", m.what(), metadata)
		}
	}
	counted := 0.0
	for _, m := range b.metrics(t)["bridge_events_oversize_total"].GetMetric() {
		counted += m.GetCounter().GetValue()
	}
	if counted != 3 {
		t.Errorf("%v events are counted, not 3", counted)
	}
	if f := b.flow(t, k.name, "test"); f.State != "running" || f.LastError != "" || !strings.Contains(f.Reason, "default/large is too large") {
		t.Errorf("the flow is %+v", f)
	}
	if n := strings.Count(b.log(t), "an event is too large for the sink"); n != 1 {
		t.Errorf("it is logged %d times, not once", n)
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := b.log(t); strings.Count(log, "an event is too large for the sink") != 2 || !strings.Contains(log, "repeated=2") {
		t.Errorf("what was repeated is not summed up in the end:\n%s", log)
	}
}

// TestOversizeStream is TestOversize for the limit that a stream may have.
func TestOversizeStream(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	_, err := w.stream.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}, MaxMsgSize: 4096,
		AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	b := w.bridge(t)
	b.waitState(t, k.name, "test", "running")
	k.add(t, "large", map[string]any{"blob": strings.Repeat("x", 8000)})
	k.add(t, "after", nil)
	w.expect(t, "created default/large", "created default/after")
	if m := w.stream.all(t, k.name)[0]; m.attributes["oversize"] != "true" || m.data["spec"] != nil {
		t.Errorf("%s: %v %v", m.what(), m.attributes, m.data)
	}
}

// TestNamespacesOfClusterScope shows what is said where a route that selects
// namespaces names a CRD that has none.
func TestNamespacesOfClusterScope(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.scope = apiextensions.ClusterScoped
	w.kind.create(t)
	b := w.bridge(t, w.kind.route("test", "namespaces: [default]"))
	b.says(t, w.kind.name, "failed", "is cluster-scoped, and the route selects objects of namespaces")
}
