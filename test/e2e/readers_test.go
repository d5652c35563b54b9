//go:build unix

package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cenats "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/client"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// readings are events of all sorts in a stream, and what they have to say.
type readings struct {
	*world
	want  map[string]map[string]any // by id
	order map[string][]string       // ids, by object
}

// newReadings has a bridge write events in a content mode.
func newReadings(t *testing.T, mode string) *readings {
	t.Helper()
	w := newWorld(t)
	r := &readings{world: w, want: map[string]map[string]any{}, order: map[string][]string{}}
	k, cluster := w.kind, newKind(t, w.cp.Admin())
	cluster.scope = apiextensions.ClusterScoped
	k.create(t)
	cluster.create(t)
	odd := map[string]any{"text": "é \u2028 \"<b>\" & 日本 \t\n\\", "number": int64(1) << 53, "nothing": nil, "list": []any{}}
	before := k.add(t, "before", odd)
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: fmt.Sprintf("routes:\n  - {name: test, crds: [%s, %s], sinks: [main]}\nsinks: {main: {nats: {url: %q, mode: %s, jetstream: {stream: K8S}}}}\n",
			k.name, cluster.name, w.nats.URL(), mode),
	})
	b.waitState(t, k.name, "test", "running")
	b.waitState(t, cluster.name, "test", "running")
	r.tells(k, "existing", before)
	r.tells(k, "created", k.add(t, "eu.1-x", odd))
	r.tells(k, "updated", k.set(t, "eu.1-x", "size", 1))
	r.tells(k, "created", k.add(t, "large", map[string]any{"blob": strings.Repeat("ü", 150_000)}))
	r.tells(cluster, "created", cluster.add(t, "basic", nil))
	last := cluster.set(t, "basic", "size", 2)
	r.tells(cluster, "updated", last)
	seen := k.add(t, "seen", nil)
	r.tells(k, "created", seen)
	k.drop(t, "seen")
	r.tells(k, "deleted", seen)
	r.arrived(t)
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.remove(t) // nobody sees the end of its object
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.tells(cluster, "deleted", last)["inferred"] = "true"
	r.arrived(t)
	return r
}

// tells says what there is to be told of an object.
func (r *readings) tells(k *kind, what string, o *unstructured.Unstructured) map[string]any {
	subject := strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
	id := fmt.Sprintf("%s.%s.test", o.GetUID(), o.GetResourceVersion())
	data := o.DeepCopy()
	unstructured.RemoveNestedField(data.Object, "metadata", "managedFields")
	e := map[string]any{
		"specversion": "1.0", "type": "dev.crbridge.resource." + what + ".v1", "source": "/clusters/test/apis/" + k.group + "/widgets",
		"subject": subject, "partitionkey": subject, "datacontenttype": "application/json",
		"apiversion": k.apiVersion(), "kind": "Widget", "name": o.GetName(), "uid": string(o.GetUID()), "route": "test",
		"resourceversion": o.GetResourceVersion(), "sequence": fmt.Sprintf("%020s", o.GetResourceVersion()), "data": data.Object,
	}
	if o.GetNamespace() != "" {
		e["namespace"] = o.GetNamespace()
	}
	if what == "deleted" { // the API server gives the end a number of its own
		id = fmt.Sprintf("%s.deleted.test", o.GetUID())
		delete(e, "resourceversion")
		delete(e, "sequence")
		delete(e, "data")
	}
	e["id"] = id
	r.want[id] = e
	r.order[subject] = append(r.order[subject], id)
	return e
}

// arrived waits until the stream has all that is to be told.
func (r *readings) arrived(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		s, err := r.stream.js.Stream(t.Context(), "K8S")
		if err != nil {
			return err
		}
		count := 0
		info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("k8s.>"))
		if err != nil {
			return err
		}
		for _, n := range info.State.Subjects {
			count += int(n)
		}
		return missing(count, len(r.want), "all CRDs")
	})
}

// check compares what was read, an event in CloudEvents' JSON format in each
// line, with what there is to be told. Where a reader was killed an event may
// come once more.
func (r *readings) check(t *testing.T, lines []string, killed bool) {
	t.Helper()
	began := time.Now().Add(-time.Hour)
	got, order := map[string]map[string]any{}, map[string][]string{}
	for _, line := range lines {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %.200s", err, line)
		}
		id, subject := fmt.Sprint(e["id"]), fmt.Sprint(e["subject"])
		if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(e["time"])); err != nil || at.Before(began) || at.After(time.Now()) {
			t.Errorf("time %v: %v", e["time"], err)
		}
		delete(e, "time")
		if e["inferred"] == true { // in JSON it may be what it is
			e["inferred"] = "true"
		}
		if strings.Contains(id, ".deleted.") {
			if fmt.Sprint(e["sequence"]) <= fmt.Sprint(r.want[r.order[subject][0]]["sequence"]) {
				t.Errorf("%s has the sequence %v", id, e["sequence"])
			}
			delete(e, "resourceversion")
			delete(e, "sequence")
			delete(e, "data")
		}
		if got[id] == nil || !killed {
			order[subject] = append(order[subject], id)
		}
		got[id] = e
	}
	if diff := cmp.Diff(r.order, order); diff != "" {
		t.Errorf("ids of objects, in order (-want +got):\n%s", diff)
	}
	// Numbers as JSON has them.
	text, err := json.Marshal(r.want)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%.4000s", diff)
	}
}

// TestReaders shows that programs which know nothing of the bridge read its
// events, in both modes: the CloudEvents SDK's own receiver, and the example.
func TestReaders(t *testing.T) {
	t.Parallel() // it waits, most of the time
	example := filepath.Join(t.TempDir(), "subscriber")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", example, ".")
	build.Dir = filepath.Join("..", "..", "examples", "go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, mode := range []string{"binary", "structured"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // it waits, most of the time
			r := newReadings(t, mode)
			r.check(t, r.receive(t), false)
			r.follow(t, func(args ...string) *exec.Cmd { return exec.CommandContext(t.Context(), example, args...) })
		})
	}
}

// receive reads with the receiver of the CloudEvents SDK.
func (r *readings) receive(t *testing.T) (lines []string) {
	t.Helper()
	consumer, err := cenats.NewConsumer(r.nats.URL(), "K8S", "k8s.>", nil, nil, []nats.SubOpt{nats.BindStream("K8S"), nats.DeliverAll()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(consumer, client.WithPollGoroutines(1), client.WithBlockingCallback())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = c.StartReceiver(ctx, func(_ context.Context, e event.Event) error {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if lines = append(lines, string(line)); len(lines) == len(r.want) {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	consumer.Conn.Close()
	return lines
}

// follow reads with an example: all at once, in two parts with a kill between
// them, the newest of each object, and in lines for people.
func (r *readings) follow(t *testing.T, example func(args ...string) *exec.Cmd) {
	t.Helper()
	server := []string{"--server", r.nats.URL()}
	all := read(t, example(append(server, "--json", "--name", "all")...), len(r.want), os.Interrupt)
	r.check(t, all, false)
	parts := read(t, example(append(server, "--json", "--name", "parts")...), 2, os.Kill)
	// What was printed last may be printed again. All may have been by then.
	parts = read(t, example(append(server, "--json", "--name", "parts")...), len(r.want), os.Interrupt, parts...)
	r.check(t, parts, true)

	newest := read(t, example(append(server, "--json", "--name", "newest", "--snapshot")...), len(r.order), os.Interrupt)
	var want, got []string
	for _, ids := range r.order {
		want = append(want, ids[len(ids)-1])
	}
	for _, line := range newest {
		var e event.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e.ID())
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("newest of each object (-want +got):\n%s", diff)
	}

	for _, line := range read(t, example(append(server, "--name", "lines")...), len(r.want), os.Interrupt) {
		words := strings.Fields(line)
		if len(words) < 4 || !slices.Contains([]string{"existing", "created", "updated", "deleted"}, words[1]) || r.order[words[3]] == nil {
			t.Errorf("a line for people: %.200s", line)
		}
	}
}

// read runs a program until it has printed that many lines, of which no two are
// the same, and ends it. What it has printed by then is all that it prints. With
// lines that were read before it is the rest of them.
func read(t *testing.T, cmd *exec.Cmd, least int, end os.Signal, lines ...string) []string {
	t.Helper()
	seen := map[string]bool{}
	for _, line := range lines {
		seen[line] = true
	}
	if len(seen) >= least {
		return lines
	}
	var complaints output
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timeout.Stop()
	printed := bufio.NewReader(out)
	for {
		line, err := printed.ReadString('\n')
		if err != nil {
			break // what a kill has cut off is no line
		}
		line = strings.TrimSuffix(line, "\n")
		before := len(seen)
		seen[line] = true
		lines = append(lines, line)
		if len(seen) == least && before < least {
			if err := cmd.Process.Signal(end); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil && end != os.Kill || len(seen) < least {
		t.Fatalf("%v: %d lines, not %d: %v\n%s", cmd.Args, len(seen), least, err, strings.Join(complaints.lines(), "\n"))
	}
	return lines
}
