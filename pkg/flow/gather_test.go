package flow

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestGather has steps come at their times, and looks at how late each is taken,
// and in how many batches all of them.
func TestGather(t *testing.T) {
	each := func(count int, interval time.Duration) (at []time.Duration) {
		for i := range count {
			at = append(at, time.Duration(i)*interval)
		}
		return at
	}
	after := func(pause time.Duration, first, then []time.Duration) []time.Duration {
		begins := first[len(first)-1] + pause
		for _, at := range then {
			first = append(first, begins+at)
		}
		return first
	}
	const (
		small = 100 // bytes
		fast  = time.Second / 10_000
		trip  = time.Millisecond
	)
	for _, row := range []struct {
		why    string
		at     []time.Duration
		size   int
		memory int64
		late   time.Duration // at most, and how late the last may be
		last   time.Duration
		atMost int // batches
	}{
		{"few wait for nothing", each(1000, 2*time.Millisecond), small, 1 << 20, 0, 0, 1000},
		{"nor do some, but for the batch before them", each(1000, floodFor/time.Duration(floodEvents-2)), small, 1 << 20, trip, trip, 1000},
		{"nor bursts", after(floodFor, each(floodEvents-1, 0), each(floodEvents-1, 0)), small, 1 << 20, trip, trip, 4},
		{"much is taken together", each(10_000, fast), small, 4 << 20, gatherFor, gatherFor, 27 + 10_000/gatherEvents},
		{"which goes on while it lasts", each(10_000, floodFor*3/4/time.Duration(floodEvents)), small, 4 << 20, gatherFor, gatherFor, 300 + 10_000/50},
		{"more than enough is not waited for", each(10_000, fast/10), small, 4 << 20, 3 * trip, 3 * trip, 10_000 / 64},
		{"so are many bytes", each(2_000, fast), gatherBytes / 10, 4 << 20, 2 * trip, 2 * trip, 270},
		{"after much, one is told at once", after(gatherFor, each(1000, fast), each(1, 0)), small, 1 << 20, gatherFor, 0, 35},
		{"nor do some wait for long", after(trip, each(1000, fast), each(100, 2*time.Millisecond)), small, 1 << 20, gatherFor, 0, 135},
		{"nor does what takes all the room there is", each(2_000, 4*fast), leastShare / 16, 1, 8 * trip, 8 * trip, 230},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(NewMemory(row.memory))
				began := time.Now()
				go func() {
					for _, at := range row.at {
						time.Sleep(time.Until(began.Add(at)))
						if err := q.room(t.Context(), row.size); err != nil {
							t.Error(err)
						}
						q.add(item{size: row.size})
					}
					synctest.Wait()
					q.close()
				}()
				q.taking = true
				var lates []time.Duration
				batches := 0
				for {
					batch, open := q.take(t.Context(), nil)
					if !open {
						break
					}
					batches++
					for range batch {
						lates = append(lates, time.Since(began)-row.at[len(lates)])
					}
					time.Sleep(trip) // to the sink
					q.release(batch, nil)
				}
				if len(lates) != len(row.at) {
					t.Fatalf("%d of %d were taken", len(lates), len(row.at))
				}
				if late := slices.Max(lates); late > row.late {
					t.Errorf("number %d is taken %v after it came, want at most %v", slices.Index(lates, late), late, row.late)
				}
				if last := lates[len(lates)-1]; last > row.last {
					t.Errorf("the last is taken %v after it came, want at most %v", last, row.last)
				}
				if batches > row.atMost {
					t.Errorf("%d are taken in %d batches, want at most %d", len(row.at), batches, row.atMost)
				}
			})
		})
	}
}

// TestGatheringEnds has something else happen while a batch gathers.
func TestGatheringEnds(t *testing.T) {
	for _, row := range []struct {
		why     string
		happens func(q *queue, end context.CancelFunc, wake chan<- time.Time)
		batch   int
		open    bool
		after   time.Duration
	}{
		{"nothing", func(*queue, context.CancelFunc, chan<- time.Time) {}, 1, true, gatherFor},
		{"something is to be saved", func(_ *queue, _ context.CancelFunc, wake chan<- time.Time) { wake <- time.Now() }, 0, true, 0},
		{"nothing more comes", func(q *queue, _ context.CancelFunc, _ chan<- time.Time) { q.close() }, 1, true, 0},
		{"nothing is delivered any more", func(_ *queue, end context.CancelFunc, _ chan<- time.Time) { end() }, 0, false, 0},
		{"a step is added", func(q *queue, _ context.CancelFunc, _ chan<- time.Time) { q.add(item{}) }, 2, true, gatherFor},
		{"the flow has come further", func(q *queue, _ context.CancelFunc, _ chan<- time.Time) { q.mark(progress{resync: 1}) }, 1, true, gatherFor},
		{"there is enough", func(q *queue, _ context.CancelFunc, _ chan<- time.Time) {
			for range gatherEvents {
				q.add(item{})
			}
		}, gatherEvents + 1, true, 0},
		{"there is no room for more", func(q *queue, _ context.CancelFunc, _ chan<- time.Time) {
			go func() { _ = q.room(context.Background(), mostShare) }()
		}, 1, true, 0},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, end := context.WithCancel(t.Context())
				defer end()
				wake := make(chan time.Time, 1)
				q := newQueue(NewMemory(1 << 20))
				q.taking = true
				q.flood.took(1, time.Now())
				q.flood.took(floodEvents, time.Now())
				q.add(item{size: 1})
				began := time.Now()
				go func() {
					synctest.Wait()
					row.happens(q, end, wake)
				}()
				batch, open := q.take(ctx, wake)
				if len(batch) != row.batch || open != row.open {
					t.Errorf("%d are taken, %t, want %d, %t", len(batch), open, row.batch, row.open)
				}
				if took := time.Since(began); took != row.after {
					t.Errorf("it takes %v, want %v", took, row.after)
				}
				q.release(batch, nil)
			})
		})
	}
}
