//go:build unix

package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// endsFenced waits until the bridge, from which another has taken over, has
// ended by itself, and said why.
func (b *bridge) endsFenced(t *testing.T, crd string) {
	t.Helper()
	select {
	case <-b.Exited():
	case <-time.After(patience):
		t.Fatalf("a bridge that was taken over from is still there after %v", patience)
	}
	log := b.log(t)
	if b.ExitCode() != 1 || !strings.Contains(log, "has taken over the flow of "+crd+" on route test") {
		t.Errorf("a bridge that was taken over from ends with status %d and the log:\n%s", b.ExitCode(), log)
	}
}

// TestTakeover shows that of two bridges without leader election the second
// takes over, and the first ends and says so, also where nothing happens that
// it would have to tell.
func TestTakeover(t *testing.T) {
	t.Parallel() // it waits, most of the time
	for _, load := range []bool{false, true} {
		t.Run(fmt.Sprintf("load %t", load), func(t *testing.T) {
			t.Parallel()
			const objects = 50
			w := newWorld(t)
			w.kind.create(t)
			w.kind.fill(t, objects)
			first := w.bridge(t)
			first.waitState(t, w.kind.name, "test", "running")
			count, stop := objects, func() {}
			if load {
				changes, end := w.kind.shake(t, objects)
				eventually(t, func() error { return missing(int(changes.Load()), 50, w.kind.name) })
				stop = func() { end(); count += int(changes.Load()) }
			}
			second := w.bridge(t)
			first.endsFenced(t, w.kind.name)
			second.waitState(t, w.kind.name, "test", "running")
			stop()
			w.kind.set(t, "o0", "last", true)
			messages := w.stream.wait(t, w.kind.name, count+1)
			checkOrder(t, messages)
			if len(messages) != count+1 {
				t.Errorf("%d events, not %d", len(messages), count+1)
			}
			if i := slices.IndexFunc(messages, func(m message) bool { return m.attributes["coalesced"] != "" }); i >= 0 {
				t.Errorf("%s is coalesced", messages[i].what())
			}
		})
	}
}

// TestPausedLeader shows that a leader that stood still for longer than its
// lease, and is let go when another leads, breaks nothing: what it still sends
// is refused, and it ends. The stream would not know its events again, as it
// forgets ids at once.
func TestPausedLeader(t *testing.T) {
	t.Parallel() // it waits, most of the time
	const objects = 100
	w := newWorld(t)
	w.kind.create(t)
	w.kind.fill(t, objects)
	c := config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: fmt.Sprintf("leaderElection: {enabled: true, namespace: default, name: %s}\nroutes:\n%s"+
			"sinks:\n  main: {nats: {url: %q, jetstream: {stream: K8S, duplicateWindow: 1s}}}\n",
			strings.ReplaceAll(w.kind.group, ".", "-"), w.kind.route("test"), w.nats.URL()),
	}
	first := startBridge(t, c)
	first.waitState(t, w.kind.name, "test", "running")
	second := startBridge(t, c)
	second.waitState(t, w.kind.name, "test", "standby")
	changes, stop := w.kind.shake(t, objects)
	eventually(t, func() error { return missing(int(changes.Load()), 200, w.kind.name) })

	paused := time.Now()
	if err := first.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.waitState(t, w.kind.name, "test", "running")
	t.Logf("the standby was running %v after the leader had stopped to move", time.Since(paused).Round(100*time.Millisecond))
	at := changes.Load()
	eventually(t, func() error { return missing(int(changes.Load()-at), 200, w.kind.name) })
	if err := first.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Exited():
	case <-time.After(patience):
		t.Fatal("the bridge that lost its lease is still there")
	}
	if log := first.log(t); first.ExitCode() != 1 || !strings.Contains(log, "\nbridge: ") {
		t.Errorf("the bridge that lost its lease ends with status %d and the log:\n%s", first.ExitCode(), log)
	}
	at = changes.Load()
	eventually(t, func() error { return missing(int(changes.Load()-at), 200, w.kind.name) })
	stop()
	want := objects + int(changes.Load())
	messages := w.stream.wait(t, w.kind.name, want)
	checkOrder(t, messages)
	if len(messages) != want {
		t.Errorf("%d events, not %d", len(messages), want)
	}
}
