package sources

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestRequestsTakeTurns: no more than mostRequests are on their way at once,
// nobody waits for longer than requestTurn, and no turn is lost.
func TestRequestsTakeTurns(t *testing.T) {
	for _, row := range []struct {
		why      string
		takes    time.Duration // each
		requests int
		most     int64         // at once
		all      time.Duration // until all are done
	}{
		{"they fit", time.Second, mostRequests, mostRequests, time.Second},
		{"many, each of which is soon done", 10 * time.Millisecond, 1000, mostRequests, 630 * time.Millisecond},
		{"some that hang do not stop the others for ever", time.Hour, 2 * mostRequests, 2 * mostRequests, time.Hour + requestTurn},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := NewRequests()
				var now atomic.Int64
				var mu sync.Mutex
				most := int64(0)
				began := time.Now()
				for range row.requests {
					go func() {
						defer r.turn(t.Context())()
						n := now.Add(1)
						mu.Lock()
						most = max(most, n)
						mu.Unlock()
						time.Sleep(row.takes)
						now.Add(-1)
					}()
				}
				synctest.Wait()
				for now.Load() > 0 {
					time.Sleep(time.Millisecond)
				}
				if most != row.most {
					t.Errorf("%d at once, want %d", most, row.most)
				}
				if all := time.Since(began).Truncate(10 * time.Millisecond); all != row.all {
					t.Errorf("done after %v, want %v", all, row.all)
				}
				if len(r.turns) > 0 {
					t.Errorf("%d turns are not given back", len(r.turns))
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // who is told to end does not wait
		r := NewRequests()
		for range mostRequests {
			r.turn(t.Context())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		r.turn(ctx)()
		if time.Since(began) > 0 {
			t.Errorf("it waited for %v", time.Since(began))
		}
	})
}

func TestPagesOfMany(t *testing.T) {
	for _, row := range []struct {
		why   string
		lists int
		want  int64
	}{
		{"one list has the page that is worth a round trip", 1, pageBytes},
		{"as many as share what there is for all", 64, pageBytes},
		{"more have less each", 128, 128 << 10},
		{"but what is worth a request", 1000, leastPage},
	} {
		r := NewRequests()
		var done []func()
		for range row.lists {
			done = append(done, r.list())
		}
		if got := r.pageBytes(); got != row.want {
			t.Errorf("%s: %d bytes, want %d", row.why, got, row.want)
		}
		for _, d := range done {
			d()
		}
		if got := r.pageBytes(); got != pageBytes {
			t.Errorf("%s: %d bytes when they are done", row.why, got)
		}
	}
}
