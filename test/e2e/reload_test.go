//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/crbridge/crbridge/test/controlplane"
)

// rewrite makes the file of a bridge that runs another, in place.
func (b *bridge) rewrite(t *testing.T, body string) {
	t.Helper()
	content := fmt.Sprintf("cluster: test\nhealth: {address: %q}\nserver: {address: %q}\n%s",
		strings.TrimPrefix(b.health, "http://"), strings.TrimPrefix(b.server, "http://"), body)
	if err := os.WriteFile(b.config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reloads is how many changes of the file had that result.
func (b *bridge) reloads(t *testing.T, result string) int {
	t.Helper()
	for _, m := range b.metrics(t)["bridge_config_reloads_total"].GetMetric() {
		if m.GetLabel()[0].GetValue() == result {
			return int(m.GetCounter().GetValue())
		}
	}
	t.Fatalf("bridge_config_reloads_total has no series for %s", result)
	return 0
}

// reload rewrites the file and waits until it is in force.
func (b *bridge) reload(t *testing.T, body string) {
	t.Helper()
	before := b.reloads(t, "ok")
	b.rewrite(t, body)
	eventually(t, func() error {
		if n := b.reloads(t, "ok"); n != before+1 {
			return fmt.Errorf("%d reloads, not %d", n, before+1)
		}
		return nil
	})
}

// starts is how often the flow has begun to follow its CRD.
func (b *bridge) starts(t *testing.T, crd, route string) int {
	t.Helper()
	for _, m := range b.metrics(t)["bridge_flow_starts_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if labels["crd"] == crd && labels["route"] == route {
			return int(m.GetCounter().GetValue())
		}
	}
	return 0
}

// TestReload shows that a changed file is in force without a restart, that it
// touches only the flows that it concerns, and what is told where a route is
// added, changed, removed and put back.
func TestReload(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	k.put(t, "default", "a", "color=red")
	k.put(t, "default", "b", "color=blue")
	body := func(routes ...string) string { return "routes:\n" + strings.Join(routes, "") + natsConfig(w.nats) }
	stays := k.route("stays")
	b := w.bridge(t, stays)
	b.waitState(t, k.name, "stays", "running")
	want := []string{"existing default/a", "existing default/b"}
	w.expectSet(t, want...)

	// A route more: what is there exists on it.
	b.reload(t, body(stays, k.route("more", "labelSelector: color=red")))
	b.waitState(t, k.name, "more", "running")
	want = append(want, "existing default/a")
	w.expectSet(t, want...)

	// It selects otherwise.
	b.reload(t, body(stays, k.route("more", "labelSelector: color=blue")))
	want = append(want, "existing default/b", "deselected default/a")
	w.expectSet(t, want...)

	// It goes, and nobody is told that its objects are gone.
	b.reload(t, body(stays))
	eventually(t, func() error {
		if f := b.flow(t, k.name, "more"); f.State != "none" {
			return fmt.Errorf("there still is a flow, %s", f.State)
		}
		return nil
	})
	k.drop(t, "b")
	k.put(t, "default", "c", "color=blue")
	want = append(want, "deleted default/b", "created default/c")
	w.expectSet(t, want...)

	// It comes back, and goes on from where it was.
	b.reload(t, body(k.route("more", "labelSelector: color=blue"), stays))
	b.waitState(t, k.name, "more", "running")
	want = append(want, "deleted default/b", "created default/c")
	w.expectSet(t, want...)

	// Its payload is another one from the next event on.
	b.reload(t, body(stays, k.route("more", "labelSelector: color=blue", "payload: {content: metadata}")))
	b.waitState(t, k.name, "more", "running")
	k.set(t, "c", "size", 1)
	want = append(want, "updated default/c", "updated default/c")
	w.expectSet(t, want...)
	for _, m := range w.stream.all(t, k.name)[len(want)-2:] {
		if _, has := m.data["spec"]; has == (m.attributes["route"] == "more") {
			t.Errorf("%s on %s has a spec: %t", m.what(), m.attributes["route"], has)
		}
	}
	if n := b.starts(t, k.name, "stays"); n != 1 {
		t.Errorf("the flow that no change concerned was started %d times", n)
	}
	w.orderly(t)
	if s := b.status(t); s.Configuration.Error != "" {
		t.Errorf("the configuration's error is %s", s.Configuration.Error)
	}
}

// TestReloadWhileGone shows that objects which went with their CRD while a route
// was not there are told to be deleted when it is put back; and that one that
// came meanwhile is created, and what was there before exists.
func TestReloadWhileGone(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	k.put(t, "default", "a")
	body := func(routes ...string) string { return "routes:\n" + strings.Join(routes, "") + natsConfig(w.nats) }
	other := "  - {name: other, crds: [others.example.com], sinks: [main]}\n"
	wild := fmt.Sprintf("  - {name: test, crds: ['*.%s'], sinks: [main]}\n", k.group)
	b := w.bridge(t, other, wild)
	b.waitState(t, k.name, "test", "running")
	w.expect(t, "existing default/a")
	b.reload(t, body(other))
	k.remove(t)
	b.reload(t, body(other, wild))
	w.expect(t, "existing default/a", "deleted default/a")
	b.reload(t, body(other))
	k.create(t)
	k.put(t, "default", "b")
	b.reload(t, body(other, wild))
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "c")
	w.expect(t, "existing default/a", "deleted default/a", "created default/b", "created default/c")
	w.orderly(t)
}

// TestBadReload shows that a bad file changes nothing, and where it is told: in
// the log, the metrics, the status, and as an Event on the pod.
func TestBadReload(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	client, err := kubernetes.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	pod := "crbridge-" + strings.ReplaceAll(k.group, ".", "-")
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + natsConfig(w.nats),
		env: []string{"POD_NAME=" + pod, "POD_NAMESPACE=default"},
	})
	b.waitState(t, k.name, "test", "running")
	before := b.status(t).Configuration.LoadedAt
	b.rewrite(t, "routes:\n"+k.route("test", "when: object.spec.size >")+natsConfig(w.nats))
	said := "routes[0].when: Syntax error"
	eventually(t, func() error {
		s := b.status(t).Configuration
		if !strings.Contains(s.Error, said) || s.LoadedAt != before {
			return fmt.Errorf("configuration: %+v", s)
		}
		return nil
	})
	if n := b.reloads(t, "bad"); n != 1 {
		t.Errorf("%d bad reloads are counted", n)
	}
	if b.gauge(t, "bridge_config_last_reload_successful") != 0 {
		t.Error("the last reload is said to be successful")
	}
	if !strings.Contains(b.log(t), said) {
		t.Error("the log does not say what is wrong")
	}
	eventually(t, func() error {
		events, err := client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "ConfigurationRejected" && e.Type == "Warning" && strings.Contains(e.Message, said) {
				return nil
			}
		}
		return fmt.Errorf("no Event says so among %d", len(events.Items))
	})
	k.put(t, "default", "a")
	w.expect(t, "created default/a")

	// A key that needs a restart says so; the rest is in force.
	b.reload(t, "log: {level: debug, format: json}\nleaderElection: {name: other}\nroutes:\n"+k.route("test")+k.route("more")+natsConfig(w.nats))
	b.waitState(t, k.name, "more", "running")
	s := b.status(t).Configuration
	if s.Error != "" || len(s.RestartNeeded) != 1 || s.RestartNeeded[0] != "leaderElection" {
		t.Errorf("configuration: %+v", s)
	}
	lines := strings.Split(strings.TrimSpace(b.log(t)), "\n")
	if last := lines[len(lines)-1]; !json.Valid([]byte(last)) {
		t.Errorf("the log is not JSON by now: %s", last)
	}
	if b.gauge(t, "bridge_config_last_reload_successful") != 1 {
		t.Error("the last reload is said not to be successful")
	}
	if err := os.Remove(b.config); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if s := b.status(t).Configuration; !strings.Contains(s.Error, "no such file") {
			return fmt.Errorf("a file that is gone: %+v", s)
		}
		return nil
	})
}

// TestReloadConfigMap shows that a ConfigMap's change is seen: the kubelet makes
// a new folder and swaps a symbolic link.
func TestReloadConfigMap(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := newBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + natsConfig(w.nats)})
	dir := filepath.Dir(b.config)
	version := func(n int) string {
		content, err := os.ReadFile(b.config)
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(dir, fmt.Sprintf("..%d", n))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if n == 2 {
			content = []byte(strings.Replace(string(content), "name: test", "name: changed", 1))
		}
		if err := os.WriteFile(filepath.Join(folder, "config.yaml"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		return filepath.Base(folder)
	}
	swap := func(to string) {
		link := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	first := version(1)
	if err := os.Remove(b.config); err != nil {
		t.Fatal(err)
	}
	swap(first)
	if err := os.Symlink(filepath.Join("..data", "config.yaml"), b.config); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, k.name, "test", "running")
	swap(version(2))
	b.waitState(t, k.name, "changed", "running")
	b.waitState(t, k.name, "test", "none")
}

// TestReloadSink shows that a sink can be changed while the old one is down and
// its flows are blocked, and put back, and that its events are then there.
func TestReloadSink(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := w.bridge(t)
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "a")
	w.expect(t, "created default/a")
	if err := w.nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.put(t, "default", "b")
	b.waitState(t, k.name, "test", "blocked")

	other := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	b.reload(t, "routes:\n"+k.route("test")+natsConfig(other))
	b.waitState(t, k.name, "test", "running")
	elsewhere := subscribe(t, other)
	k.put(t, "default", "c")
	// The stream is another one: what is there is existing in it.
	elsewhere.wait(t, k.name, 3)

	if err := w.nats.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.reload(t, "routes:\n"+k.route("test")+natsConfig(w.nats))
	b.waitState(t, k.name, "test", "running")
	w.expectSet(t, "created default/a", "created default/b", "created default/c")
	w.orderly(t)
	if n := len(b.status(t).Sinks); n != 1 {
		t.Errorf("%d sinks, not 1", n)
	}
}

// TestReloadSinkKind shows that a sink which becomes one of another kind leaves
// nothing behind of what only the old kind counts.
func TestReloadSinkKind(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := w.bridge(t)
	b.waitState(t, k.name, "test", "running")
	counts := func(want, not string) {
		t.Helper()
		eventually(t, func() error {
			metrics := b.metrics(t)
			if n, left := len(metrics[want].GetMetric()), len(metrics[not].GetMetric()); n != 1 || left != 0 {
				return fmt.Errorf("%d series of %s, and %d of %s", n, want, left, not)
			}
			return nil
		})
	}
	const suppressed, unheard = "bridge_duplicates_suppressed_total", "bridge_events_unheard_total"
	counts(suppressed, unheard)
	b.reload(t, "routes:\n"+k.route("test")+fmt.Sprintf("sinks: {main: {nats: {url: %q}}}\n", w.nats.URL()))
	b.waitState(t, k.name, "test", "running")
	counts(unheard, suppressed)
	b.reload(t, "routes:\n"+k.route("test")+natsConfig(w.nats))
	b.waitState(t, k.name, "test", "running")
	counts(suppressed, unheard)
}

// TestSecretRotation shows that a sink takes what its files have when they
// change, without a restart, and loses nothing.
func TestSecretRotation(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{
		Config: `authorization { users = [ {user: one, password: "first-secret"}, {user: two, password: "second-secret"}, {user: look, password: look} ] }`,
	})
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	user, password := write("user", "one"), write("password", "first-secret")
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + fmt.Sprintf(
		"sinks:\n  main: {nats: {url: %q, auth: {userFile: %q, passwordFile: %q}, jetstream: {stream: K8S}}}\n", server.URL(), user, password)})
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "a")
	write("user", "two")
	write("password", "second-secret")
	eventually(t, func() error {
		if !strings.Contains(b.log(t), "files of a sink have changed") {
			return fmt.Errorf("the change is not seen")
		}
		return nil
	})
	k.put(t, "default", "b")
	look := subscribeTo(t, strings.Replace(server.URL(), "nats://", "nats://look:look@", 1))
	look.wait(t, k.name, 2)
	b.waitState(t, k.name, "test", "running")
	if n := b.starts(t, k.name, "test"); n != 1 {
		t.Errorf("the flow was started %d times", n)
	}
	if strings.Contains(b.log(t), "first-secret") || strings.Contains(b.log(t), "second-secret") {
		t.Error("a secret is in the log")
	}
}
