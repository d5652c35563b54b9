//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// command runs the bridge's binary with the file that a bridge would have, and
// returns its exit status and what it printed.
func (w *world) command(t *testing.T, routes string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte("cluster: test\nroutes:\n"+routes+natsConfig(w.nats)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, bridgePath, append(args, "--config", path)...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if exit, is := errors.AsType[*exec.ExitError](err); err != nil && !is {
		t.Fatal(err)
	} else if is {
		status = exit.ExitCode()
	}
	return status, out.String(), errs.String()
}

// resync requests one of the kind's route, and returns what the ids of its
// events end in.
func (w *world) resync(t *testing.T, route string) (suffix string) {
	t.Helper()
	status, stdout, stderr := w.command(t, w.kind.route(route), "resync", "--route", route)
	at := strings.LastIndex(stdout, " .r")
	if status != 0 || at < 0 {
		t.Fatalf("resync ends with status %d: %s%s", status, stdout, stderr)
	}
	return strings.TrimSpace(stdout[at:])
}

// waitReason waits until the flow of the route test runs, and says just that.
func (b *bridge) waitReason(t *testing.T, crd, reason string) {
	t.Helper()
	eventually(t, func() error {
		if f := b.flow(t, crd, "test"); f.State != "running" || f.Reason != reason {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
}

// TestResync shows that what is there is told again when a person asks for it,
// whether or not a bridge runs at that moment, and once for each request.
func TestResync(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	one := w.kind.add(t, "one", nil)
	w.kind.add(t, "two", nil)
	want := []string{"created default/one", "created default/two"}
	w.expect(t, want...)

	first := w.resync(t, "test")
	want = append(want, "existing default/one", "existing default/two")
	w.expect(t, want...)

	stop := func() { b.Kill() }
	stop()
	second := w.resync(t, "test")
	two := w.kind.set(t, "two", "size", 1)
	b = w.bridge(t)
	want = append(want, "existing default/one", "updated default/two", "existing default/two")
	w.expect(t, want...)
	for i, id := range map[int]string{
		2: string(one.GetUID()) + "." + one.GetResourceVersion() + ".test" + first,
		4: string(one.GetUID()) + "." + one.GetResourceVersion() + ".test" + second,
		5: string(two.GetUID()) + "." + two.GetResourceVersion() + ".test",
		6: string(two.GetUID()) + "." + two.GetResourceVersion() + ".test" + second,
	} {
		if m := w.stream.all(t, w.kind.name)[i]; m.attributes["id"] != id {
			t.Errorf("%s has id %s, not %s", m.what(), m.attributes["id"], id)
		}
	}

	// Another start does not do it again.
	version := w.kind.set(t, "one", "size", 1)
	w.recorded(t, version)
	stop()
	b = w.bridge(t)
	w.kind.drop(t, "one")
	w.expect(t, append(want, "updated default/one", "deleted default/one")...)
}

// TestResyncRefused shows what is said to a person who asks for what there is not.
func TestResyncRefused(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	for _, test := range []struct {
		why    string
		args   []string
		status int
		says   string
	}{
		{"no such route", []string{"resync", "--route", "other"}, 2, `there is no route "other"; there are: test`},
		{"no route", []string{"resync"}, 2, "--route"},
	} {
		status, stdout, stderr := w.command(t, w.kind.route("test"), test.args...)
		if status != test.status || !strings.Contains(stderr, test.says) || strings.Count(stderr, "\n") != 1 || stdout != "" {
			t.Errorf("%s: status %d, %q, %q", test.why, status, stdout, stderr)
		}
	}
	if err := w.nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, stdout, stderr := w.command(t, w.kind.route("test"), "resync", "--route", "test"); status != 1 || !strings.Contains(stderr, "route test: ") || stdout != "" {
		t.Errorf("with the sink down: status %d, %q, %q", status, stdout, stderr)
	}
}
