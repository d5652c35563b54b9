//go:build unix

package e2e_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestEmbedded shows a bridge that is its own NATS server: what it told and
// what it knows is still there after a crash under load, no other bridge gets
// at it, and the commands do.
func TestEmbedded(t *testing.T) {
	t.Parallel() // it waits, most of the time
	cp := shared.Get(t)
	k := newKind(t, cp.Admin())
	k.create(t)
	address, dir := freeAddress(t), filepath.Join(t.TempDir(), "nats")
	user, password := filepath.Join(t.TempDir(), "user"), filepath.Join(t.TempDir(), "password")
	write(t, map[string]string{user: "reader", password: firstSecret})
	c := config{
		kubeconfig: cp.AdminKubeconfig(),
		body: "routes:\n" + k.route("test") + fmt.Sprintf(
			"sinks: {main: {nats: {embedded: {dir: %q, address: %q}, auth: {userFile: %q, passwordFile: %q}, jetstream: {stream: K8S}}}}\n",
			dir, address, user, password),
	}
	b := newBridge(t, c)
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), bridgePath, append(args, "--config", b.config)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if said := run("validate", "--cluster", "--kubeconfig", c.kubeconfig); !strings.Contains(said, "cannot be asked, which is so while the bridge does not run: no server can be reached") {
		t.Errorf("before the bridge runs validate says\n%s", said)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, k.name, "test", "running")
	reader := subscribeTo(t, "nats://"+address, nats.UserInfo("reader", firstSecret))

	const objects, rounds = 5, 12
	name := func(n int) string { return fmt.Sprint("o", n) }
	for n := range objects {
		k.add(t, name(n), nil)
	}
	for round := range rounds {
		for n := range objects {
			k.set(t, name(n), "size", round)
		}
		if round%4 == 2 {
			b.Kill()
			twice := name(round / 4)
			k.drop(t, twice)
			k.add(t, twice, nil)
			if err := b.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range objects {
		k.drop(t, name(n))
	}
	ends := func(messages []message) (count int) {
		for _, m := range messages {
			if strings.HasPrefix(m.what(), "deleted ") {
				count++
			}
		}
		return count
	}
	const deaths = objects + rounds/4
	var messages []message
	eventually(t, func() (err error) {
		if messages, err = reader.read(t.Context(), k.name, 0); err == nil && ends(messages) < deaths {
			err = fmt.Errorf("%d objects of %d have ended: %s", ends(messages), deaths, summary(messages))
		}
		return err
	})
	checkOrder(t, messages)
	if got := ends(messages); got != deaths {
		t.Errorf("%d objects have ended, there were %d", got, deaths)
	}

	second := newBridge(t, config{kubeconfig: c.kubeconfig, body: strings.Replace(c.body, address, freeAddress(t), 1)})
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if f := second.flow(t, k.name, "test"); f.State == "running" || !strings.Contains(f.Reason+f.LastError, dir+" is in use by another bridge") {
			return fmt.Errorf("a second bridge: %+v", f)
		}
		return nil
	})
	if said := run("validate", "--cluster", "--kubeconfig", c.kubeconfig); !strings.Contains(said, "stream K8S") || strings.Contains(said, "WRONG") {
		t.Errorf("while the bridge runs validate says\n%s", said)
	}
	k.add(t, "last", nil)
	follow := startTail(t, b.config, "--from-start", "--name", "last")
	follow.shows(t, "created default/last test")
	run("resync", "--route", "test")
	follow.shows(t, "created default/last test", "existing default/last test")
	follow.stop(t)
}
