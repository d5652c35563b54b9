//go:build unix

package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
)

// output is what a command has written so far.
type output struct {
	mu      sync.Mutex
	content bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.content.Write(p)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(strings.TrimSuffix(o.content.String(), "\n"), "\n")
}

// command is a running bridge tail.
type command struct {
	cmd            *exec.Cmd
	stdout, stderr output
}

func startTail(t *testing.T, config string, args ...string) *command {
	t.Helper()
	c := &command{cmd: exec.CommandContext(t.Context(), bridgePath, append([]string{"tail", "--config", config}, args...)...)}
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(os.Interrupt) }
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Wait() }) // the test's end has interrupted it, if stop has not
	return c
}

// shows waits until the lines, without times and versions, are those.
func (c *command) shows(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, func() error {
		var got []string
		for _, line := range c.stdout.lines()[1:] {
			f := strings.Fields(line)
			got = append(got, strings.Join(append([]string{f[1], f[3]}, f[5:]...), " "))
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("it shows %q, not %q; %q", got, want, c.stderr.lines())
		}
		return nil
	})
}

// begins waits until it says, by the line above the events, that it shows what
// comes from now on.
func (c *command) begins(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		if c.stdout.lines()[0] == "" {
			return fmt.Errorf("it has not begun: %q", c.stderr.lines())
		}
		return nil
	})
}

// stop ends it as Ctrl-C does.
func (c *command) stop(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("bridge tail: %v", err)
	}
}

// TestTail shows that bridge tail prints the events of a sink, from the start
// or from now, all or those that were asked for, each once, also where NATS is
// away for a while.
func TestTail(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k, other := w.kind, newKind(t, w.cp.Admin())
	k.create(t)
	other.create(t)
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + other.route("more") +
		fmt.Sprintf("sinks:\n  main: {nats: {url: %q, jetstream: {stream: K8S}}}\n  plain: {nats: {url: %q, mode: structured, subject: 'plain.{namespace}.{name}'}}\n",
			w.nats.URL(), w.nats.URL())})
	b.waitState(t, k.name, "test", "running")
	b.waitState(t, other.name, "more", "running")
	k.put(t, "default", "a")
	w.expect(t, "created default/a")
	other.put(t, "default", "b")
	w.stream.wait(t, other.name, 1)
	if err := w.stream.conn.Publish("k8s.test.x.y.z.no-event", []byte("of somebody else")); err != nil {
		t.Fatal(err)
	}

	all := startTail(t, b.config, "--sink", "main", "--from-start")
	now := startTail(t, b.config, "--sink", "main")
	byCRD := startTail(t, b.config, "--sink", "main", "--from-start", "--crd", other.name)
	deleted := startTail(t, b.config, "--sink", "main", "--from-start", "--type", "deleted", "--namespace", "default", "--name", "a", "--route", "test")
	asJSON := startTail(t, b.config, "--sink", "main", "--from-start", "-o", "json", "--subject", "k8s.*.*.widgets.*.a")
	all.shows(t, "created default/a test", "created default/b more")
	byCRD.shows(t, "created default/b more")
	now.begins(t)

	if err := w.nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.drop(t, "a")
	eventually(t, func() error {
		if !strings.Contains(strings.Join(all.stderr.lines(), "\n"), "; retrying") {
			return fmt.Errorf("that NATS is away is not told: %q", all.stderr.lines())
		}
		return nil
	})
	if err := w.nats.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	all.shows(t, "created default/a test", "created default/b more", "deleted default/a test")
	now.shows(t, "deleted default/a test")
	deleted.shows(t, "deleted default/a test")
	byCRD.shows(t, "created default/b more")
	if told := strings.Join(all.stderr.lines(), "\n"); !strings.Contains(told, "sink main: connected") {
		t.Errorf("that NATS is back is not told: %q", told)
	}

	var read []string
	eventually(t, func() error {
		if n := len(asJSON.stdout.lines()); n < 2 {
			return fmt.Errorf("%d events as JSON", n)
		}
		return nil
	})
	for _, line := range asJSON.stdout.lines() {
		var e event.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		read = append(read, e.Type())
		if err := e.Validate(); err != nil || !strings.Contains(string(e.Data()), `"name":"a"`) {
			t.Errorf("%v: %s", err, line)
		}
	}
	if !slices.Equal(read, []string{"dev.crbridge.resource.created.v1", "dev.crbridge.resource.deleted.v1"}) {
		t.Errorf("as JSON: %q", read)
	}
	for _, c := range []*command{all, now, byCRD, deleted, asJSON} {
		c.stop(t)
	}
}

// TestTailOfCore shows that bridge tail hears what goes to a sink without a
// stream, in structured mode too.
func TestTailOfCore(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") +
		fmt.Sprintf("sinks: {main: {nats: {url: %q, mode: structured, subject: 'plain.{namespace}.{name}'}}}\n", w.nats.URL())})
	b.waitState(t, k.name, "test", "running")
	c := startTail(t, b.config)
	c.begins(t)
	k.put(t, "default", "a")
	c.shows(t, "created default/a test")
	c.stop(t)
}

// TestTailRefuses shows what is said of a command line that cannot work.
func TestTailRefuses(t *testing.T) {
	path := newBridge(t, config{body: "routes:\n  - {name: a, crds: [widgets.example.com], sinks: [one, two]}\n" +
		"sinks:\n  one: {nats: {url: 'nats://127.0.0.1:1', jetstream: {stream: K8S}}}\n  two: {nats: {url: 'nats://127.0.0.1:1'}}\n"}).config
	for _, row := range []struct {
		args []string
		want string
	}{
		{nil, "has the sinks one, two: say with --sink which one"},
		{[]string{"--sink", "three"}, `--sink "three": `},
		{[]string{"--sink", "two", "--from-start"}, "--from-start: sink two has no jetstream, and keeps nothing"},
		{[]string{"--sink", "one", "--type", "changed"}, `--type "changed": there are existing, created, updated, deleted, deselected`},
		{[]string{"--sink", "one", "--crd", "widgets"}, "a CRD's name is <plural>.<group>"},
		{[]string{"--sink", "one", "-o", "yaml"}, `-o "yaml": write text or json`},
	} {
		out, err := exec.CommandContext(t.Context(), bridgePath, append([]string{"tail", "--config", path}, row.args...)...).CombinedOutput()
		exit, is := errors.AsType[*exec.ExitError](err)
		if !is || exit.ExitCode() != 2 || !strings.Contains(string(out), row.want) {
			t.Errorf("%q: %v: %s; not %q", row.args, err, out, row.want)
		}
	}
}
