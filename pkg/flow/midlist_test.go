package flow

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/crbridge/crbridge/pkg/journal"
)

// caughtUpInAList lists the objects after a survey whose watch had no history; its
// time is over when the first of them is listed. The run is stopped then.
func caughtUpInAList(t *testing.T, r *Run, objects ...*unstructured.Unstructured) {
	t.Helper()
	ctx := t.Context()
	if err := r.ListStarted(ctx, "30"); err != nil {
		t.Fatal(err)
	}
	for i, o := range objects {
		r.Listed(ctx, o)
		if i == 0 {
			r.watchers[0].CaughtUp(ctx)
		}
	}
	r.ListFinished(ctx, "30")
	r.Stop(time.Minute)
	<-r.Done()
}

// TestCaughtUpInAList: a survey whose watch has no history is followed by a list of
// everything, in the middle of which the survey's time is over.
func TestCaughtUpInAList(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	first := h.start(ctx)
	list(ctx, first, 10, thing("a", "", 5), thing("b", "", 6), thing("c", "", 7))
	first.Stop(time.Minute)
	<-first.Done()
	h.target.Rules = labelled(t)
	r := h.start(ctx)
	r.presence = &cluster{objects: []*unstructured.Unstructured{thing("a", "", 5), thing("b", "", 6), thing("c", "", 7)}, asOf: 40}
	list(ctx, r, 20, thing("a", "", 5), thing("b", "", 6), thing("c", "", 7))
	caughtUpInAList(t, r, thing("a", "", 5), thing("b", "", 6), thing("c", "", 7))
	h.never(t, "deselected")
}

// TestResyncCaughtUpInAList: the same where a resync was requested.
func TestResyncCaughtUpInAList(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	first := h.start(ctx)
	list(ctx, first, 10, thing("a", "", 5), thing("b", "", 6), thing("c", "", 7))
	first.Stop(time.Minute)
	<-first.Done()
	h.flow.RequestResync(later + 1)
	r := h.start(ctx)
	list(ctx, r, 20, thing("a", "", 15), thing("b", "", 16), thing("c", "", 17))
	caughtUpInAList(t, r, thing("a", "", 15), thing("b", "", 16), thing("c", "", 17))
	if n := strings.Count(h.told(), "existing"); n != 3 {
		t.Errorf("%d objects are told as existing, not 3:\n%s", n, h.told())
	}
	third := h.start(ctx)
	if h.from.Survey {
		t.Error("the resync was done, and the next run surveys for it")
	}
	third.Stop(0)
	<-third.Done()
}

// TestOthersPartInAList: the watch of one namespace has done its part and lists
// again while that of another finishes the last part.
func TestOthersPartInAList(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"ns", "other"} })
	first := h.start(ctx)
	listOf(ctx, first.watchers[0], 10, thing("a", "", 5), thing("b", "", 6))
	listOf(ctx, first.watchers[1], 10, in("other", thing("x", "", 7)))
	first.Stop(time.Minute)
	<-first.Done()
	h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"ns", "other"}; o.LabelSelector = "on=yes" })
	r := h.start(ctx)
	r.presence = &cluster{objects: []*unstructured.Unstructured{thing("a", "", 5), thing("b", "", 6), in("other", thing("x", "", 7))}, asOf: 40}
	listOf(ctx, r.watchers[0], 20, thing("a", "", 5), thing("b", "", 6))
	r.watchers[0].CaughtUp(ctx)
	if err := r.watchers[0].ListStarted(ctx, "30"); err != nil {
		t.Fatal(err)
	}
	listOf(ctx, r.watchers[1], 25, in("other", thing("x", "", 7)))
	r.watchers[1].CaughtUp(ctx)
	r.watchers[0].Listed(ctx, asSent(thing("a", "", 5)))
	r.watchers[0].Listed(ctx, asSent(thing("b", "", 6)))
	r.watchers[0].ListFinished(ctx, "30")
	r.Stop(time.Minute)
	<-r.Done()
	h.never(t, "deselected")
}

// TestDrainWithoutAClaim: the claim becomes void in the middle of a drain that is
// longer than the queue.
func TestDrainWithoutAClaim(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	first := h.start(ctx)
	var all []*unstructured.Unstructured
	for n := range 10000 {
		all = append(all, thing(string(rune('a'+n%26))+time.Duration(n).String(), "", 5+n))
	}
	list(ctx, first, 20000, all...)
	first.Stop(time.Minute)
	<-first.Done()
	calls := 0
	h.out.set(func(n int) (int, int, error) {
		calls++
		if calls > 2 {
			return 0, 0, journal.ErrReplaced
		}
		return n, n, nil
	})
	r := h.flow.StartDrain(ctx, h.target, 30000)
	select {
	case <-r.Done():
		if !errors.Is(r.Err(), journal.ErrReplaced) || r.Drained() {
			t.Errorf("the drain ends with %v, drained: %v", r.Err(), r.Drained())
		}
	case <-time.After(15 * time.Second):
		n, _ := r.queue.waiting()
		t.Errorf("not done after 15 s, Err %v, waiting %d", r.Err(), n)
	}
	r.Stop(0)
	<-r.Done()
}

// told is what was stored, a line for each event.
func (h *harness) told() string {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	var lines []string
	for _, e := range h.out.stored {
		lines = append(lines, fmt.Sprint(e))
	}
	return strings.Join(lines, "\n")
}

func (h *harness) never(t *testing.T, kind string) {
	t.Helper()
	if told := h.told(); strings.Contains(told, kind) {
		t.Errorf("something is %s:\n%s", kind, told)
	}
}
