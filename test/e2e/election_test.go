//go:build unix

package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestElection shows that of two bridges one delivers, that the other is ready
// and says that it stands by, and that it takes over when the first one ends.
func TestElection(t *testing.T) {
	w := newWorld(t)
	w.kind.create(t)
	c := config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: fmt.Sprintf("leaderElection: {enabled: true, namespace: default, name: %s}\nroutes:\n%s%s",
			strings.ReplaceAll(w.kind.group, ".", "-"), w.kind.route("test"), natsConfig(w.nats)),
	}
	first := startBridge(t, c)
	first.waitState(t, w.kind.name, "test", "running")
	second := startBridge(t, c)
	f := second.waitState(t, w.kind.name, "test", "standby")
	if role := second.status(t).Role; role != "standby" || f.Reason == "" {
		t.Errorf("the second bridge is %s, its flow's reason %q", role, f.Reason)
	}
	second.waitReady(t, 200, "role: standby")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if leader := second.status(t).Leader; leader != host {
			return fmt.Errorf("the standby takes %q for the leader, not %q", leader, host)
		}
		return nil
	})
	w.kind.add(t, "one", nil)
	w.stream.wait(t, w.kind.name, 1)

	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log := first.log(t); first.ExitCode() != 0 || strings.Contains(log, "level=ERROR") {
		t.Errorf("a clean stop ends with status %d and the log:\n%s", first.ExitCode(), log)
	}
	stopped := time.Now()
	second.waitState(t, w.kind.name, "test", "running")
	t.Logf("the standby was running %v after the leader had ended", time.Since(stopped).Round(time.Millisecond))
	w.kind.set(t, "one", "size", 1)
	w.expect(t, "created default/one", "updated default/one")
}
