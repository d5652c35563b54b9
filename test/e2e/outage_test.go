//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/process"
)

// TestNATSKilledUnderLoad kills nats-server again and again while objects of
// some size change, for longer than the bridge's queue can hold: nothing is
// lost, nothing is stored twice, each object's order is kept, and the memory
// stays bounded.
func TestNATSKilledUnderLoad(t *testing.T) {
	const (
		objects = 50
		size    = 64 << 10 // 50 of them fill most of a queue of 4 MiB in one round
		kills   = 3
	)
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	padding := strings.Repeat("x", size)
	for i := range objects {
		w.kind.add(t, fmt.Sprintf("o%d", i), map[string]any{"padding": padding})
	}
	w.stream.wait(t, w.kind.name, objects)
	before := b.gauge(t, "go_memstats_heap_inuse_bytes")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var changes atomic.Int64
	var load sync.WaitGroup
	load.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			patch := fmt.Appendf(nil, `{"spec":{"round":%d}}`, i)
			// Not with ctx: a request that is cut off may have changed the object.
			if _, err := w.kind.objects().Patch(context.WithoutCancel(ctx), fmt.Sprintf("o%d", i%objects), types.MergePatchType, patch, metav1.PatchOptions{}); err == nil {
				changes.Add(1)
			}
		}
	})
	peak := 0.0
	for range kills {
		w.nats.Kill()
		b.waitState(t, w.kind.name, "test", "blocked")
		// 4 MiB of queue hold 64 of these objects; three times as many changes
		// come by while the server is down.
		from := changes.Load()
		eventually(t, func() error {
			peak = max(peak, b.gauge(t, "go_memstats_heap_inuse_bytes"))
			if n := changes.Load() - from; n < 200 {
				return fmt.Errorf("%d changes so far", n)
			}
			return nil
		})
		if err := w.nats.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.waitState(t, w.kind.name, "test", "running")
	}
	stop()
	load.Wait()

	total := objects + int(changes.Load())
	messages := w.stream.wait(t, w.kind.name, total)
	if len(messages) != total {
		t.Errorf("%d events for %d changes", len(messages), total)
	}
	checkOrder(t, messages)
	list, err := w.kind.objects().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	newest := map[string]string{}
	for _, m := range messages {
		newest[m.attributes["name"]] = m.attributes["resourceversion"]
	}
	for i := range list.Items {
		if o := &list.Items[i]; newest[o.GetName()] != o.GetResourceVersion() {
			t.Errorf("the last event of %s has version %s, the object %s", o.GetName(), newest[o.GetName()], o.GetResourceVersion())
		}
	}
	const bound = 64 << 20
	t.Logf("%d changes, %d kills; heap %.1f MiB before, at most %.1f MiB while NATS was down", changes.Load(), kills, before/(1<<20), peak/(1<<20))
	if peak > before+bound {
		t.Errorf("the heap grew from %v to %v bytes while NATS was down, more than %d", before, peak, bound)
	}
}

// checkOrder checks that sequence increases strictly for each object, that
// nothing follows a deletion, and that no id is there twice.
func checkOrder(t *testing.T, messages []message) {
	t.Helper()
	last, dead, ids := map[string]string{}, map[string]bool{}, map[string]bool{}
	for _, m := range messages {
		uid, sequence, id := m.attributes["uid"], m.attributes["sequence"], m.attributes["id"]
		if sequence <= last[uid] {
			t.Errorf("%s: sequence %s after %s", m.what(), sequence, last[uid])
		}
		if dead[uid] {
			t.Errorf("%s after the object's deletion", m.what())
		}
		if ids[id] {
			t.Errorf("%s: id %s is in the stream twice", m.what(), id)
		}
		last[uid], ids[id] = sequence, true
		dead[uid] = strings.HasPrefix(m.what(), "deleted")
	}
}

// TestAPIServerKilled shows that an outage of the API server is told, survived
// and followed by no event that is not a change.
func TestAPIServerKilled(t *testing.T) {
	cp := controlplane.ForTest(t, controlplane.Options{})
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	w := &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server, stream: subscribe(t, server)}
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.kind.add(t, "two", nil)
	w.stream.wait(t, w.kind.name, 2)
	cp.APIServer.Kill()
	b.waitState(t, w.kind.name, "test", "failed")
	if err := cp.APIServer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kind.drop(t, "two")
	w.kind.set(t, "one", "size", 1)
	b.waitState(t, w.kind.name, "test", "running")
	// An API server that starts again has no history of before in its cache:
	// where it does not ask etcd instead, the bridge lists, finds what changed,
	// and says what it had to deduce.
	messages := w.stream.wait(t, w.kind.name, 4)
	checkOrder(t, messages)
	got := map[string]string{}
	for _, m := range messages[2:] {
		got[m.what()] = m.attributes["inferred"] + "," + m.attributes["coalesced"]
	}
	watched := map[string]string{"deleted default/two": ",", "updated default/one": ","}
	if diff := cmp.Diff(map[string]string{"deleted default/two": "true,", "updated default/one": ",true"}, got); diff != "" && !cmp.Equal(watched, got) {
		t.Errorf("events after the outage (-want +got):\n%s", diff)
	}
}

// TestNothingIsThereAtStart shows that neither an API server nor a NATS server
// that cannot be reached ends the bridge: it says so in its log, its status
// and its readiness, and goes on when they come.
func TestNothingIsThereAtStart(t *testing.T) {
	t.Parallel() // it waits, most of the time
	cp := controlplane.ForTest(t, controlplane.Options{})
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	w := &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server, stream: subscribe(t, server)}
	w.kind.create(t)
	cp.APIServer.Kill()
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	impatient := w.bridge(t)
	impatient.waitReady(t, 503)
	if err := impatient.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := impatient.ExitCode(); code != 0 {
		t.Errorf("a bridge that is told to end before it could begin ends with status %d", code)
	}
	b := w.bridge(t)
	b.waitReady(t, 503, "[-] CRD cache: not synced", "[!] sinks: not all are connected")
	eventually(t, func() error {
		if s := b.status(t); !strings.Contains(s.CRDError, "connection refused") {
			return fmt.Errorf("the status says of CRDs %q", s.CRDError)
		}
		return nil
	})
	eventually(t, func() error {
		if log := b.log(t); !strings.Contains(log, "connection refused") {
			return fmt.Errorf("the log does not say that connections are refused: %s", log)
		}
		return nil
	})
	if f := b.flow(t, w.kind.name, "test"); f.State != "waiting" || f.Reason == "" {
		t.Errorf("without an API server the flow is %s (%s)", f.State, f.Reason)
	}
	if s := b.status(t).Sinks[0]; s.Connected || s.LastError == "" {
		t.Errorf("without a NATS server the sink is %+v", s)
	}
	if err := cp.APIServer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.expect(t, "created default/one")
	b.waitReady(t, 200, "[+] CRD cache: synced", "[+] sinks: connected")
	if s := b.status(t); s.CRDError != "" {
		t.Errorf("the status says of CRDs %q when they are known", s.CRDError)
	}
}

// TestStop shows that SIGTERM and SIGINT deliver what is queued and end with
// status 0, and that they do with a sink down too.
func TestStop(t *testing.T) {
	t.Parallel() // it waits, most of the time
	for _, row := range []struct {
		name string
		down bool // the sink
		stop func(*bridge) error
	}{
		{"SIGTERM", false, func(b *bridge) error { return b.Signal(syscall.SIGTERM) }},
		{"SIGINT", false, func(b *bridge) error { return b.Signal(os.Interrupt) }},
		{"SIGTERM with the sink down", true, func(b *bridge) error { return b.Signal(syscall.SIGTERM) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.kind.create(t)
			b := w.bridge(t)
			b.waitState(t, w.kind.name, "test", "running")
			if row.down {
				w.nats.Kill()
			}
			const objects = 100
			for i := range objects {
				w.kind.add(t, fmt.Sprintf("o%d", i), nil)
			}
			if !row.down {
				// They may not have been observed yet; wait for the last to be.
				eventually(t, func() error {
					if n := b.flow(t, w.kind.name, "test").Objects; n < objects {
						return fmt.Errorf("%d objects observed", n)
					}
					return nil
				})
			}
			if err := row.stop(b); err != nil {
				t.Fatal(err)
			}
			select {
			case <-b.Exited():
			case <-time.After(patience):
				t.Fatal("the bridge does not end")
			}
			if code := b.ExitCode(); code != 0 {
				t.Errorf("exit status %d", code)
			}
			if !row.down {
				checkOrder(t, w.stream.wait(t, w.kind.name, objects))
			}
		})
	}
}

// TestBadInput shows how the bridge ends when it cannot begin.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad := file("bad.yaml", "cluster: test\nsinks: {main: {nats: {url: \"nats://127.0.0.1:1\"}}}\nroutes:\n  - {name: a, crds: [widgets], sinks: [main]}\n")
	good := file("good.yaml", "cluster: test\nserver: {address: \"127.0.0.1:0\"}\nhealth: {address: \"127.0.0.1:0\"}\nsinks: {main: {nats: {url: \"nats://127.0.0.1:1\"}}}\nroutes:\n  - {name: a, crds: [widgets.example.com], sinks: [main]}\n")
	for _, row := range []struct {
		name   string
		args   []string
		status int
		stderr string // contained in
	}{
		{"a command that there is not", []string{"walk"}, 2, `there is no command "walk"`},
		{"no configuration", []string{"run"}, 2, "--config FILE is required"},
		{"bare, which is run", nil, 2, "bridge run: --config FILE is required"},
		{"a flag that there is not", []string{"run", "--fast"}, 2, "flag provided but not defined: -fast"},
		{"an argument too many", []string{"validate", "--config", good, "more"}, 2, `unexpected argument "more"`},
		{"a file that there is not", []string{"validate", "--config", filepath.Join(dir, "none")}, 2, "no such file or directory"},
		{"a bad file, validated", []string{"validate", "--config", bad}, 2, bad + ":4:22: routes[0].crds[0]: "},
		{"a bad file, run", []string{"run", "--config", bad}, 2, bad + ":4:22: routes[0].crds[0]: "},
		{"a good file, validated", []string{"validate", "--config", good}, 0, ""},
		{"a kubeconfig that there is not", []string{"--config", good, "--kubeconfig", filepath.Join(dir, "none")}, 2, "no such file or directory"},
		{"version", []string{"version"}, 0, ""},
		{"help", []string{"--help"}, 0, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			p := process.New(process.Command{Name: "bridge", Path: bridgePath, Args: row.args, LogFile: log})
			if err := p.Start(t.Context()); err != nil && p.PID() == 0 {
				t.Log(err) // it may be over already, which is what is asked for
			}
			select {
			case <-p.Exited():
			case <-time.After(patience):
				p.Kill()
				t.Fatal("the bridge does not end")
			}
			content, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			if p.ExitCode() != row.status || !strings.Contains(string(content), row.stderr) {
				t.Errorf("exit status %d, want %d; output, which should contain %q:\n%s", p.ExitCode(), row.status, row.stderr, content)
			}
		})
	}
}
