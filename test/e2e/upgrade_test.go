//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/crbridge/crbridge/test/servers"
)

// earlier is the commit that stands for the previous release: the tag, once
// there is one. It kept its ledgers, fences and configurations as the bridge did
// before its ledger was a table and its watches were shared.
const earlier = "7c7faec9e408b3f16e395892488c8931f7589662"

// earlierBridge is the binary of that commit, which is built once.
var earlierBridge = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp(filepath.Dir(bridgePath), "earlier-")
	if err != nil {
		return "", err
	}
	return servers.BuildBridgeOf(context.Background(), earlier, dir, os.Stderr)
})

// versions are the bridge under test and the one before it, in the order in
// which they run.
func versions(t *testing.T) map[string][2]string {
	t.Helper()
	old, err := earlierBridge()
	if err != nil {
		t.Fatal(err)
	}
	return map[string][2]string{"upgrade": {old, bridgePath}, "downgrade": {bridgePath, old}}
}

// TestUpgrade shows that a bridge goes on where one of another version has
// stopped: from its snapshot alone, as the stream is purged in between, which is
// the only other thing that knows the rows.
func TestUpgrade(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	for name, binaries := range versions(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.kind.create(t)
			c := config{
				kubeconfig: w.cp.AdminKubeconfig(),
				// Rows with a digest, rows that no event tells, and plain ones.
				body: "routes:\n" + w.kind.route("test", "when: 'object.metadata.name != \"silent\"'") +
					w.kind.route("digest", "changes: {specOnly: true}", "payload: {content: metadata}") + natsConfig(w.nats),
			}
			c.binary = binaries[0]
			b := startBridge(t, c)
			b.waitState(t, w.kind.name, "test", "running")
			b.waitState(t, w.kind.name, "digest", "running")
			for _, name := range []string{"same", "changed", "gone", "silent"} {
				w.kind.add(t, name, nil)
			}
			w.stream.wait(t, w.kind.name, 3+4)
			if err := b.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.purge(t)
			w.kind.set(t, "changed", "size", 1)
			w.kind.set(t, "silent", "size", 1)
			w.kind.drop(t, "gone")

			c.binary = binaries[1]
			b = startBridge(t, c)
			w.byRoute(t, map[string][]string{
				"test":   {"updated default/changed", "deleted default/gone"},
				"digest": {"updated default/changed", "updated default/silent", "deleted default/gone"},
			})
			b.waitState(t, w.kind.name, "test", "running")
			if f := b.waitState(t, w.kind.name, "digest", "running"); f.Objects != 3 || !f.Fenced {
				t.Errorf("the flow is %+v, not one of 3 objects that has its fence", f)
			}
		})
	}
}

// TestRollingUpgrade shows that a standby of another version takes over from
// the leader under load, as in a rolling update: nothing is missed, nothing is
// told twice, also where the leader is killed.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel() // it waits, most of the time
	for name, binaries := range versions(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const objects = 50
			w := newWorld(t)
			w.kind.create(t)
			w.kind.fill(t, objects)
			c := config{
				kubeconfig: w.cp.AdminKubeconfig(),
				body: fmt.Sprintf("leaderElection: {enabled: true, namespace: default, name: %s}\nroutes:\n%s%s",
					strings.ReplaceAll(w.kind.group, ".", "-"), w.kind.route("test"), natsConfig(w.nats)),
			}
			c.binary = binaries[0]
			leader := startBridge(t, c)
			leader.waitState(t, w.kind.name, "test", "running")
			c.binary = binaries[1]
			standby := startBridge(t, c)
			standby.waitState(t, w.kind.name, "test", "standby")
			changes, stop := w.kind.shake(t, objects)
			eventually(t, func() error { return missing(int(changes.Load()), 100, w.kind.name) })
			leader.Kill()
			standby.waitState(t, w.kind.name, "test", "running")
			at := changes.Load()
			eventually(t, func() error { return missing(int(changes.Load()-at), 100, w.kind.name) })
			stop()
			want := objects + int(changes.Load())
			messages := w.stream.wait(t, w.kind.name, want)
			checkOrder(t, messages)
			if len(messages) != want {
				t.Errorf("%d events, not %d", len(messages), want)
			}
		})
	}
}

// TestConfigurationOfAnother shows what becomes of a configuration that was
// written for another version: this one takes what the earlier took, and the
// earlier refuses in words what it does not know.
func TestConfigurationOfAnother(t *testing.T) {
	t.Parallel()
	old, err := earlierBridge()
	if err != nil {
		t.Fatal(err)
	}
	example, err := filepath.Abs("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(t.TempDir(), "newer.yaml")
	if err := os.WriteFile(newer, append(content, "\nnotYetThere: true\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	earliers := filepath.Join(t.TempDir(), "earlier.yaml")
	show := exec.CommandContext(t.Context(), "git", "show", earlier+":config.example.yaml")
	if content, err = show.Output(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(earliers, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason, binary, file string
		says                 string // empty: it is taken
	}{
		{"what worked goes on working", bridgePath, earliers, ""},
		{"an upgrade that is taken back, with the configuration that was changed for it", old, newer, "notYetThere: no such key"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			output, err := exec.CommandContext(t.Context(), test.binary, "validate", "--config", test.file).CombinedOutput()
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(string(output), test.says)) {
				t.Errorf("validate ends with %v and says:\n%s", err, output)
			}
		})
	}
}
