package sources

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

// coming is a watch whose events come at their times, and that ends then, or,
// where that is never, when it is stopped.
func coming(at []time.Duration, ends time.Duration, l *lane, by conveyance) *patientWatch {
	p := &patientWatch{
		lane: l, conveyance: by, timeout: 5 * time.Minute, failed: func(error) {}, release: func() {},
		out: make(chan watch.Event), stop: make(chan struct{}),
	}
	began, n := time.Now(), 0
	p.next = func() (watch.Event, error) {
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
	}{
		{"little, to the end", each(20, 10*time.Second), timeout - time.Second, shared, 0, 20, timeout - time.Second, false},
		{"much, and it goes on", each(5000, much), never, shared, 0, 5000, hour, false},
		{"much, to the end", each(700_000, much), timeout, shared, 0, 599_999, timeout, true},
		{"not quite so much", each(700_000, much+10*time.Microsecond), timeout, shared, 0, 588_235, timeout, false},
		{"much, long before the end", each(5000, much), timeout, shared, 0, 5000, timeout, false},
		{"nothing, and it ends early", nil, time.Minute, shared, 0, 0, time.Minute, true},
		{"nothing, and it ends early, over HTTP/1.1", nil, time.Minute, plain, 0, 0, time.Minute, false},
		{"its reader is blocked", each(2, 0), never, shared, hour, 1, BlockedWatchTimeout, true},

		{"it brings much at once, and then some", after(each(1024, 0), each(100_000, 2*time.Millisecond-time.Microsecond)), time.Minute, alone, 0, 1024 + 30_015, time.Minute, true},
		{"it brings much, slowly", each(20_000, 900*time.Microsecond), 18 * time.Second, alone, 0, 19_999, 18 * time.Second, true},
		{"it brings little", each(1023, 0), never, alone, 0, 1023, tryFor, false},
		{"it brings nothing", nil, never, alone, 0, 0, tryFor, false},
		{"it brings much, and then little", after(each(2000, 0), each(5000, 11*time.Millisecond)), never, alone, 0, 2000 + 1000, tryFor + quietEvery, false},
		{"its reader is slow", each(500, 0), never, alone, 100 * time.Millisecond, 500, 51 * time.Second, false},
		{"its reader is blocked, and lets it go", each(2, 0), never, alone, hour, 1, BlockedWatchTimeout, true},
		{"it breaks early", each(1023, 0), tryFor / 2, alone, 0, 1023, tryFor / 2, false},
		{"it breaks when it has brought much", each(1024, 0), tryFor / 2, alone, 0, 1024, tryFor / 2, true},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lane{slots: make(chan struct{}, 1)}
				if row.by.dedicated {
					l.slots <- struct{}{}
				}
				p := coming(row.at, row.ends, l, row.by)
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
	refused := func(l *lane) { l.slots <- struct{}{}; l.refused() }
	doubt := func(l *lane) { l.slots <- struct{}{}; l.doubt() }
	granted, not := func(l *lane) { l.asked(true) }, func(l *lane) { l.asked(false) }
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
		{"the one before ended in time", []step{func(l *lane) { l.ended(false) }}, 1, false},
		{"it could not be had", []step{refused}, 1, false},
		{"it could not be had, just now", []step{refused, wait(sharedFor - 1)}, 1, false},
		{"it could not be had, long ago", []step{refused, wait(sharedFor)}, 1, true},
		{"it was not granted", []step{doubt}, 1, false},
		{"it was not granted, and over a shared one it was", []step{doubt, granted, wait(sharedFor - 1)}, 1, false},
		{"so it was, long ago", []step{doubt, granted, wait(sharedFor)}, 1, true},
		{"it was granted over no connection", []step{doubt, not}, 1, true},
		{"shared ones are granted all the time", []step{granted, granted}, 1, true},
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
