package sources

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
)

// coming is a watch whose events come at their times, and that ends then, or,
// where that is never, when it is stopped.
func coming(at []time.Duration, ends time.Duration, size int, l *lane, by conveyance) *patientWatch {
	p := &patientWatch{
		lane: l, conveyance: by, timeout: 5 * time.Minute, failed: func(error) {}, release: func() {},
		out: make(chan watch.Event), stop: make(chan struct{}), intake: &intake{}, ended: func() {},
	}
	began, n := time.Now(), 0
	p.next = func() (watch.Event, error) {
		p.intake.waits()
		defer p.intake.got(size)
		until, over := ends, true
		if n < len(at) && at[n] < ends {
			until, over = at[n], false
		}
		select {
		case <-time.After(time.Until(began.Add(until))):
		case <-p.stop:
			return watch.Event{}, io.EOF
		}
		if over {
			return watch.Event{}, io.EOF
		}
		n++
		return watch.Event{Type: watch.Modified}, nil
	}
	return p
}

// TestBusyWatches: when a watch ends, and which connection the next has.
func TestBusyWatches(t *testing.T) {
	each := func(count int, interval time.Duration) (at []time.Duration) {
		for i := range count {
			at = append(at, time.Duration(i+1)*interval)
		}
		return at
	}
	after := func(first, then []time.Duration) []time.Duration {
		begins := first[len(first)-1]
		for _, at := range then {
			first = append(first, begins+at)
		}
		return first
	}
	const (
		much    = 500 * time.Microsecond // apart: 2,000 in a second
		timeout = 5 * time.Minute
		never   = time.Duration(1<<63 - 1)
		hour    = time.Hour // until who watches stops it
	)
	shared, alone, plain := conveyance{multiplexed: true}, conveyance{dedicated: true}, conveyance{}
	for _, row := range []struct {
		why   string
		at    []time.Duration
		ends  time.Duration // by the API server
		by    conveyance
		pause time.Duration // of who reads, after each event
		taken int           // events until it ends
		after time.Duration // it ends
		then  bool          // the next has a connection of its own
		size  int           // of an event, in bytes
	}{
		{"little, to the end", each(20, 10*time.Second), timeout - time.Second, shared, 0, 20, timeout - time.Second, false, 0},
		{"much, and it goes on", each(5000, much), never, shared, 0, 5000, hour, false, 0},
		{"much, to the end", each(700_000, much), timeout, shared, 0, 599_999, timeout, true, 0},
		{"not quite so much", each(700_000, much+10*time.Microsecond), timeout, shared, 0, 588_235, timeout, false, 0},
		{"much, long before the end", each(5000, much), timeout, shared, 0, 5000, timeout, false, 0},
		{"nothing, and it ends early", nil, time.Minute, shared, 0, 0, time.Minute, true, 0},
		{"nothing, and it ends early, over HTTP/1.1", nil, time.Minute, plain, 0, 0, time.Minute, false, 0},
		{"its reader is blocked", each(2, 0), never, shared, hour, 1, BlockedWatchTimeout, true, 0},

		{"it brings much at once, and then some", after(each(1024, 0), each(100_000, 2*time.Millisecond-time.Microsecond)), time.Minute, alone, 0, 1024 + 30_015, time.Minute, true, 0},
		{"it brings much, slowly", each(20_000, 900*time.Microsecond), 18 * time.Second, alone, 0, 19_999, 18 * time.Second, true, 0},
		{"it brings little", each(1023, 0), never, alone, 0, 1023, tryFor, false, 0},
		{"it brings nothing", nil, never, alone, 0, 0, tryFor, false, 0},
		{"it brings much, and then little", after(each(2000, 0), each(5000, 11*time.Millisecond)), never, alone, 0, 2000 + 1000, tryFor + quietEvery, false, 0},
		{"its reader is slow", each(500, 0), never, alone, 100 * time.Millisecond, 500, 61 * time.Second, false, 0},
		{"its reader is slow, and it ends in time", each(500, 0), timeout, alone, time.Second, 500, 499 * time.Second, true, 0},
		{"it brings few that are large", each(60_000, 10*time.Millisecond), time.Minute, alone, 0, 5999, time.Minute, true, 200 << 10},
		{"it brings little, and goes on for a while", each(5, 200*time.Millisecond), never, alone, 0, 5, tryFor + quietEvery, false, 0},
		{"its reader is blocked, and lets it go", each(2, 0), never, alone, hour, 1, BlockedWatchTimeout, true, 0},
		{"it breaks early", each(1023, 0), tryFor / 2, alone, 0, 1023, tryFor / 2, false, 0},
		{"it breaks when it has brought much", each(1024, 0), tryFor / 2, alone, 0, 1024, tryFor / 2, true, 0},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lane{slots: make(chan struct{}, 1)}
				if row.by.dedicated {
					l.slots <- struct{}{}
				}
				p := coming(row.at, row.ends, max(row.size, 1), l, row.by)
				began, taken := time.Now(), 0
				ended := make(chan time.Duration, 1)
				go func() {
					p.run()
					ended <- time.Since(began)
				}()
				if p.dedicated {
					go p.watchQuiet()
				}
				stop := time.AfterFunc(hour, p.Stop)
				defer stop.Stop()
				for range p.ResultChan() {
					taken++
					time.Sleep(row.pause)
				}
				if took := <-ended; taken != row.taken || took != row.after {
					t.Errorf("it ends after %d events and %v, want %d and %v", taken, took, row.taken, row.after)
				}
				if len(l.slots) != 0 {
					t.Error("it has kept its slot")
				}
				if then := l.begin(); then != row.then {
					t.Errorf("the next has a connection of its own: %v", then)
				}
			})
		})
	}
}

// TestLanes: which connection a watch gets when the ones before it did not get what
// they were to have.
func TestLanes(t *testing.T) {
	type step func(*lane)
	begun := func(then step) step { return func(l *lane) { l.slots <- struct{}{}; then(l) } }
	refused := begun(func(l *lane) { l.refused() })
	little := begun(func(l *lane) { l.leave(false) })
	away := func(l *lane) { l.away() }
	early, timely, busy := func(l *lane) { l.ended(true, false) }, func(l *lane) { l.ended(false, false) }, func(l *lane) { l.ended(false, true) }
	wait := func(d time.Duration) step { return func(*lane) { time.Sleep(d) } }
	for _, row := range []struct {
		why   string
		steps []step
		slots int
		own   bool
	}{
		{"nothing happened", nil, 1, true},
		{"none is to have one", nil, 0, false},
		{"all are taken", []step{func(l *lane) { l.slots <- struct{}{} }}, 1, false},
		{"the one before ended in time", []step{timely}, 1, false},
		{"the one before ended early", []step{early}, 1, true},
		{"it could not be had", []step{refused}, 1, false},
		{"it could not be had, just now", []step{refused, wait(sharedFor - 1)}, 1, false},
		{"it could not be had, long ago", []step{refused, wait(sharedFor)}, 1, true},
		{"it had little to catch up with", []step{little}, 1, false},
		{"and another ended early", []step{little, wait(sharedFor - 1), early}, 1, false},
		{"and another ended early, long after", []step{little, wait(sharedFor), early}, 1, true},
		{"and another was busy", []step{little, busy}, 1, true},
		{"and another ended early, and then the API server was away", []step{little, early, away}, 1, true},
		{"the API server was away for all", []step{begun(func(l *lane) { l.leave(true) }), away}, 1, true},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lane{slots: make(chan struct{}, row.slots), behind: true}
				for _, step := range row.steps {
					step(l)
				}
				if own := l.begin(); own != row.own {
					t.Errorf("it has a connection of its own: %v", own)
				}
			})
		})
	}
	if (&lane{behind: true}).begin() {
		t.Error("it has one where there are none")
	}
}

// TestCaughtUp: a watch that is ended before it should have caught up leaves that to
// the next.
func TestCaughtUp(t *testing.T) {
	for _, row := range []struct {
		why  string
		last []time.Duration // how long the watches before the last one last
		want time.Duration   // when the handler is told; each watch is granted a second after the one before
	}{
		{"one watch", nil, catchUp},
		{"one that ends just before", []time.Duration{catchUp - 1}, catchUp - 1 + time.Second + catchUp},
		{"several", []time.Duration{time.Second, 0, time.Second}, 5*time.Second + catchUp},
		{"one that ends after", []time.Duration{catchUp + 1}, catchUp},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &caughtUp{began: time.Now()}
				l := &listWatch{handler: h, gate: ungated{}, requests: NewRequests(), behind: true, inner: toolscache.ToListerWatcherWithContext(
					&toolscache.ListWatch{WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) {
						return watch.NewFake(), nil
					}})}
				ctx, cancel := context.WithCancel(t.Context())
				for _, last := range append(row.last, time.Hour) {
					w, err := l.watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(last)
					w.Stop()
					for range w.ResultChan() {
						t.Error("an event")
					}
					time.Sleep(time.Second)
				}
				cancel()
				l.close()
				if len(h.told) != 1 || h.told[0] != row.want {
					t.Errorf("it is told at %v, want once, at %v", h.told, row.want)
				}
			})
		})
	}
}

// caughtUp is told when a watch should have caught up.
type caughtUp struct {
	Handler
	began time.Time
	told  []time.Duration
}

func (c *caughtUp) Condition(error) {}

func (c *caughtUp) CaughtUp(context.Context) { c.told = append(c.told, time.Since(c.began)) }
