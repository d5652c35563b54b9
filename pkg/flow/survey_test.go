package flow

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sources"
)

// TestSurvey shows what is told where a list is made although the watch tells
// what has changed: because a resync was requested, or the route selects
// otherwise than it did. No version is left out for it.
func TestSurvey(t *testing.T) {
	ctx := t.Context()
	const request = 1
	ends := only(t, events.Deleted)
	for _, test := range []struct {
		why    string
		before *Rules // what the route selected at first; nil: as afterwards
		resync uint64
		tell   func(*Run)
		want   []string
		done   bool // when the run has ended
	}{
		{"a resync of what has not changed", nil, request, func(r *Run) {
			list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6))
		}, []string{"existing ns/a@5 r1", "existing ns/b@6 r1"}, true},
		{"what has changed is the watch's to tell, each version, and then again", nil, request, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 13), thing("b", "", 6))
			r.Changed(ctx, thing("a", "", 12))
			r.Changed(ctx, thing("a", "", 13))
			r.Progressed(ctx, "20")
		}, []string{"existing ns/b@6 r1", "updated ns/a@12", "existing ns/a@12 r1", "updated ns/a@13"}, true},
		{"and the resync is not done before", nil, request, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 13), thing("b", "", 6))
			r.Changed(ctx, thing("a", "", 12))
		}, []string{"existing ns/b@6 r1", "updated ns/a@12", "existing ns/a@12 r1"}, false},
		{"what is new is not told twice", nil, request, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 5), thing("b", "", 6), thing("c", "", 15))
			r.Changed(ctx, thing("c", "", 15))
			r.Changed(ctx, thing("c", "", 21))
		}, []string{"existing ns/a@5 r1", "existing ns/b@6 r1", "created ns/c@15", "updated ns/c@21"}, true},
		{"what is gone ends by the watch", nil, request, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 5))
			r.Deleted(ctx, thing("b", "", 12))
			r.Changed(ctx, thing("a", "", 21))
		}, []string{"existing ns/a@5 r1", "deleted ns/b@12", "updated ns/a@21"}, true},
		{"a namesake comes by the watch", nil, request, func(r *Run) {
			list(ctx, r, 20, thing("a", "2", 15), thing("b", "", 6))
			r.Deleted(ctx, thing("a", "", 12))
			r.Changed(ctx, thing("a", "2", 15))
			r.Progressed(ctx, "20")
		}, []string{"existing ns/b@6 r1", "deleted ns/a@12", "created ns/a@15"}, true},
		{"the history is gone after the survey", nil, request, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 13), thing("b", "", 6), thing("c", "", 14))
			list(ctx, r, 30, thing("a", "", 25), thing("b", "", 26), thing("c", "", 14))
		}, []string{"existing ns/b@6 r1", "updated ns/a@25 coalesced", "existing ns/a@25 r1", "updated ns/b@26 coalesced", "created ns/c@14"}, true},
		{"the survey breaks off and begins again", nil, request, func(r *Run) {
			_ = r.ListStarted(ctx, "20")
			r.Listed(ctx, thing("a", "", 5))
			list(ctx, r, 21, thing("a", "", 5), thing("b", "", 6))
		}, []string{"existing ns/a@5 r1", "existing ns/b@6 r1"}, true},
		{"the survey breaks off with the run", nil, request, func(r *Run) {
			_ = r.ListStarted(ctx, "20")
			r.Listed(ctx, thing("a", "", 5))
		}, []string{"existing ns/a@5 r1"}, false},
		{"the route selects more: what it never sent exists, once", ends, 0, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 5), thing("b", "", 6))
			r.Changed(ctx, thing("a", "", 21))
		}, []string{"existing ns/a@5 s20", "existing ns/b@6 s20", "updated ns/a@21"}, true},
		{"the route selects more, and objects have changed", ends, 0, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 13), thing("b", "", 6), thing("c", "", 14))
			r.Changed(ctx, thing("a", "", 12))
			r.Changed(ctx, thing("a", "", 13))
			r.Changed(ctx, thing("c", "", 14))
			r.Progressed(ctx, "20")
		}, []string{"existing ns/b@6 s20", "updated ns/a@12", "updated ns/a@13", "created ns/c@14"}, true},
		{"the route selects more, and the list breaks off with the run", ends, 0, func(r *Run) {
			_ = r.ListStarted(ctx, "20")
			r.Listed(ctx, thing("a", "", 5))
		}, []string{"existing ns/a@5 s20"}, false},
	} {
		t.Run(test.why, func(t *testing.T) {
			h := newHarness(t)
			after := h.target.Rules
			if test.before != nil {
				h.target.Rules = test.before
			}
			first := h.start(ctx)
			list(ctx, first, 10, thing("a", "", 5), thing("b", "", 6))
			first.Stop(time.Minute)
			<-first.Done()
			began := []string{"created ns/a@5", "created ns/b@6"}
			if test.before != nil {
				began = []string{}
			}
			h.out.wait(t, began...)

			h.target.Rules = after
			if test.resync != 0 {
				h.flow.RequestResync(later + test.resync)
			}
			second := h.start(ctx)
			if diff := cmp.Diff(sources.Start{Position: "10", Survey: true}, h.from); diff != "" {
				t.Errorf("the source (-want +got):\n%s", diff)
			}
			test.tell(second)
			second.Stop(time.Minute)
			<-second.Done()
			h.out.wait(t, append(began, test.want...)...)

			// A run that follows goes on with it exactly if it is not done.
			third := h.start(ctx)
			if h.from.Survey == test.done {
				t.Errorf("done is %t, and the next run surveys is %t", test.done, h.from.Survey)
			}
			third.Stop(0)
			<-third.Done()
		})
	}
}

// TestSurveyGoesOn shows that a resync that was cut short tells of the rest
// only, also from another process's ledger.
func TestSurveyGoesOn(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	run := func(tell func(context.Context, *Run)) {
		r := h.start(ctx)
		tell(ctx, r)
		r.Stop(time.Minute)
		<-r.Done()
	}
	run(func(ctx context.Context, r *Run) { list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6)) })
	h.flow.RequestResync(later + 7)
	run(func(ctx context.Context, r *Run) {
		_ = r.ListStarted(ctx, "20")
		r.Listed(ctx, thing("a", "", 5))
	})
	run(func(ctx context.Context, r *Run) { list(ctx, r, 30, thing("a", "", 5), thing("b", "", 6)) })
	run(func(ctx context.Context, r *Run) { r.Changed(ctx, thing("a", "", 31)) })
	h.flow.RequestResync(later + 8)
	run(func(ctx context.Context, r *Run) { list(ctx, r, 40, thing("a", "", 31), thing("b", "", 6)) })
	h.out.wait(t, "created ns/a@5", "created ns/b@6", "existing ns/a@5 r7", "existing ns/b@6 r7",
		"updated ns/a@31", "existing ns/a@31 r8", "existing ns/b@6 r8")
}

// TestListIsOlder shows that a list which has an object as it was before it was
// delivered is not taken for news, nor for nothing: etcd was put back.
func TestListIsOlder(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	r.Changed(ctx, thing("a", "", 11))
	list(r.sourcing, r, 100, thing("a", "", 5), thing("b", "", 50)) // etcd's revision was bumped
	eventually(t, func() bool { return h.flow.Status().State == Blocked })
	if reason := h.flow.Status().Reason; !strings.Contains(reason, "bridge resync --route r") {
		t.Errorf("the reason is %q", reason)
	}
	r.Stop(time.Minute)
	<-r.Done()
	h.flow.RequestResync(later + 1)
	r = h.start(ctx)
	list(ctx, r, 101, thing("a", "", 5), thing("b", "", 50))
	r.Changed(ctx, thing("a", "", 102))
	h.out.wait(t, "created ns/a@5", "updated ns/a@11", "existing ns/a@5 r1", "created ns/b@50 h1", "updated ns/a@102 h1")
}

// TestRisen shows that an object which was told to be deleted with its CRD, and
// is there when that is back, is told of after a resync, and that its end then
// is another than the first.
func TestRisen(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	run := func(tell func(*Run)) {
		r := h.start(ctx)
		tell(r)
		r.Stop(time.Minute)
		<-r.Done()
	}
	run(func(r *Run) {
		list(ctx, r, 10, thing("a", "", 5))
		r.Progressed(ctx, "25") // a bookmark, from after the CRD had gone
	})
	drain := h.flow.StartDrain(ctx, h.target, 20)
	<-drain.Done()
	h.target.CRD = "crd-2"
	h.flow.condition.setActive(Target{}, "")
	run(func(r *Run) {
		list(ctx, r, 30, thing("a", "", 5))
		r.Changed(ctx, thing("a", "", 31))
	})
	if reason := h.flow.Status().Reason; !strings.Contains(reason, "bridge resync --route r") {
		t.Errorf("the reason is %q", reason)
	}
	h.flow.RequestResync(later + 3)
	run(func(r *Run) { list(ctx, r, 40, thing("a", "", 31)) })
	run(func(r *Run) {
		r.Changed(ctx, thing("a", "", 41))
		r.Deleted(ctx, thing("a", "", 42))
	})
	h.out.wait(t, "created ns/a@5", "deleted ns/a@20 inferred", "existing ns/a@31 r3", "updated ns/a@41", "deleted ns/a@42 r3")
}
