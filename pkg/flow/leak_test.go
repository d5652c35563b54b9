package flow

import (
	"context"
	"runtime"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/crbridge/crbridge/pkg/sources"
)

// TestRunsLeaveNothing shows that what a flow's runs took is given back: its
// heap after a thousand lives of a CRD is what it was after ten.
func TestRunsLeaveNothing(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	h.out.set(func(batch int) (int, int, error) { return 0, batch, nil }) // the outbox keeps nothing either
	life := func() {
		r := h.flow.newRun(ctx, h.target)
		follows := make(chan struct{})
		r.source = func(ctx context.Context, _ *watcher, _ sources.Start) error {
			close(follows)
			<-ctx.Done()
			return nil
		}
		go r.run(true)
		<-follows
		list(ctx, r, 10, thing("a", "", 5))
		r.Condition(apierrors.NewNotFound(schema.GroupResource{}, ""))
		r.Drain(20)
		<-r.Done()
		h.flow.Forget()
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for range 10 {
		life()
	}
	before := heap()
	const lives = 1000
	for range lives {
		life()
	}
	if after := heap(); after > before+lives*64 {
		t.Errorf("the heap grew from %d to %d bytes in %d lives", before, after, lives)
	}
}
