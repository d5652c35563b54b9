package flow

import (
	"errors"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestTap shows what viewers are told: all, in order, the newest where they do
// not keep pace, and how much they have missed.
func TestTap(t *testing.T) {
	for _, row := range []struct {
		why           string
		before        int // deliveries that came before the viewer
		deliveries    int
		first, missed int // the first that is kept
	}{
		{"nothing was delivered", 0, 0, 0, 0},
		{"what was delivered before is not told", 10, 5, 0, 0},
		{"all of it is kept", 3, viewed, 0, 0},
		{"the oldest makes room", 0, viewed + 1, 1, 1},
		{"the ring has gone round", 5, 3*viewed + 7, 2*viewed + 7, 2*viewed + 7},
	} {
		t.Run(row.why, func(t *testing.T) {
			tap := &Tap{}
			defer tap.View().Close() // somebody else, who takes nothing
			for range row.before {
				tap.Show(Delivery{Object: "before"})
			}
			v := tap.View()
			for n := range row.deliveries {
				tap.Show(Delivery{Object: fmt.Sprint(n)})
			}
			var got []Delivery
			missed := 0
			for into := make([]Delivery, 100); ; {
				n, more := v.Take(into)
				missed += more
				got = append(got, into[:n]...)
				if n < len(into) {
					break
				}
			}
			if missed != row.missed || len(got) != row.deliveries-row.missed {
				t.Fatalf("%d deliveries and %d missed", len(got), missed)
			}
			for n := range got {
				if want := fmt.Sprint(row.first + n); got[n].Object != want {
					t.Fatalf("delivery %d is %+v, not %s", n, got[n], want)
				}
			}
			if n, missed := v.Take(make([]Delivery, 1)); n != 0 || missed != 0 {
				t.Errorf("what was taken comes again: %d, and %d missed", n, missed)
			}
		})
	}
}

// TestTapOfNobody shows that nothing is kept for viewers that have gone.
func TestTapOfNobody(t *testing.T) {
	var none *Tap
	if none.Watched() {
		t.Error("no tap has viewers")
	}
	tap := &Tap{}
	first, second := tap.View(), tap.View()
	first.Close()
	first.Close()
	if !tap.Watched() {
		t.Error("nobody looks when one of two has gone")
	}
	tap.Show(Delivery{Object: "a"})
	if n, _ := first.Take(make([]Delivery, 1)); n != 0 {
		t.Error("one who has gone is told of more")
	}
	second.Close()
	tap.Show(Delivery{Object: "b"})
	if tap.Watched() || tap.ring != nil {
		t.Error("something is kept when all have gone")
	}
	third := tap.View()
	defer third.Close()
	if n, missed := third.Take(make([]Delivery, 1)); n != 0 || missed != 0 {
		t.Errorf("one who comes later is told of %d, and %d missed", n, missed)
	}
}

// BenchmarkTap is what a delivery costs the flow, by how many look on.
func BenchmarkTap(b *testing.B) {
	for _, viewers := range []int{0, 1, 32} {
		b.Run(fmt.Sprint("viewers=", viewers), func(b *testing.B) {
			tap := &Tap{}
			for range viewers {
				b.Cleanup(tap.View().Close)
			}
			d := Delivery{ID: ID{CRD: "orders.shop.example.com", Route: "main", Sink: "main"}, Type: "updated", Object: "shop-1/widget-a-1", Version: "123"}
			b.ReportAllocs()
			for b.Loop() {
				if tap.Watched() {
					tap.Show(d)
				}
			}
		})
	}
}

// TestDeliveriesAreShown shows what those who look on are told of, and what the
// status says of a flow that has delivered.
func TestDeliveriesAreShown(t *testing.T) {
	h := newHarness(t)
	tap := &Tap{}
	h.flow.env.Tap = tap
	v := tap.View()
	defer v.Close()
	r := h.start(t.Context())
	list(t.Context(), r, 10)
	r.Changed(t.Context(), thing("a", "", 11))
	r.Deleted(t.Context(), thing("a", "", 12))
	var got []Delivery
	for into := make([]Delivery, 8); len(got) < 2; {
		n, missed := v.Take(into)
		if missed > 0 {
			t.Errorf("%d are missed", missed)
		}
		got = append(got, into[:n]...)
		select {
		case <-time.After(time.Millisecond):
		case <-r.Done():
			t.Fatal("the run has ended")
		}
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
