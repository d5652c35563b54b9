//go:build unix

package e2e_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/monitoring"
)

// The scenarios of TestAlerts: each causes trouble, and mends it.

// sinkDown kills NATS while objects change.
func sinkDown(t *testing.T, observe observe) {
	w := newWorld(t)
	w.kind.create(t)
	var routes []string
	for i := range 5 { // each of them tries again
		routes = append(routes, w.kind.route(fmt.Sprint("r", i)))
	}
	r := w.replicas(t, routes...)
	b := r.leader
	b.waitState(t, w.kind.name, "r0", "running")
	w.kind.add(t, "one", nil)
	w.stream.wait(t, w.kind.name, 5)
	o := observe(t, r.leader, r.standby)
	o.calm(t)

	w.nats.Kill()
	w.kind.add(t, "two", nil)
	for i := range routes {
		b.waitState(t, w.kind.name, fmt.Sprint("r", i), "blocked")
	}
	eventually(t, func() error {
		if n := b.sum(t, "bridge_delivery_retries_total"); n < 30 {
			return fmt.Errorf("%v retries so far", n)
		}
		return nil
	})
	o.fire(t, "CRBridgeSinkDown", "CRBridgeFlowBlocked", "CRBridgeEventsDelayed", "CRBridgeDeliveryRetries")

	// The leader is killed: for a while nobody leads, and then the other one is
	// in the same trouble.
	b.Kill()
	o.hold(t, monitoring.Interval, "CRBridgeSinkDown", "CRBridgeFlowBlocked")
	r.lead(t)
	for i := range routes {
		r.leader.waitState(t, w.kind.name, fmt.Sprint("r", i), "blocked")
	}
	o.hold(t, time.Hour, "CRBridgeSinkDown", "CRBridgeFlowBlocked")
	if err := w.nats.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.stream.wait(t, w.kind.name, 10)
	r.leader.settled(t)
	r.connected(t)
	o.fire(t)
	o.calm(t)
}

// streamFills fills a stream that refuses what is too much, with objects of
// which one is too large, for one route with an expression that fails, and one
// to whom nobody listens.
func streamFills(t *testing.T, observe observe) {
	const limit = 128 << 10
	w := newWorld(t)
	k := w.kind
	k.create(t)
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: "max_payload: 8192"})
	w.stream = subscribe(t, server)
	// The shorter messages are kept, the more often the bridge looks at the stream.
	stream := jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}, MaxAge: 90 * time.Second, Duplicates: time.Minute,
		MaxBytes: limit, Discard: jetstream.DiscardNew, AllowDirect: true, AllowAtomicPublish: true,
	}
	if _, err := w.stream.js.CreateStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	r := startReplicas(t, k, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") +
		k.route("fails", `when: "object.spec.nothing == 1"`, "payload: {content: metadata}") +
		fmt.Sprintf("  - {name: core, crds: [%s], sinks: [core]}\n", k.name) +
		fmt.Sprintf("sinks:\n  main: {nats: {url: %[1]q, jetstream: {stream: K8S}}}\n  core: {nats: {url: %[1]q, subject: 'core.{group}.{namespace}.{name}'}}\n", server.URL())})
	b := r.leader
	for _, route := range []string{"test", "fails", "core"} {
		b.waitState(t, k.name, route, "running")
	}
	o := observe(t, r.leader, r.standby)
	o.calm(t)

	k.add(t, "large", map[string]any{"blob": strings.Repeat("x", 9000)})
	k.drop(t, "large")
	s, err := w.stream.js.Stream(t.Context(), "K8S")
	if err != nil {
		t.Fatal(err)
	}
	const step = 4000
	for i, bytes := 0, uint64(0); bytes < limit*92/100; i++ {
		k.add(t, fmt.Sprint("o", i), map[string]any{"blob": strings.Repeat("x", step)})
		eventually(t, func() error {
			info, err := s.Info(t.Context())
			if err == nil && info.State.Bytes < bytes+step {
				err = fmt.Errorf("%d bytes are in the stream", info.State.Bytes)
			}
			if err == nil {
				bytes = info.State.Bytes
			}
			return err
		})
	}
	b.happened(t, "bridge_when_errors_total", "bridge_events_oversize_total", "bridge_events_unheard_total")
	eventually(t, func() error {
		if bytes := b.sum(t, "bridge_stream_bytes"); bytes < limit*91/100 {
			return fmt.Errorf("%v bytes are told to be in the stream", bytes)
		}
		return nil
	})
	o.fire(t, "CRBridgeStreamNearlyFull", "CRBridgeEventsCut", "CRBridgeEventsUnheard", "CRBridgeExpressionFails")

	stream.MaxBytes *= 10
	if _, err := w.stream.js.UpdateStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if bytes := b.sum(t, "bridge_stream_limit_bytes"); bytes != 10*limit {
			return fmt.Errorf("%v bytes are told to be the stream's limit", bytes)
		}
		return nil
	})
	o.fire(t)
	o.calm(t)
}

// noLeader lets a bridge have everything but its Lease.
func noLeader(t *testing.T, observe observe) {
	w := newWorld(t)
	w.kind.create(t)
	rules := w.rules(w.kind)
	sa, err := w.cp.ServiceAccount(t.Context(), "default", "no-leader", rules)
	if err != nil {
		t.Fatal(err)
	}
	c := config{
		kubeconfig: sa.Kubeconfig,
		body:       "leaderElection: {enabled: true, namespace: default, name: no-leader}\nroutes:\n" + w.kind.route("test") + natsConfig(w.nats),
	}
	bridges := []*bridge{startBridge(t, c), startBridge(t, c)}
	for _, b := range bridges {
		b.waitState(t, w.kind.name, "test", "standby")
		b.waitConnected(t) // a standby has no reason to, and does so all the same
	}
	o := observe(t, bridges...)
	o.fire(t, "CRBridgeNoLeader")

	if err := sa.SetClusterRules(t.Context(), append(rules, leases)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		for _, b := range bridges {
			if b.flow(t, w.kind.name, "test").State == "running" {
				return nil
			}
		}
		return errors.New("the flow runs nowhere")
	})
	o.fire(t)
	o.calm(t)
}

// leases is what leader election needs besides.
var leases = rbacv1.PolicyRule{
	APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create", "get", "update"},
}

// rules are those that a bridge needs to follow the kinds.
func (w *world) rules(kinds ...*kind) []rbacv1.PolicyRule {
	rules := []rbacv1.PolicyRule{{
		APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"get", "list", "watch"},
	}}
	for _, k := range kinds {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{k.group}, Resources: []string{"widgets"}, Verbs: []string{"list", "watch"}})
	}
	return rules
}

// rightsAndVersions adds a route that the bridge may not follow and one whose
// version is not served, and then makes the file a bad one.
func rightsAndVersions(t *testing.T, observe observe) {
	w := newWorld(t)
	forbidden := newKind(t, w.cp.Admin())
	w.kind.create(t)
	forbidden.create(t)
	sa, err := w.cp.ServiceAccount(t.Context(), "default", "rights-and-versions", append(w.rules(w.kind), leases))
	if err != nil {
		t.Fatal(err)
	}
	good := "routes:\n" + w.kind.route("test")
	r := startReplicas(t, w.kind, config{kubeconfig: sa.Kubeconfig, body: good + natsConfig(w.nats)})
	r.leader.waitState(t, w.kind.name, "test", "running")
	o := observe(t, r.leader, r.standby)
	o.calm(t)

	r.reload(t, good+forbidden.route("forbidden")+w.kind.route("failed", "version: v3")+natsConfig(w.nats))
	r.leader.waitState(t, forbidden.name, "forbidden", "forbidden")
	r.leader.waitState(t, w.kind.name, "failed", "failed")
	o.fire(t, "CRBridgeFlowForbidden", "CRBridgeFlowFailed")

	// Another leader is in the same trouble.
	if err := r.leader.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.lead(t)
	o.hold(t, monitoring.Interval, "CRBridgeFlowForbidden", "CRBridgeFlowFailed")
	r.leader.waitState(t, forbidden.name, "forbidden", "forbidden")
	r.leader.waitState(t, w.kind.name, "failed", "failed")
	o.hold(t, time.Hour, "CRBridgeFlowForbidden", "CRBridgeFlowFailed")
	if err := r.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.connected(t)

	for _, b := range []*bridge{r.leader, r.standby} {
		bad := b.reloads(t, "bad")
		b.rewrite(t, r.election+good+"nonsense: true\n"+natsConfig(w.nats))
		eventually(t, func() error {
			if b.reloads(t, "bad") == bad {
				return fmt.Errorf("the bad file has not been read yet")
			}
			return nil
		})
	}
	o.fire(t, "CRBridgeFlowForbidden", "CRBridgeFlowFailed", "CRBridgeConfigurationRefused")

	if err := sa.SetClusterRules(t.Context(), append(w.rules(w.kind, forbidden), leases)); err != nil {
		t.Fatal(err)
	}
	r.reload(t, good+forbidden.route("forbidden")+w.kind.route("failed", "version: v1")+natsConfig(w.nats))
	r.leader.waitState(t, forbidden.name, "forbidden", "running")
	r.leader.waitState(t, w.kind.name, "failed", "running")
	o.fire(t)
	o.calm(t)
}

// stuckCRD deletes a CRD with an object that somebody's finalizer keeps.
func stuckCRD(t *testing.T, observe observe) {
	w := newWorld(t)
	w.kind.create(t)
	r := w.replicas(t)
	b := r.leader
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "kept", nil)
	w.kind.patch(t, "kept", map[string]any{"metadata": map[string]any{"finalizers": []string{"example.com/keep"}}})
	w.stream.wait(t, w.kind.name, 2)
	o := observe(t, r.leader, r.standby)
	o.calm(t)

	if err := w.kind.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), w.kind.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, w.kind.name, "test", "draining")
	o.fire(t, "CRBridgeFlowStuck")

	w.kind.patch(t, "kept", map[string]any{"metadata": map[string]any{"finalizers": nil}})
	b.waitState(t, w.kind.name, "test", "waiting")
	o.fire(t)
	o.calm(t)
}

// restartsAndResyncs changes a route over and over, and asks for a resync as often.
func restartsAndResyncs(t *testing.T, observe observe) {
	const often = 8
	w := newWorld(t)
	w.kind.create(t)
	r := w.replicas(t)
	b := r.leader
	b.waitState(t, w.kind.name, "test", "running")
	o := observe(t, r.leader, r.standby)
	o.calm(t)

	starts := b.starts(t, w.kind.name, "test")
	for i := range often {
		r.reload(t, "routes:\n"+w.kind.route("test", []string{"payload: {content: metadata}", "payload: {content: object}"}[i%2])+natsConfig(w.nats))
		eventually(t, func() error {
			if n := b.starts(t, w.kind.name, "test"); n < starts+i+1 {
				return fmt.Errorf("%d starts, %d before", n, starts)
			}
			return nil
		})
	}
	b.waitState(t, w.kind.name, "test", "running")
	o.fire(t, "CRBridgeFlowRestarts")
	o.fire(t)

	for i := range often {
		w.resync(t, "test")
		eventually(t, func() error {
			if n := b.sum(t, "bridge_resyncs_total"); n < float64(i+1) {
				return fmt.Errorf("%v resyncs so far", n)
			}
			return nil
		})
	}
	b.waitState(t, w.kind.name, "test", "running")
	o.fire(t, "CRBridgeFlowRestarts", "CRBridgeResyncs") // a resync is a start
	o.fire(t)
	o.calm(t)
}
