//go:build unix

package e2e_test

import (
	"fmt"
	"maps"
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

// TestLatestState shows the recipe of docs/subscribing.md for the latest state
// of every object: a stream that keeps one message of each subject for ever, read
// from the last one of each. A subscriber that comes late gets each object once,
// as it is, and then what changes; the bridge's ledger is complete all the same,
// after a crash too, and after the ends of objects were purged.
func TestLatestState(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") +
		fmt.Sprintf("sinks: {main: {nats: {url: %q, subject: 'k8s.{cluster}.{group}.{resource}.{namespace}.{name}.{route}', jetstream: {stream: K8S, maxMsgsPerSubject: 1, maxAge: 0s}}}}\n", w.nats.URL())})
	b.waitState(t, k.name, "test", "running")
	const objects, changes = 10, 5
	for i := range objects {
		name := fmt.Sprint("o", i)
		k.add(t, name, nil)
		for size := range changes {
			k.set(t, name, "size", size)
		}
	}
	k.drop(t, "o3")
	k.drop(t, "o4")
	k.add(t, "o4", map[string]any{"size": int64(99)})
	// Of each subject the last is there, of o3 its end.
	latest := func() (state map[string]string) {
		state = map[string]string{}
		for _, m := range w.stream.all(t, k.name) {
			if _, twice := state[m.attributes["name"]]; twice {
				t.Errorf("%s has two messages", m.attributes["name"])
			}
			state[m.attributes["name"]] = m.what()
			if spec, ok := m.data["spec"].(map[string]any); ok && !strings.HasPrefix(m.what(), "deleted") {
				state[m.attributes["name"]] += fmt.Sprint(" ", spec["size"])
			}
		}
		return state
	}
	want := map[string]string{}
	for i := range objects {
		want[fmt.Sprint("o", i)] = fmt.Sprintf("updated default/o%d %d", i, changes-1)
	}
	want["o3"], want["o4"] = "deleted default/o3", "created default/o4 99"
	same := func() {
		t.Helper()
		eventually(t, func() error {
			if got := latest(); !maps.Equal(got, want) {
				return fmt.Errorf("the stream has %v, not %v", got, want)
			}
			return nil
		})
	}
	same()
	consumer, err := w.stream.js.OrderedConsumer(t.Context(), "K8S", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"k8s.>"}, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Stop()
	next := func() string {
		t.Helper()
		m, err := reader.Next(jetstream.NextMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := decode(m)
		if err != nil {
			t.Fatal(err)
		}
		return decoded.what()
	}
	snapshot := map[string]bool{}
	for range objects {
		snapshot[next()] = true
	}
	if len(snapshot) != objects || !snapshot["deleted default/o3"] || !snapshot["created default/o4"] {
		t.Errorf("the snapshot is %v", snapshot)
	}

	b.Kill()
	k.set(t, "o1", "size", 7)
	k.drop(t, "o2")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want["o1"], want["o2"] = "updated default/o1 7", "deleted default/o2"
	same()
	if got := []string{next(), next()}; !slices.Equal(got, []string{"updated default/o1", "deleted default/o2"}) {
		t.Errorf("after the snapshot comes %q", got)
	}
	if f := b.waitState(t, k.name, "test", "running"); !f.Fenced || f.Reason != "" {
		t.Errorf("after the crash: %+v", f)
	}
	reader.Stop()

	// While the subscriber is away one object ends, and another gives its name to
	// a successor, which takes the place of its end.
	old := w.snapshot(t)["o6"].attributes["uid"]
	k.drop(t, "o5")
	k.drop(t, "o6")
	k.add(t, "o6", map[string]any{"size": int64(6)})
	want["o5"], want["o6"] = "deleted default/o5", "created default/o6 6"
	same()
	about := w.snapshot(t)
	if about["o5"].what() != "deleted default/o5" || about["o6"].what() != "created default/o6" || about["o6"].attributes["uid"] == old {
		t.Errorf("after its absence a subscriber gets %s and %s", about["o5"].what(), about["o6"].what())
	}

	// An end that was purged is told to nobody, by the bridge neither: who has a
	// copy sees that the snapshot does not name the object.
	stream, err := w.stream.js.Stream(t.Context(), "K8S")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(about["o5"].subject)); err != nil {
		t.Fatal(err)
	}
	delete(want, "o5")
	b.Kill()
	k.set(t, "o1", "size", 8)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	want["o1"] = "updated default/o1 8"
	same()
	if got := slices.Sorted(maps.Keys(w.snapshot(t))); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("the snapshot names %v", got)
	}
	if f := b.waitState(t, k.name, "test", "running"); !f.Fenced || f.Reason != "" {
		t.Errorf("after a purge and a crash: %+v", f)
	}
}

// snapshot reads the newest event of each object, by name, as a subscriber does
// that keeps a copy: it is whole when nothing is pending.
func (w *world) snapshot(t *testing.T) map[string]message {
	t.Helper()
	consumer, err := w.stream.js.OrderedConsumer(t.Context(), "K8S", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"k8s.>"}, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Stop()
	newest := map[string]message{}
	for {
		m, err := reader.Next(jetstream.NextMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := decode(m)
		if err != nil {
			t.Fatal(err)
		}
		newest[decoded.attributes["name"]] = decoded
		about, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if about.NumPending == 0 {
			return newest
		}
	}
}
