//go:build unix

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/test/controlplane"
)

// TestPermissions shows that what bridge permissions prints is enough for all
// that a bridge does: making its stream, following, a fence, snapshots and
// their restoration, a crash, a resync; and for bridge tail and bridge
// validate.
func TestPermissions(t *testing.T) {
	t.Parallel() // it waits, most of the time
	cp := shared.Get(t)
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	w := &world{kind: newKind(t, cp.Admin())}
	k := w.kind
	k.create(t)
	const objects = 200
	k.fill(t, objects)
	user, password := t.TempDir()+"/user", t.TempDir()+"/password"
	write(t, map[string]string{user: "bridge", password: firstSecret})
	sink := fmt.Sprintf("sinks: {main: {nats: {url: %q, auth: {userFile: %q, passwordFile: %q}, jetstream: {stream: K8S}}}}\n", server.URL(), user, password)
	b := newBridge(t, config{kubeconfig: cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + sink})
	printed, err := exec.CommandContext(t.Context(), bridgePath, "permissions", "--config", b.config).Output()
	if err != nil {
		t.Fatal(err)
	}
	err = server.Reload(t.Context(), fmt.Sprintf("authorization {users: [{user: bridge, password: %q, %s}, {user: %s, password: %s}]}", firstSecret, printed, look, look))
	if err != nil {
		t.Fatal(err)
	}
	w.stream = subscribeTo(t, server.URL(), nats.UserInfo(look, look))
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, k.name, "test", "running")
	w.stream.wait(t, k.name, objects)
	told := func(when string) {
		t.Helper()
		if f := b.flow(t, k.name, "test"); !f.Fenced || f.Reason != "" {
			t.Errorf("%s: %+v", when, f)
		}
		for _, s := range b.status(t).Sinks {
			if len(s.Notes) > 0 || s.LastError != "" {
				t.Errorf("%s: %+v", when, s)
			}
		}
	}
	told("at first")
	c := startTail(t, b.config, "--from-start", "--name", "o7")
	c.shows(t, "existing default/o7 test")
	c.stop(t)

	// Stopped, it writes a snapshot; the next run reads it.
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.drop(t, "o1")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, k.name, "test", "running")
	w.stream.wait(t, k.name, objects+1)
	told("after a snapshot")
	b.Kill()
	k.drop(t, "o2")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, k.name, "test", "running")
	w.stream.wait(t, k.name, objects+2)
	told("after a crash")
	for _, args := range [][]string{{"resync", "--route", "test"}, {"validate", "--cluster", "--kubeconfig", cp.AdminKubeconfig()}} {
		if out, err := exec.CommandContext(t.Context(), bridgePath, append(args, "--config", b.config)...).CombinedOutput(); err != nil {
			t.Errorf("bridge %s: %v: %s", args[0], err, out)
		}
	}
	w.stream.wait(t, k.name, objects+2+objects-2)
	if log := b.log(t); strings.Contains(log, "does not permit") {
		t.Error("the server did not permit something")
	}
	content, err := os.ReadFile(server.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if strings.Contains(line, "Violation") {
			t.Errorf("the server refused something: %s", line)
		}
	}
}
