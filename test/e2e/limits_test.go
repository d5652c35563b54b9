//go:build unix

package e2e_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// says waits until the flow of the route test says all of that for a reason.
func (b *bridge) says(t *testing.T, crd, state string, texts ...string) {
	t.Helper()
	eventually(t, func() error {
		f := b.flow(t, crd, "test")
		if f.State != state {
			return fmt.Errorf("the flow is %s, not %s: %+v", f.State, state, f)
		}
		for _, text := range texts {
			if !strings.Contains(f.Reason, text) {
				return fmt.Errorf("the flow does not say %q: %+v", text, f)
			}
		}
		return nil
	})
}

// logs waits until the bridge has logged all of that.
func (b *bridge) logs(t *testing.T, texts ...string) {
	t.Helper()
	eventually(t, func() error {
		log := b.log(t)
		for _, text := range texts {
			if !strings.Contains(log, text) {
				return fmt.Errorf("nothing of %q is in the log", text)
			}
		}
		return nil
	})
}

// purge empties the stream.
func (w *world) purge(t *testing.T) {
	t.Helper()
	s, err := w.stream.js.Stream(t.Context(), "K8S")
	if err == nil {
		err = s.Purge(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestStreamPurged shows that a stream that is emptied while the bridge runs
// takes nothing of the ledger with it: nothing is told again, and nothing is
// missing, also across the next restart.
func TestStreamPurged(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	for _, name := range []string{"same", "changed", "gone"} {
		w.kind.add(t, name, nil)
	}
	w.stream.wait(t, w.kind.name, 3)
	w.purge(t)
	changed := w.kind.set(t, "changed", "size", 1)
	w.expect(t, "updated default/changed")
	w.recorded(t, changed)
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kind.drop(t, "gone")
	w.bridge(t)
	w.expect(t, "updated default/changed", "deleted default/gone")
}

// TestStreamPurgedWhileDown shows that a bridge that finds its control message
// gone says so, compares with the snapshot that it has, and loses no deletion.
func TestStreamPurgedWhileDown(t *testing.T) {
	slow(t)
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	for _, name := range []string{"same", "changed", "gone"} {
		w.kind.add(t, name, nil)
	}
	w.stream.wait(t, w.kind.name, 3)
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.purge(t)
	w.kind.set(t, "changed", "size", 1)
	w.kind.drop(t, "gone")
	b = w.bridge(t)
	w.expectMarked(t, "updated default/changed coalesced", "deleted default/gone inferred")
	b.logs(t, "was purged")
}

// TestStreamRecreated shows that a stream that is new is a new start: what is
// there is existing in it.
func TestStreamRecreated(t *testing.T) {
	t.Parallel() // it waits, most of the time
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprintf("while down %t", down), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.kind.create(t)
			b := w.bridge(t)
			b.waitState(t, w.kind.name, "test", "running")
			w.kind.add(t, "one", nil)
			w.kind.add(t, "gone", nil)
			w.stream.wait(t, w.kind.name, 2)
			if down {
				if err := b.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.stream.js.DeleteStream(t.Context(), "K8S"); err != nil {
				t.Fatal(err)
			}
			if down {
				w.kind.drop(t, "gone")
				b = w.bridge(t)
				w.expect(t, "existing default/one")
				b.logs(t, "created anew while no bridge ran")
				return
			}
			w.kind.drop(t, "gone")
			messages := w.stream.wait(t, w.kind.name, 1)
			b.logs(t, "stream is not what it was", "it was created anew")
			if what := messages[0].what(); what != "existing default/one" {
				t.Errorf("the new stream begins with %s", what)
			}
			w.kind.set(t, "one", "size", 1)
			messages = w.stream.wait(t, w.kind.name, 2)
			if what := messages[len(messages)-1].what(); what != "updated default/one" {
				t.Errorf("the new stream ends with %s", summary(messages))
			}
		})
	}
}

// TestRetention shows that events which the stream forgets are not missed while
// the bridge runs, as it puts its ledger down before; and that a bridge which
// was down for longer than the stream remembers says so.
func TestRetention(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	const maxAge = 5 * time.Second
	w := newWorld(t)
	w.kind.create(t)
	_, err := w.stream.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"k8s.*.*.*.*.*", "crbridge.K8S.>"}, MaxAge: maxAge, Duplicates: time.Second, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "same", nil)
	w.kind.add(t, "gone", nil)
	w.stream.wait(t, w.kind.name, 2)
	eventually(t, func() error {
		left, err := w.stream.read(t.Context(), w.kind.name, 0)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("the stream still has %s", summary(left))
		}
		return err
	})
	b.Kill() // at once, before anything else is forgotten
	w.bridge(t)
	w.kind.drop(t, "gone")
	messages := w.stream.wait(t, w.kind.name, 1)
	if what := summary(messages); what != "deleted default/gone" {
		t.Errorf("after a restart: %s", what)
	}
}

// TestDownForLongerThanTheStreamRemembers is what its name says.
func TestDownForLongerThanTheStreamRemembers(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	_, err := w.stream.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"k8s.*.*.*.*.*", "crbridge.K8S.>"}, MaxAge: 4 * time.Second, Duplicates: time.Second, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "same", nil)
	w.kind.add(t, "gone", nil)
	w.stream.wait(t, w.kind.name, 2)
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kind.drop(t, "gone")
	eventually(t, func() error {
		s, err := w.stream.js.Stream(t.Context(), "K8S")
		if err == nil && s.CachedInfo().State.Msgs > 0 {
			err = fmt.Errorf("the stream still has %d messages", s.CachedInfo().State.Msgs)
		}
		return err
	})
	b = w.bridge(t)
	b.logs(t, "ledger may be incomplete", "retention is shorter than the bridge was down")
	b.says(t, w.kind.name, "running", "bridge resync")
	w.expect(t, "deleted default/gone") // as the snapshot had it
}

// TestEtcdRestored shows that a flow stands still where etcd is put back to
// before what was delivered, says which command goes on, and goes on with it.
func TestEtcdRestored(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	w := newOwnWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.expect(t, "created default/one")
	w.kind.add(t, "back", nil)
	w.expect(t, "created default/one", "created default/back")

	backup := t.TempDir()
	w.putBack(t, func() {
		if err := os.CopyFS(backup, os.DirFS(w.cp.EtcdDir())); err != nil {
			t.Fatal(err)
		}
	})
	for i := range 30 {
		w.kind.set(t, "one", "size", i)
	}
	w.kind.drop(t, "back")
	lost := w.kind.add(t, "lost", nil)
	w.recorded(t, lost)
	before := len(w.stream.all(t, w.kind.name))
	w.putBack(t, func() {
		if err := os.RemoveAll(w.cp.EtcdDir()); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(w.cp.EtcdDir(), os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
	})
	b.says(t, w.kind.name, "blocked", "restored from a backup", "bridge resync --route test")
	w.kind.add(t, "new", nil)

	// It stays so across a restart.
	b.Kill()
	b = w.bridge(t)
	b.says(t, w.kind.name, "blocked", "restored from a backup", "bridge resync --route test")
	if told := w.stream.all(t, w.kind.name); len(told) != before {
		t.Errorf("told while it cannot be known what is new: %s", summary(told[before:]))
	}

	w.resync(t, "test")
	b.waitState(t, w.kind.name, "test", "running")
	var again []string
	for _, m := range w.stream.wait(t, w.kind.name, before+4)[before:] {
		again = append(again, m.what())
	}
	compare(t, []string{"created default/back", "created default/new", "existing default/one", "deleted default/lost"}, again)

	// Resource versions come once more, and objects end once more: each is told,
	// within the time in which the server takes what has the same id for the same.
	want := before + 4
	for n, past := 0, false; !past; n++ {
		past = versionOf(t, w.kind.set(t, "one", "size", 1000+n)) > versionOf(t, lost)
		want++
	}
	b.Kill() // the next one knows it too
	b = w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.drop(t, "back")
	messages := w.stream.wait(t, w.kind.name, want+1)
	for _, m := range messages[before+4 : want] {
		if m.what() != "updated default/one" {
			t.Errorf("afterwards: %s", m.what())
		}
	}
	if got := messages[want].what(); got != "deleted default/back" {
		t.Errorf("at last: %s", got)
	}
	seen := map[string]bool{}
	for _, m := range messages {
		if id := m.attributes["id"]; seen[id] {
			t.Errorf("the id %s is that of two events", id)
		} else {
			seen[id] = true
		}
	}
}

// versionOf is the object's resource version.
func versionOf(t *testing.T, o *unstructured.Unstructured) uint64 {
	t.Helper()
	version, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// putBack does something with etcd's data while etcd and the API server do not run.
func (w *world) putBack(t *testing.T, do func()) {
	t.Helper()
	w.cp.APIServer.Kill()
	if err := w.cp.Etcd.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	do()
	if err := w.cp.Etcd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.cp.APIServer.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.cp.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}
