package flow

import (
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestTap shows what viewers are told: what they want, in order, the newest
// where they do not keep pace, and how much they have missed.
func TestTap(t *testing.T) {
	for _, row := range []struct {
		why           string
		deliveries    int
		first, missed int // the first that is kept
	}{
		{"nothing was delivered", 0, 0, 0},
		{"all of it is kept", viewed, 0, 0},
		{"the oldest makes room", viewed + 1, 1, 1},
		{"the ring has gone round", 3*viewed + 7, 2*viewed + 7, 2*viewed + 7},
	} {
		t.Run(row.why, func(t *testing.T) {
			tap := &Tap{}
			v := tap.View(func(d *Delivery) bool { return d.Route == "wanted" })
			for n := range row.deliveries {
				for _, route := range []string{"wanted", "other"} {
					for _, viewer := range tap.watched() {
						viewer.tell(&Delivery{ID: ID{Route: route}, Object: fmt.Sprint(n)})
					}
				}
			}
			got, missed := v.Take()
			if missed != row.missed || len(got) != row.deliveries-row.missed {
				t.Fatalf("%d deliveries and %d missed", len(got), missed)
			}
			for n := range got {
				if want := fmt.Sprint(row.first + n); got[n].Object != want || got[n].Route != "wanted" {
					t.Fatalf("delivery %d is %+v, not %s", n, got[n], want)
				}
			}
			if got, missed := v.Take(); len(got) != 0 || missed != 0 {
				t.Errorf("what was taken comes again: %d, and %d missed", len(got), missed)
			}
		})
	}
}

// TestTapOfNobody shows that nothing is kept for viewers that have gone.
func TestTapOfNobody(t *testing.T) {
	var none *Tap
	if none.watched() != nil {
		t.Error("no tap has viewers")
	}
	tap := &Tap{}
	first, second := tap.View(nil), tap.View(nil)
	first.Close()
	first.Close()
	if all := tap.watched(); len(all) != 1 || all[0] != second {
		t.Errorf("viewers after the first has gone: %v", all)
	}
	second.Close()
	if tap.viewers.Load() != nil {
		t.Error("there are viewers when all have gone")
	}
}

// TestDeliveriesAreShown shows what those who look on are told of, and what the
// status says of a flow that has delivered.
func TestDeliveriesAreShown(t *testing.T) {
	h := newHarness(t)
	tap := &Tap{}
	h.flow.env.Tap = tap
	v := tap.View(func(*Delivery) bool { return true })
	defer v.Close()
	r := h.start(t.Context())
	list(t.Context(), r, 10)
	r.Changed(t.Context(), thing("a", "", 11))
	r.Deleted(t.Context(), thing("a", "", 12))
	var got []Delivery
	for len(got) < 2 {
		select {
		case <-v.News():
		case <-r.Done():
			t.Fatal("the run has ended")
		}
		more, missed := v.Take()
		if missed > 0 {
			t.Errorf("%d are missed", missed)
		}
		got = append(got, more...)
	}
	for n, want := range []Delivery{{Type: "created", Version: "11"}, {Type: "deleted", Version: "12"}} {
		d := got[n]
		if d.ID != h.flow.ID() || d.Type != want.Type || d.Object != "ns/a" || d.Version != want.Version || d.Inferred || d.Durable.Before(d.Observed) {
			t.Errorf("delivery %d is %+v", n, d)
		}
	}
	s := h.flow.Status()
	if s.Delivered != 2 || s.LastDelivered.IsZero() || s.Waited <= 0 || s.State != Running || s.Since.IsZero() || s.Missing != nil {
		t.Errorf("the status is %+v", s)
	}
}

// TestMissingRight shows that a flow that is forbidden says which right it lacks.
func TestMissingRight(t *testing.T) {
	h := newHarness(t)
	h.flow.condition.setActive(h.target, "")
	r := h.start(t.Context())
	r.Condition(apierrors.NewForbidden(schema.GroupResource{Group: "example.com", Resource: "widgets"}, "", errors.New("no")))
	s := h.flow.Status()
	if s.State != Forbidden || s.Missing == nil || *s.Missing != (Right{Group: "example.com", Resource: "widgets"}) {
		t.Errorf("the status is %+v, and the right %v", s, s.Missing)
	}
}
