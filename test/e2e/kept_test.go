//go:build unix

package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
)

// TestRoutesThatReturn shows that what the configuration leaves out for a while,
// and then has again, is compared with what is known of it: nothing is told
// twice, and what has changed meanwhile is.
func TestRoutesThatReturn(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	route := func(crd, more string) string {
		return fmt.Sprintf("  - {name: test, crds: [%q], sinks: [main]%s}\n", crd, more)
	}
	for _, test := range []struct {
		why                   string
		first, between, again func(*world) string
		want                  []string // after the first
	}{
		{
			"a route is removed and put back",
			func(w *world) string { return w.kind.route("test") },
			func(*world) string { return "  - {name: other, crds: [others.example.com], sinks: [main]}\n" },
			func(w *world) string { return w.kind.route("test") },
			[]string{"updated default/changed", "deleted default/gone", "created default/new"},
		},
		{
			"a route has another CRD for a while",
			func(w *world) string { return w.kind.route("test") },
			func(*world) string { return route("others.example.com", "") },
			func(w *world) string { return w.kind.route("test") },
			[]string{"updated default/changed", "deleted default/gone", "created default/new"},
		},
		{
			"a CRD is named, then matched, then named",
			func(w *world) string { return w.kind.route("test") },
			func(w *world) string { return route("*."+w.kind.group, "") },
			func(w *world) string { return w.kind.route("test") },
			[]string{"updated default/changed", "deleted default/gone", "created default/new"},
		},
		{
			"a route wants ends only for a while",
			func(w *world) string { return w.kind.route("test") },
			func(w *world) string { return route(w.kind.name, ", events: [deleted]") },
			func(w *world) string { return w.kind.route("test") },
			[]string{"deleted default/gone", "existing default/new"},
		},
		{
			"a route wants more than it did",
			func(w *world) string { return route(w.kind.name, ", events: [deleted]") },
			func(w *world) string { return route(w.kind.name, ", events: [deleted]") },
			func(w *world) string { return w.kind.route("test") },
			[]string{"deleted default/gone", "existing default/changed", "existing default/new", "existing default/same"},
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.kind.create(t)
			b := w.bridge(t, test.first(w))
			b.waitState(t, w.kind.name, "test", "running")
			w.kind.add(t, "changed", nil)
			w.kind.add(t, "gone", nil)
			last := w.kind.add(t, "same", nil)
			w.recorded(t, last)
			told := len(w.stream.all(t, w.kind.name))
			end := func() {
				t.Helper()
				if err := b.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			end()
			b = w.bridge(t, test.between(w))
			eventually(t, func() error {
				for _, f := range b.status(t).Flows {
					if f.State != "running" && f.State != "waiting" || strings.Contains(f.Reason, "has not said yet") {
						return fmt.Errorf("%+v", f)
					}
				}
				return nil
			})
			w.kind.set(t, "changed", "size", 1)
			w.kind.drop(t, "gone")
			last = w.kind.add(t, "new", nil)
			if strings.Contains(test.between(w), "test,") && strings.Contains(test.between(w), w.kind.group) {
				w.recorded(t, last)
			}
			end()
			w.bridge(t, test.again(w))
			w.recorded(t, last)
			messages := w.stream.wait(t, w.kind.name, told+len(test.want))
			checkOrder(t, messages)
			var got []string
			for _, m := range messages[told:] {
				got = append(got, m.what())
			}
			compare(t, test.want, got)
		})
	}
}

// TestStateSink shows that what a sink without a stream was told is known after
// a restart, where another sink keeps its ledgers: nothing is told again but
// what the bridge cannot know to have arrived, and no end is missed.
func TestStateSink(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	other := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	conn, err := nats.Connect(other.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	subscription, err := conn.SubscribeSync("things.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	c := config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: fmt.Sprintf("state: {sink: main}\nroutes:\n  - {name: test, crds: [%s], sinks: [core]}\n", w.kind.name) + natsConfig(w.nats) +
			fmt.Sprintf("  core: {nats: {url: %q, subject: \"things.{event}.{name}\"}}\n", other.URL()),
	}
	next := func(want ...string) {
		t.Helper()
		for _, subject := range want {
			m, err := subscription.NextMsg(patience)
			if err != nil {
				t.Fatalf("%s: %v", subject, err)
			}
			if m.Subject != subject {
				t.Fatalf("%s, not %s", m.Subject, subject)
			}
		}
	}
	b := startBridge(t, c)
	b.waitState(t, w.kind.name, "test", "running")
	if f := b.flow(t, w.kind.name, "test"); f.Fenced {
		t.Errorf("a flow to core NATS says that it is fenced: %+v", f)
	}
	b.logs(t, "at least once")
	for _, name := range []string{"changed", "gone", "same"} {
		w.kind.add(t, name, nil)
		next("things.created." + name)
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kind.set(t, "changed", "size", 1)
	w.kind.drop(t, "gone")
	b = startBridge(t, c)
	next("things.updated.changed", "things.deleted.gone")

	// And after a crash, when what was told was recorded.
	b.waitState(t, w.kind.name, "test", "running")
	<-time.After(1500 * time.Millisecond) // at most once a second
	b.Kill()
	w.kind.drop(t, "same")
	startBridge(t, c)
	next("things.deleted.same")
	if m, err := subscription.NextMsg(time.Second); err == nil {
		t.Errorf("%s as well", m.Subject)
	}
}

// TestStreamWithoutControlSubject shows that a stream which does not take
// control messages works all the same, without the fence, and that it says so.
func TestStreamWithoutControlSubject(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	_, err := w.stream.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	if f := b.flow(t, w.kind.name, "test"); f.Fenced {
		t.Errorf("the flow says that it is fenced: %+v", f)
	}
	b.logs(t, "crbridge.K8S.>")
	for _, name := range []string{"changed", "gone", "same"} {
		w.kind.add(t, name, nil)
	}
	w.stream.wait(t, w.kind.name, 3)
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kind.set(t, "changed", "size", 1)
	w.kind.drop(t, "gone")
	b = w.bridge(t)
	want := []string{"created default/changed", "created default/gone", "created default/same", "updated default/changed", "deleted default/gone"}
	w.expect(t, want...)
	b.Kill()
	w.kind.drop(t, "same")
	w.bridge(t)
	w.expect(t, append(want, "deleted default/same")...)
}

// replicated is a world with a NATS cluster of three.
func replicated(t *testing.T, o controlplane.NATSOptions, options ...nats.Option) (*world, *controlplane.NATSCluster) {
	t.Helper()
	cp := shared.Get(t)
	cluster := controlplane.NATSClusterForTest(t, 3, o)
	return &world{cp: cp, kind: newKind(t, cp.Admin()), stream: subscribeTo(t, cluster.URL(), options...)}, cluster
}

// TestReplicatedStream shows a stream with three replicas under load, whose
// leader is killed, which loses a node for a while, and whose nodes are
// restarted one after the other: events go out in atomic batches, and none is
// missing, twice or out of order.
func TestReplicatedStream(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	const objects = 100
	w, cluster := replicated(t, controlplane.NATSOptions{})
	w.kind.create(t)
	w.kind.fill(t, objects)
	urls := `"` + strings.Join(cluster.URLs(), `", "`) + `"`
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: "routes:\n" + w.kind.route("test") +
			fmt.Sprintf("sinks:\n  main: {nats: {url: [%s], jetstream: {stream: K8S, replicas: 3, duplicateWindow: 1s}}}\n", urls),
	})
	b.waitState(t, w.kind.name, "test", "running")
	if how := b.status(t).Sinks[0].Batches; how != "atomic" {
		t.Errorf("events are written %q", how)
	}
	changes, stop := w.kind.shake(t, objects)
	some := func() {
		t.Helper()
		at := changes.Load()
		eventually(t, func() error { return missing(int(changes.Load()-at), 200, w.kind.name) })
	}
	away := func(node *controlplane.NATSServer, end func() error) {
		t.Helper()
		some()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		some()
		if err := node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := cluster.WaitCurrent(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	killed := func(node *controlplane.NATSServer) func() error {
		return func() error {
			node.Kill()
			return nil
		}
	}
	leader, err := cluster.StreamLeader(t.Context(), w.stream.js, "K8S")
	if err != nil {
		t.Fatal(err)
	}
	away(leader, killed(leader))
	leader, err = cluster.StreamLeader(t.Context(), w.stream.js, "K8S")
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range cluster.Nodes() {
		if node != leader {
			away(node, killed(node))
			break
		}
	}
	for _, node := range cluster.Nodes() {
		away(node, func() error { return node.Stop(t.Context()) })
	}
	stop()
	want := objects + int(changes.Load())
	messages := w.stream.wait(t, w.kind.name, want)
	checkOrder(t, messages)
	if len(messages) != want {
		t.Errorf("%d events, not %d", len(messages), want)
	}
}

// TestServersOfACluster shows which servers the bridge tries: all that are
// written, though the first is down, and those that it has heard of, although
// the one that is written is gone for good, also for a new connection with
// other credentials.
func TestServersOfACluster(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	user, password := filepath.Join(t.TempDir(), "user"), filepath.Join(t.TempDir(), "password")
	write(t, map[string]string{user: "first", password: firstSecret})
	w, cluster := replicated(t, controlplane.NATSOptions{
		Config: fmt.Sprintf("authorization {users: [{user: first, password: %[1]q}, {user: second, password: %[1]q}, {user: %[2]s, password: %[2]s}]}", firstSecret, look),
	}, nats.UserInfo(look, look))
	w.kind.create(t)
	c := config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: "routes:\n" + w.kind.route("test") + fmt.Sprintf(
			"sinks:\n  main: {nats: {url: [\"nats://%s\", %q], auth: {userFile: %q, passwordFile: %q}, jetstream: {stream: K8S, replicas: 3}}}\n",
			freeAddress(t), cluster.URLs()[0], user, password),
	}
	b := startBridge(t, c)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.expect(t, "created default/one")

	written := cluster.Nodes()[0]
	written.Kill()
	w.kind.add(t, "two", nil)
	w.expect(t, "created default/one", "created default/two")
	write(t, map[string]string{user: "second"})
	b.logs(t, "files of a sink have changed; it connects anew")
	w.kind.add(t, "three", nil)
	w.expect(t, "created default/one", "created default/two", "created default/three")
	eventually(t, func() error {
		if f, s := b.flow(t, w.kind.name, "test"), b.status(t).Sinks[0]; f.State != "running" || !s.Connected || s.LastError != "" {
			return fmt.Errorf("%+v, %+v", f, s)
		}
		return nil
	})
	if err := written.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
