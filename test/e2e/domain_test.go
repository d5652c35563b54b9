//go:build unix

package e2e_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/test/controlplane"
)

// TestDomain shows a bridge whose server is a leaf node with a JetStream of its
// own, and whose stream is in the hub's domain: events, ledger and snapshots
// are there, also after a stop and a crash.
func TestDomain(t *testing.T) {
	t.Parallel() // it waits, most of the time
	cp := shared.Get(t)
	leaves := freeAddress(t)
	hub := controlplane.NATSForTest(t, controlplane.NATSOptions{
		JetStream: "domain: hub", Config: fmt.Sprintf("server_name: hub\nleafnodes {listen: %q}", leaves),
	})
	leaf := controlplane.NATSForTest(t, controlplane.NATSOptions{
		JetStream: "domain: leaf", Config: fmt.Sprintf("server_name: leaf\nleafnodes {remotes: [{url: %q}]}", "nats-leaf://"+leaves),
	})
	w := &world{cp: cp, kind: newKind(t, cp.Admin()), nats: leaf, stream: subscribe(t, hub)}
	k := w.kind
	k.create(t)
	b := startBridge(t, config{kubeconfig: cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") +
		fmt.Sprintf("sinks: {main: {nats: {url: %q, jetstream: {stream: K8S, domain: hub}}}}\n", leaf.URL())})
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "a")
	w.expect(t, "created default/a")
	w.restarts(t, b)
	here := subscribe(t, leaf)
	if _, err := here.js.Stream(t.Context(), "K8S"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the leaf node has a stream too, or does not say: %v", err)
	}
}

// restarts stops the bridge and kills it, with a change each time while it is
// away, and looks whether it goes on where it was.
func (w *world) restarts(t *testing.T, b *bridge) {
	t.Helper()
	told := func(when string) {
		t.Helper()
		if f := b.waitState(t, w.kind.name, "test", "running"); !f.Fenced || f.Reason != "" {
			t.Errorf("%s: %+v", when, f)
		}
		for _, s := range b.status(t).Sinks {
			if len(s.Notes) > 0 || s.LastError != "" {
				t.Errorf("%s: %+v", when, s)
			}
		}
	}
	told("at first")
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kind.put(t, "default", "b")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "created default/a", "created default/b")
	told("after a stop")
	b.Kill()
	w.kind.drop(t, "a")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "created default/a", "created default/b", "deleted default/a")
	told("after a crash")
}

// TestPrivateInbox shows a bridge that may hear no answers but its own.
func TestPrivateInbox(t *testing.T) {
	t.Parallel() // it waits, most of the time
	cp := shared.Get(t)
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: fmt.Sprintf(
		`authorization {users: [{user: bridge, password: %q, permissions: {subscribe: {allow: ["_INBOX_bridge.>", "crbridge.>"]}}}, {user: %s, password: %s}]}`,
		firstSecret, look, look)})
	user, password := t.TempDir()+"/user", t.TempDir()+"/password"
	write(t, map[string]string{user: "bridge", password: firstSecret})
	w := &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server, stream: subscribeTo(t, server.URL(), nats.UserInfo(look, look))}
	k := w.kind
	k.create(t)
	b := startBridge(t, config{kubeconfig: cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + fmt.Sprintf(
		"sinks: {main: {nats: {url: %q, inboxPrefix: _INBOX_bridge, auth: {userFile: %q, passwordFile: %q}, jetstream: {stream: K8S}}}}\n",
		server.URL(), user, password)})
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "a")
	w.expect(t, "created default/a")
	w.restarts(t, b)
}

// TestAPIPrefix shows a bridge in an account without a JetStream of its own,
// which another account lends it.
func TestAPIPrefix(t *testing.T) {
	t.Parallel() // it waits, most of the time
	cp := shared.Get(t)
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: fmt.Sprintf(`
accounts {
  STORE: {
    jetstream: enabled
    users: [{user: %[1]s, password: %[1]s}]
    exports: [
      {service: "$JS.API.>", response_type: stream}, {service: "$JS.FC.>"}
      {service: "k8s.>"}, {service: "crbridge.>"}, {service: "$O.crbridge.>"}
      {stream: "deliver.>"}
    ]
  }
  APP: {
    users: [{user: bridge, password: %[2]q}]
    imports: [
      {service: {account: STORE, subject: "$JS.API.>"}, to: "store.api.>"}, {service: {account: STORE, subject: "$JS.FC.>"}}
      {service: {account: STORE, subject: "k8s.>"}}, {service: {account: STORE, subject: "crbridge.>"}}, {service: {account: STORE, subject: "$O.crbridge.>"}}
      {stream: {account: STORE, subject: "deliver.>"}}
    ]
  }
}`, look, firstSecret)})
	user, password := t.TempDir()+"/user", t.TempDir()+"/password"
	write(t, map[string]string{user: "bridge", password: firstSecret})
	w := &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server, stream: subscribeTo(t, server.URL(), nats.UserInfo(look, look))}
	k := w.kind
	k.create(t)
	b := startBridge(t, config{kubeconfig: cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + fmt.Sprintf(
		"sinks: {main: {nats: {url: %q, inboxPrefix: deliver, auth: {userFile: %q, passwordFile: %q}, jetstream: {stream: K8S, apiPrefix: store.api}}}}\n",
		server.URL(), user, password)})
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "a")
	w.expect(t, "created default/a")
	w.restarts(t, b)
}
