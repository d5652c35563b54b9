//go:build unix

package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestLogIsJSON shows that a log in JSON is that to its last line, whoever
// logs, and that each line about a flow says which.
func TestLogIsJSON(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: "log: {level: debug, format: json}\nleaderElection: {enabled: true, namespace: default, name: json}\n" +
			"routes:\n" + k.route("test") + k.route("wrong", "version: v9") + natsConfig(w.nats),
	})
	b.waitState(t, k.name, "test", "running")
	k.add(t, "one", nil)
	w.expect(t, "created default/one")
	b.waitState(t, k.name, "wrong", "failed")
	if err := w.nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.add(t, "two", nil)
	b.waitState(t, k.name, "test", "blocked")
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	controller := false // somebody else's line
	states := map[string]bool{}
	for line := range strings.Lines(b.log(t)) {
		var fields struct {
			Time, Level, Msg, CRD, Route, Sink, State, Controller string
		}
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields.Time == "" || fields.Level == "" || fields.Msg == "" {
			t.Errorf("%v: %s", err, line)
		}
		if (fields.Route != "" || fields.CRD != "" || fields.State != "") && (fields.CRD == "" || fields.Route == "" || fields.Sink == "") {
			t.Errorf("it does not say which flow it is about: %s", line)
		}
		controller = controller || fields.Controller != ""
		states[fields.State] = true
	}
	if !controller || !states["running"] || !states["blocked"] || !states["failed"] {
		t.Errorf("controller-runtime's lines: %t; states: %v", controller, states)
	}
}
