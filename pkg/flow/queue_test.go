package flow

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestQueueLeavesNothingBehind has many goroutines' steps meet a taker that goes
// to rest whenever it can: everything is taken, in order, by one at a time, and
// the end is found out about once.
func TestQueueLeavesNothingBehind(t *testing.T) {
	const rounds, items = 200, 50
	for range rounds {
		q := newQueue(NewMemory(1 << 20))
		var takers atomic.Int64
		var taken []uint64 // of takers that follow one another, so that the race detector sees it where they do not
		newest := uint64(0)
		over := make(chan struct{})
		q.serve(func() {
			if n := takers.Add(1); n != 1 {
				t.Errorf("%d takers at a time", n)
			}
			for {
				// Before it may be followed by another.
				takers.Add(-1)
				if q.rest() {
					return
				}
				takers.Add(1)
				batch, open := q.take(t.Context(), nil)
				if !open {
					takers.Add(-1)
					close(over)
					return
				}
				for n := range batch {
					if batch[n].key != "" {
						taken = append(taken, batch[n].order)
					}
					newest = max(newest, batch[n].resync)
				}
				q.release(batch, nil)
			}
		})
		var adding sync.WaitGroup
		adding.Go(func() {
			for n := range uint64(items) {
				q.add(item{key: "ns/a", order: n + 1})
				runtime.Gosched()
			}
		})
		adding.Go(func() {
			for n := range uint64(items) {
				q.mark(progress{resync: n + 1})
				runtime.Gosched()
			}
		})
		adding.Wait()
		q.close()
		<-over
		want := make([]uint64, items)
		for n := range want {
			want[n] = uint64(n) + 1
		}
		if diff := cmp.Diff(want, taken); diff != "" {
			t.Fatalf("taken (-want +got):\n%s", diff)
		}
		if newest != items {
			t.Fatalf("the last mark that was taken is %d, not %d", newest, items)
		}
		q.discard()
	}
}

// TestIdleFlowDeliversNothing shows that a flow that has delivered and saved
// everything has no goroutine for that, and delivers what comes then.
func TestIdleFlowDeliversNothing(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	want := []string{"created ns/a@5"}
	h.out.wait(t, want...)
	for _, name := range []string{"b", "c"} {
		eventually(t, func() bool {
			r.queue.mu.Lock()
			defer r.queue.mu.Unlock()
			return !r.queue.taking
		})
		if r.saver.dirty { // which belongs to nobody now
			t.Error("it rests, and something is to be saved")
		}
		r.Changed(ctx, thing(name, "", 11))
		want = append(want, "created ns/"+name+"@11")
		h.out.wait(t, want...)
	}
	r.Stop(time.Minute)
	<-r.Done()
}
