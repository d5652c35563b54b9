package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
	"github.com/crbridge/crbridge/pkg/sources"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// outbox is a sink in memory whose answers a test can change. It stands for
// the answers that a sink may give at any moment, which a real server gives
// only when it is hit at the right one; what real servers do is tested with
// real servers.
type outbox struct {
	mu     sync.Mutex
	stored []string
	ids    map[string]bool
	// answer says how much of a batch becomes durable, how much of it the
	// caller is told of, and why not more; nil stores and tells all.
	answer  func(batch int) (durable, told int, err error)
	changed chan struct{}
}

func newOutbox() *outbox { return &outbox{ids: map[string]bool{}, changed: make(chan struct{}, 1)} }

func (o *outbox) Publish(_ context.Context, batch []events.Event) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	durable, told := len(batch), len(batch)
	var err error
	if o.answer != nil {
		durable, told, err = o.answer(len(batch))
	}
	for i := range batch[:durable] {
		e := &batch[i]
		if o.ids[e.ID()] {
			continue
		}
		o.ids[e.ID()] = true
		o.stored = append(o.stored, describe(e))
	}
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return told, err
}

// later is higher than the number of any request from before now.
const later = 1 << 40

func describe(e *events.Event) string {
	var flags string
	for _, flag := range []string{events.ExtInferred, events.ExtCoalesced} {
		if e.Attribute(flag) == "true" {
			flags += " " + flag
		}
	}
	resync, listed := events.Suffixes(e.ID(), "r")
	if strings.Contains(e.ID(), ".r.r") {
		flags += fmt.Sprintf(" r%d", resync-later)
	}
	if _, number, is := strings.Cut(e.ID(), ".r.h"); is {
		history, _ := strconv.ParseUint(number, 10, 64)
		flags += fmt.Sprintf(" h%d", history-later)
	}
	if listed != 0 {
		flags += fmt.Sprintf(" s%d", listed)
	}
	return fmt.Sprintf("%s %s@%s%s", e.Fields.Event, e.Subject(), e.Attribute(events.ExtResourceVersion), flags)
}

func (o *outbox) set(answer func(int) (int, int, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = answer
}

// wait waits until just these events are stored, in this order.
func (o *outbox) wait(t *testing.T, want ...string) {
	t.Helper()
	o.waitFor(t, want, func(stored []string) []string { return stored })
}

// waitSet waits until just these events are stored, in any order.
func (o *outbox) waitSet(t *testing.T, want ...string) {
	t.Helper()
	o.waitFor(t, slices.Sorted(slices.Values(want)), func(stored []string) []string { return slices.Sorted(slices.Values(stored)) })
}

func (o *outbox) waitFor(t *testing.T, want []string, in func([]string) []string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		o.mu.Lock()
		stored := in(append([]string{}, o.stored...))
		o.mu.Unlock()
		if len(stored) >= len(want) {
			if diff := cmp.Diff(want, stored); diff != "" {
				t.Fatalf("events (-want +got):\n%s", diff)
			}
			return
		}
		select {
		case <-o.changed:
		case <-deadline:
			t.Fatalf("stored %q, not %q", stored, want)
		}
	}
}

// harness is a flow whose source is the test.
type harness struct {
	t      *testing.T
	flow   *Flow
	out    *outbox
	target Target
	// from is where the last run's last source began, began where each did.
	from  sources.Start
	began map[string]sources.Start
}

func newHarness(t *testing.T) *harness {
	out := newOutbox()
	env := Environment{
		Cluster: "test", Memory: NewMemory(64 << 20), Metrics: NewMetrics(prometheus.NewRegistry()),
		Log: slog.New(slog.DiscardHandler),
	}
	return &harness{t: t, out: out, flow: New(ID{CRD: "widgets.example.com", Route: "r", Sink: "s"}, env, out, &journal.Memory{}, nil), target: Target{
		Resource: sources.Resource{
			Kind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}, Plural: "widgets", Namespaced: true,
		},
		CRD: "crd-1", Rules: Everything(),
	}}
}

// only are rules that deliver these types of events.
func only(t *testing.T, types ...events.Type) *Rules {
	t.Helper()
	rules, err := NewRules(RuleOptions{Events: types})
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// start begins a run that follows what the test tells it. Its end is waited
// for when the test ends, at the latest.
func (h *harness) start(ctx context.Context) *Run {
	r := h.flow.newRun(ctx, h.target)
	h.t.Cleanup(func() {
		r.Stop(0)
		<-r.Done()
	})
	type start struct {
		namespace string
		from      sources.Start
	}
	follows := make(chan start, len(r.watchers))
	r.source = func(ctx context.Context, to *watcher, from sources.Start) error {
		follows <- start{to.namespace, from}
		<-ctx.Done()
		return nil
	}
	h.began = map[string]sources.Start{}
	go r.run(true)
	for range r.watchers {
		select {
		case s := <-follows:
			h.from = s.from
			h.began[s.namespace] = s.from
		case <-r.Done():
		}
	}
	return r
}

// What a test tells a run that has one watch.

func (r *Run) ListStarted(ctx context.Context, version string) error {
	return r.watchers[0].ListStarted(ctx, version)
}
func (r *Run) Listed(ctx context.Context, o *unstructured.Unstructured) {
	r.watchers[0].Listed(ctx, asSent(o))
}
func (r *Run) ListFinished(ctx context.Context, version string) {
	r.watchers[0].ListFinished(ctx, version)
}
func (r *Run) Changed(ctx context.Context, o *unstructured.Unstructured) {
	r.watchers[0].Changed(ctx, asSent(o))
}
func (r *Run) Deleted(ctx context.Context, o *unstructured.Unstructured) {
	r.watchers[0].Deleted(ctx, asSent(o))
}
func (r *Run) Progressed(ctx context.Context, version string) { r.watchers[0].Progressed(ctx, version) }
func (r *Run) Condition(err error)                            { r.watchers[0].Condition(err) }

// thing makes an object; equal letters have equal uids.
func thing(name, incarnation string, version int) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget"}}
	o.SetNamespace("ns")
	o.SetName(name)
	o.SetUID(types.UID(uuid.NewSHA1(uuid.Nil, []byte(name+incarnation)).String()))
	o.SetResourceVersion(strconv.Itoa(version))
	return o
}

// asSent is an object as the API server sends it.
func asSent(u *unstructured.Unstructured) *object.Object {
	o, err := object.Of(u.Object)
	if err != nil {
		panic(err) // a test that makes something up that is no JSON
	}
	return o
}

// list tells the run of a complete list.
func list(ctx context.Context, r *Run, version int, objects ...*unstructured.Unstructured) {
	listOf(ctx, r.watchers[0], version, objects...)
}

// listOf tells one of a run's watchers of a complete list.
func listOf(ctx context.Context, w *watcher, version int, objects ...*unstructured.Unstructured) {
	if err := w.ListStarted(ctx, strconv.Itoa(version)); err != nil {
		return
	}
	for _, o := range objects {
		w.Listed(ctx, asSent(o))
	}
	w.ListFinished(ctx, strconv.Itoa(version))
}

// TestComparison is the heart: what is made of what the API server says, given
// what is known.
func TestComparison(t *testing.T) {
	ctx := t.Context()
	for _, row := range []struct {
		why      string
		existing bool
		tell     func(*Run)
		want     []string
	}{
		{"the first list of a CRD that came later", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5), thing("b", "", 7))
		}, []string{"created ns/a@5", "created ns/b@7"}},
		{"the first list of a CRD that was there", true, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5))
			r.Changed(ctx, thing("b", "", 11))
		}, []string{"existing ns/a@5", "created ns/b@11"}},
		{"a life", false, func(r *Run) {
			list(ctx, r, 1)
			r.Changed(ctx, thing("a", "", 2))
			r.Changed(ctx, thing("a", "", 3))
			r.Deleted(ctx, thing("a", "", 4))
		}, []string{"created ns/a@2", "updated ns/a@3", "deleted ns/a@4"}},
		{"a list that has nothing new is nothing", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5))
			list(ctx, r, 20, thing("a", "", 5))
		}, []string{"created ns/a@5"}},
		{"a list finds what was missed", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6), thing("c", "", 7))
			list(ctx, r, 20, thing("a", "", 15), thing("c", "", 7), thing("d", "", 16))
		}, []string{
			"created ns/a@5", "created ns/b@6", "created ns/c@7",
			"updated ns/a@15 coalesced", "created ns/d@16", "deleted ns/b@20 inferred",
		}},
		{"a list finds a namesake", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "1", 5))
			list(ctx, r, 20, thing("a", "2", 15))
		}, []string{"created ns/a@5", "deleted ns/a@14 inferred", "created ns/a@15"}},
		{"the watch brings a namesake whose forebear's end was missed", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "1", 5))
			r.Changed(ctx, thing("a", "2", 15))
		}, []string{"created ns/a@5", "deleted ns/a@14 inferred", "created ns/a@15"}},
		{"the watch brings the end of a namesake that was missed", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "1", 5))
			r.Deleted(ctx, thing("a", "2", 15))
		}, []string{"created ns/a@5", "deleted ns/a@14 inferred"}},
		{"the watch repeats itself", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5))
			r.Changed(ctx, thing("a", "", 5))
			r.Changed(ctx, thing("a", "", 4))
			r.Deleted(ctx, thing("b", "", 6))
		}, []string{"created ns/a@5"}},
		{"the watch tells of a life that is over", false, func(r *Run) {
			list(ctx, r, 1)
			r.Changed(ctx, thing("a", "", 2))
			r.Deleted(ctx, thing("a", "", 3))
			r.Changed(ctx, thing("a", "", 2))
			r.Deleted(ctx, thing("a", "", 3))
		}, []string{"created ns/a@2", "deleted ns/a@3"}},
		{"a list that was given up does not count", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6))
			_ = r.ListStarted(ctx, "15")
			r.Listed(ctx, thing("a", "", 5))
			list(ctx, r, 20, thing("a", "", 5), thing("b", "", 6))
		}, []string{"created ns/a@5", "created ns/b@6"}},
		{"what came after the first list is not existing, whether or not that list is durable yet", true, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5))
			list(ctx, r, 20, thing("a", "", 5), thing("b", "", 15))
		}, []string{"existing ns/a@5", "created ns/b@15"}},
		{"an old watch repeats the lives of namesakes", false, func(r *Run) {
			list(ctx, r, 10, thing("o", "A", 5))
			_ = r.ListStarted(ctx, "15")
			r.Listed(ctx, thing("o", "C", 14)) // and the list is given up
			r.Deleted(ctx, thing("o", "A", 11))
			r.Changed(ctx, thing("o", "B", 12))
			r.Deleted(ctx, thing("o", "B", 13))
			r.Changed(ctx, thing("o", "C", 14))
		}, []string{"created ns/o@5", "deleted ns/o@13 inferred", "created ns/o@14"}},
		{"bookmarks are nothing", false, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5))
			r.Progressed(ctx, "20")
		}, []string{"created ns/a@5"}},
		{"an object that cannot be understood is left out, and the rest goes on", false, func(r *Run) {
			o := thing("x", "", 5)
			o.SetUID("not a uid")
			list(ctx, r, 10, o, thing("a", "", 6))
		}, []string{"created ns/a@6"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			h := newHarness(t)
			h.target.Existing = row.existing
			r := h.start(ctx)
			row.tell(r)
			r.Stop(time.Minute)
			<-r.Done()
			h.out.wait(t, row.want...)
			if position, listed := h.flow.ledger.resume(allNamespaces); !listed || position == 0 {
				t.Errorf("after all is durable the position is %d, listed is %v", position, listed)
			}
		})
	}
}

// TestLedgerFollowsAcks shows that the ledger knows only what the sink has said
// to be durable: a run that ends without an answer leaves it as it was, and the
// next run finds the difference.
func TestLedgerFollowsAcks(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	first := h.start(ctx)
	list(ctx, first, 10, thing("a", "", 5))
	h.out.wait(t, "created ns/a@5")
	eventually(t, func() bool { _, listed := h.flow.ledger.resume(allNamespaces); return listed })

	// The sink stores b and the answer is lost; c it does not store.
	h.out.set(func(int) (int, int, error) { return 1, 0, errors.New("connection lost") })
	first.Changed(ctx, thing("b", "", 11))
	h.out.wait(t, "created ns/a@5", "created ns/b@11")
	first.Changed(ctx, thing("c", "", 12))
	first.Deleted(ctx, thing("a", "", 13))
	eventually(t, func() bool { return h.flow.Status().State == Blocked })
	first.Stop(0)
	<-first.Done()
	if position, _ := h.flow.ledger.resume(allNamespaces); position != 10 {
		t.Errorf("the position is %d, not that of the last answer, 10", position)
	}
	if n := h.flow.Status().Objects; n != 2 {
		t.Errorf("the ledger has %d objects, not a and, in doubt, b", n)
	}

	// The next run hears of it all again, from the position on. That b is sent
	// twice under one id is the sink's to notice.
	h.out.set(nil)
	second := h.start(ctx)
	second.Changed(ctx, thing("b", "", 11))
	second.Changed(ctx, thing("c", "", 12))
	second.Deleted(ctx, thing("a", "", 13))
	h.out.wait(t, "created ns/a@5", "created ns/b@11", "created ns/c@12", "deleted ns/a@13")
	second.Stop(time.Minute)
	<-second.Done()
	if position, _ := h.flow.ledger.resume(allNamespaces); position != 13 {
		t.Errorf("the position is %d, not 13", position)
	}
}

// TestPartOfABatch shows that a sink that takes a part of a batch is given the
// rest, from the first that is not durable on.
func TestPartOfABatch(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	left := 3
	h.out.set(func(batch int) (int, int, error) {
		if left == 0 || batch == 1 {
			return batch, batch, nil
		}
		left--
		return 1, 1, errors.New("busy")
	})
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 1), thing("b", "", 2), thing("c", "", 3), thing("d", "", 4), thing("e", "", 5))
	h.out.wait(t, "created ns/a@1", "created ns/b@2", "created ns/c@3", "created ns/d@4", "created ns/e@5")
	eventually(t, func() bool { return h.flow.Status().Delivered == 5 })
}

// TestDrain shows what a CRD's end makes of what is left of its objects.
func TestDrain(t *testing.T) {
	ctx := t.Context()
	gone := apierrors.NewNotFound(schema.GroupResource{Group: "example.com", Resource: "widgets"}, "")
	for _, row := range []struct {
		why  string
		tell func(*harness, *Run)
		want []string
	}{
		{"what is left is deleted", func(_ *harness, r *Run) {
			r.Drain(20)
			r.Condition(gone)
		}, []string{"deleted ns/a@20 inferred"}},
		{"the API server's 404 comes first", func(_ *harness, r *Run) {
			r.Condition(gone)
			r.Drain(20)
		}, []string{"deleted ns/a@20 inferred"}},
		{"a deletion that is still on its way is better than a deduced one", func(_ *harness, r *Run) {
			r.Drain(20)
			r.Deleted(ctx, thing("a", "", 15))
			r.Condition(gone)
		}, []string{"deleted ns/a@15"}},
		{"the next incarnation's objects stay", func(_ *harness, r *Run) {
			r.Drain(20)
			r.Changed(ctx, thing("a", "next", 25))
			r.Changed(ctx, thing("b", "next", 26))
			r.Condition(gone)
		}, []string{"deleted ns/a@24 inferred", "created ns/a@25", "created ns/b@26"}},
		{"twice is once", func(_ *harness, r *Run) {
			r.Drain(20)
			r.Drain(30)
			r.Condition(gone)
		}, []string{"deleted ns/a@20 inferred"}},
		{"a sink that is down is waited for", func(h *harness, r *Run) {
			failures := 3
			h.out.set(func(batch int) (int, int, error) {
				if failures > 0 {
					failures--
					return 0, 0, errors.New("down")
				}
				return batch, batch, nil
			})
			r.Drain(20)
			r.Condition(gone)
		}, []string{"deleted ns/a@20 inferred"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			h := newHarness(t)
			r := h.start(ctx)
			list(ctx, r, 10, thing("a", "", 5))
			h.out.wait(t, "created ns/a@5")
			row.tell(h, r)
			<-r.Done()
			h.out.wait(t, append([]string{"created ns/a@5"}, row.want...)...)
			if !r.Drained() {
				t.Error("the run does not say that it is drained")
			}
			if h.flow.Holds(20) {
				t.Error("the supervisor would begin another drain")
			}
			if position, listed := h.flow.ledger.resume(allNamespaces); position != 0 || listed {
				t.Errorf("the next incarnation would begin at %d, listed is %v", position, listed)
			}
		})
	}
}

// TestDrainGivenUp shows that a drain that is cut short is not taken for one
// that is done: the next one does the rest.
func TestDrainGivenUp(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6))
	h.out.wait(t, "created ns/a@5", "created ns/b@6")
	h.out.set(func(int) (int, int, error) { return 0, 0, errors.New("down") })
	r.Condition(apierrors.NewNotFound(schema.GroupResource{}, ""))
	r.Drain(20)
	eventually(t, func() bool { return strings.Contains(h.flow.Status().Reason, "down") })
	if state := h.flow.Status().State; state != Draining {
		t.Errorf("the flow is %s, not draining", state)
	}
	r.Stop(0)
	<-r.Done()
	if r.Drained() || !h.flow.Holds(math.MaxUint64) {
		t.Errorf("drained is %v, holds is %v after a drain that was cut short", r.Drained(), h.flow.Holds(math.MaxUint64))
	}

	h.out.set(nil)
	again := h.flow.StartDrain(ctx, h.target, 30)
	<-again.Done()
	if !again.Drained() || h.flow.Holds(math.MaxUint64) {
		t.Errorf("drained is %v, holds is %v after the second drain", again.Drained(), h.flow.Holds(math.MaxUint64))
	}
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	if n := len(h.out.stored); n != 4 {
		t.Errorf("%d events, not 4: %q", n, h.out.stored)
	}
}

// TestRecreatedCRD shows that a CRD that came back unseen is compared with what
// is known of the old one.
func TestRecreatedCRD(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "1", 5), thing("b", "1", 6))
	h.out.wait(t, "created ns/a@5", "created ns/b@6")
	r.Stop(time.Minute)
	<-r.Done()
	h.target.CRD = "crd-2"
	r = h.start(ctx)
	if position, listed := h.flow.ledger.resume(allNamespaces); position != 0 || listed {
		t.Fatalf("the new CRD's watch would begin at %d of the old one's history, listed is %v", position, listed)
	}
	list(ctx, r, 30, thing("a", "2", 25))
	h.out.wait(t, "created ns/a@5", "created ns/b@6", "deleted ns/a@24 inferred", "created ns/a@25", "deleted ns/b@30 inferred")
}

// TestBlockedFlowIsBounded shows that a flow whose sink is down stops listening
// when its queue is full, and that stopping it then does not hang.
func TestBlockedFlowIsBounded(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	h.out.set(func(int) (int, int, error) { return 0, 0, errors.New("down") })
	r := h.start(ctx)
	padding := strings.Repeat("x", 64<<10)
	told := make(chan int, 1000)
	go func() {
		defer close(told)
		for i := range 1000 {
			o := thing("o"+strconv.Itoa(i), "", i+1)
			o.Object["spec"] = padding
			r.Changed(r.following, o)
			if r.following.Err() != nil {
				return
			}
			told <- i
		}
	}()
	eventually(t, func() bool { return len(told) > 0 && h.flow.Status().Pending >= mostShare/(70<<10) })
	r.queue.mu.Lock()
	bytes := r.queue.bytes
	r.queue.mu.Unlock()
	if bytes > mostShare {
		t.Errorf("the queue holds %d bytes, more than %d", bytes, mostShare)
	}
	r.Stop(0)
	<-r.Done()
	for open := true; open; {
		_, open = <-told
	}
	if held := h.flow.env.Memory.Held(); held != 0 {
		t.Errorf("%d bytes are counted that nobody holds", held)
	}
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestInDoubt shows what becomes of an object whose first event was stored and
// whose acknowledgement was lost, when the run ended before it could ask again.
func TestInDoubt(t *testing.T) {
	ctx := t.Context()
	for _, row := range []struct {
		why  string
		next func(*harness) *Run // what the next run hears
		want []string            // after "created ns/a@5"
	}{
		{"it is still there", func(h *harness) *Run {
			r := h.start(ctx)
			list(ctx, r, 20, thing("a", "1", 5))
			r.Changed(ctx, thing("a", "1", 21))
			return r
		}, []string{"updated ns/a@21"}},
		{"the watch tells of it again", func(h *harness) *Run {
			r := h.start(ctx)
			r.Changed(ctx, thing("a", "1", 5))
			r.Deleted(ctx, thing("a", "1", 6))
			return r
		}, []string{"deleted ns/a@6"}},
		{"it is gone", func(h *harness) *Run {
			r := h.start(ctx)
			list(ctx, r, 20)
			return r
		}, []string{"deleted ns/a@20 inferred"}},
		{"its CRD is gone", func(h *harness) *Run { return h.flow.StartDrain(ctx, h.target, 20) },
			[]string{"deleted ns/a@20 inferred"}},
		{"its CRD is another, and so is it", func(h *harness) *Run {
			h.target.CRD = "crd-2"
			r := h.start(ctx)
			list(ctx, r, 20, thing("a", "2", 15))
			return r
		}, []string{"deleted ns/a@14 inferred", "created ns/a@15"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			h := newHarness(t)
			first := h.start(ctx)
			list(ctx, first, 4)
			eventually(t, func() bool { _, listed := h.flow.ledger.resume(allNamespaces); return listed })
			h.out.set(func(int) (int, int, error) { return 1, 0, errors.New("connection lost") })
			first.Changed(ctx, thing("a", "1", 5))
			h.out.wait(t, "created ns/a@5")
			first.Stop(0)
			<-first.Done()
			if !h.flow.Holds(20) {
				t.Error("nobody would be told of its end")
			}
			h.out.set(nil)
			next := row.next(h)
			next.Stop(time.Minute)
			<-next.Done()
			h.out.wait(t, append([]string{"created ns/a@5"}, row.want...)...)
		})
	}
}

// TestScopeChangesUnseen shows that objects of a CRD that came back with
// another scope get their end as what they were.
func TestScopeChangesUnseen(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	h.out.wait(t, "created ns/a@5")
	r.Stop(time.Minute)
	<-r.Done()

	h.target.CRD, h.target.Resource.Namespaced = "crd-2", false
	r = h.start(ctx)
	b := thing("b", "", 25)
	b.SetNamespace("")
	list(ctx, r, 30, b)
	h.out.wait(t, "created ns/a@5", "created b@25", "deleted ns/a@30 inferred")
}

// TestPositionStaysBehindWhatWasDropped shows that what the reflector hands
// over after an object that found no room before the run's end does not move
// the position past it.
func TestPositionStaysBehindWhatWasDropped(t *testing.T) {
	for _, row := range []struct {
		why   string
		after func(context.Context, *Run)
	}{
		{"a bookmark", func(ctx context.Context, r *Run) { r.Progressed(ctx, "12") }},
		{"the end of an object that nobody was told of", func(ctx context.Context, r *Run) { r.Deleted(ctx, thing("u", "", 12)) }},
		{"the end of a list", func(ctx context.Context, r *Run) { r.ListFinished(ctx, "12") }},
	} {
		t.Run(row.why, func(t *testing.T) {
			h := newHarness(t)
			r := h.start(t.Context())
			list(t.Context(), r, 10)
			ending, cancel := context.WithCancel(t.Context())
			cancel()
			r.Changed(ending, thing("x", "", 11))
			row.after(ending, r)
			r.Stop(time.Minute)
			<-r.Done()
			if position, _ := h.flow.ledger.resume(allNamespaces); position != 10 {
				t.Errorf("the position is %d, and the object at 11 was dropped", position)
			}
		})
	}
}

// TestGaugeOfARunThatGaveUp shows that the metric does not go on counting what
// nobody holds any more.
func TestGaugeOfARunThatGaveUp(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	h.out.set(func(int) (int, int, error) { return 0, 0, errors.New("down") })
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	r.Stop(0)
	<-r.Done()
	if n := r.series.pending.Load(); n != 0 {
		t.Errorf("bridge_events_pending is %v", n)
	}
}
