//go:build unix

package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestStreamOfTheConfiguration shows that each key of jetstream is in the stream
// that the bridge creates, that an existing stream is looked at and not changed,
// and that none is created where that is not wanted.
func TestStreamOfTheConfiguration(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	const keys = `stream: OURS, subjects: ['k8s.>', 'more.>', 'crbridge.OURS.>'], storage: memory, maxAge: 26h, maxBytes: 100000000, maxMsgsPerSubject: 7, duplicateWindow: 90s`
	sink := func(jetstream string) string {
		return fmt.Sprintf("sinks: {main: {nats: {url: [%q, 'nats://127.0.0.1:1'], jetstream: {%s}}}}\n", w.nats.URL(), jetstream)
	}
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") + sink(keys+", create: false")})
	if f := b.waitState(t, k.name, "test", "blocked"); !strings.Contains(f.Reason, "it does not exist, and jetstream.create is false") {
		t.Errorf("without a stream the reason is %q", f.Reason)
	}
	b.reload(t, "routes:\n"+k.route("test")+sink(keys))
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "a")
	stream, err := w.stream.js.Stream(t.Context(), "OURS")
	if err != nil {
		t.Fatal(err)
	}
	got := stream.CachedInfo().Config
	slices.Sort(got.Subjects)
	for _, row := range []struct {
		key       string
		got, want any
	}{
		{"subjects", strings.Join(got.Subjects, " "), "crbridge.OURS.> k8s.> more.>"},
		{"replicas", got.Replicas, 1},
		{"storage", got.Storage, jetstream.MemoryStorage},
		{"maxAge", got.MaxAge, 26 * time.Hour},
		{"maxBytes", got.MaxBytes, int64(100_000_000)},
		{"maxMsgsPerSubject", got.MaxMsgsPerSubject, int64(7)},
		{"duplicateWindow", got.Duplicates, 90 * time.Second},
	} {
		if row.got != row.want {
			t.Errorf("%s is %v in the stream, not %v", row.key, row.got, row.want)
		}
	}
	b.reload(t, "routes:\n"+k.route("test")+sink(strings.Replace(keys, "26h", "27h", 1)))
	eventually(t, func() error {
		if notes := b.status(t).Sinks[0].Notes; !strings.Contains(strings.Join(notes, "\n"), "26h") {
			return fmt.Errorf("the notes are %q", notes)
		}
		return nil
	})
	if info, err := stream.Info(t.Context()); err != nil || info.Config.MaxAge != 26*time.Hour {
		t.Errorf("the stream was changed: %+v, %v", info, err)
	}
}

// TestReplicasOfTheConfiguration shows that a stream has the replicas that the
// configuration says, or the reason that it has not.
func TestReplicasOfTheConfiguration(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") +
		fmt.Sprintf("sinks: {main: {nats: {url: %q, jetstream: {stream: K8S, replicas: 3}}}}\n", w.nats.URL())})
	if f := b.waitState(t, k.name, "test", "blocked"); !strings.Contains(f.Reason, "replicas") {
		t.Errorf("one server cannot have three replicas, and the reason is %q", f.Reason)
	}
}
