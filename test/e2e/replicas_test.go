//go:build unix

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// replicas are two bridges with the same configuration, of which one leads.
type replicas struct {
	leader, standby *bridge
	election        string // of their configuration
}

// startReplicas starts them, and waits until one leads, the other knows that,
// and both are connected to their sinks.
func startReplicas(t *testing.T, k *kind, c config) *replicas {
	t.Helper()
	r := &replicas{election: fmt.Sprintf("leaderElection: {enabled: true, namespace: default, name: %s}\n", strings.ReplaceAll(k.group, ".", "-"))}
	c.body = r.election + c.body
	r.leader = startBridge(t, c)
	r.leader.waitRole(t, "leader")
	r.standby = startBridge(t, c)
	r.standby.waitRole(t, "standby")
	r.connected(t)
	return r
}

// replicas starts two bridges with the routes, by default one for the kind.
func (w *world) replicas(t *testing.T, routes ...string) *replicas {
	t.Helper()
	if len(routes) == 0 {
		routes = []string{w.kind.route("test")}
	}
	return startReplicas(t, w.kind, config{
		kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + strings.Join(routes, "") + natsConfig(w.nats),
	})
}

// reload has both take that configuration.
func (r *replicas) reload(t *testing.T, body string) {
	t.Helper()
	r.leader.reload(t, r.election+body)
	r.standby.reload(t, r.election+body)
}

// connected waits until both are connected to all their sinks.
func (r *replicas) connected(t *testing.T) {
	t.Helper()
	r.leader.waitConnected(t)
	r.standby.waitConnected(t)
}

// waitConnected waits until the bridge is connected to all its sinks.
func (b *bridge) waitConnected(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		sinks := b.metrics(t)["bridge_sink_connected"].GetMetric()
		if got := b.sum(t, "bridge_sink_connected"); got == 0 || got != float64(len(sinks)) {
			return fmt.Errorf("%v of %d sinks are connected", got, len(sinks))
		}
		return nil
	})
}

// lead waits until the standby leads: what led is the standby from now on, once
// it is started again.
func (r *replicas) lead(t *testing.T) {
	t.Helper()
	r.standby.waitRole(t, "leader")
	r.leader, r.standby = r.standby, r.leader
}

// waitRole waits until the bridge has the role.
func (b *bridge) waitRole(t *testing.T, role string) {
	t.Helper()
	eventually(t, func() error {
		if got := b.status(t).Role; got != role {
			return fmt.Errorf("the bridge is %s, not %s", got, role)
		}
		return nil
	})
}
