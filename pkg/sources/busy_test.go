package sources

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

// coming is a watch whose events come at their times, and that then brings
// nothing until it is stopped.
func coming(at []time.Duration, l *lane, dedicated bool) *patientWatch {
	p := &patientWatch{
		lane: l, conveyance: conveyance{dedicated: dedicated, multiplexed: !dedicated}, failed: func(error) {}, release: func() {},
		out: make(chan watch.Event), stop: make(chan struct{}),
	}
	began, n := time.Now(), 0
	p.next = func() (watch.Event, error) {
		wait := time.Duration(1<<63 - 1)
		if n < len(at) {
			wait = time.Until(began.Add(at[n]))
		}
		select {
		case <-time.After(wait):
		case <-p.stop:
			return watch.Event{}, io.EOF
		}
		n++
		return watch.Event{Type: watch.Modified}, nil
	}
	return p
}

// TestBusyWatches: which watch ends so that the next has another connection, and
// when.
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
	const much = 500 * time.Microsecond // apart: 2,000 in a second
	for _, row := range []struct {
		why       string
		at        []time.Duration
		lane      *lane
		dedicated bool // the watch is
		taken     int  // events until it ends; all of them: it does not, for an hour
		ends      time.Duration
		then      bool // the next is, or may be where this one was
	}{
		{"much", each(5000, much), &lane{possible: true}, false, 1024, 512 * time.Millisecond, true},
		{"not so much", each(5000, much+10*time.Microsecond), &lane{possible: true}, false, 5000, 0, false},
		{"a burst", each(1023, 0), &lane{possible: true}, false, 1023, 0, false},
		{"bursts", after(each(1000, 0), after([]time.Duration{time.Second}, each(1000, 0))), &lane{possible: true}, false, 2001, 0, false},
		{"much after little", after(each(1000, 10*time.Millisecond), each(5000, much)), &lane{possible: true}, false, 2048, 10*time.Second + 1048*much, true},
		{"much, where none can have a connection of its own", each(5000, much), &lane{}, false, 5000, 0, false},
		{"much, after one was refused", each(5000, much), &lane{possible: true, sharedUntil: time.Unix(1<<40, 0)}, false, 5000, 0, false},
		{"much, long after one was refused", each(5000, much), &lane{possible: true, sharedUntil: time.Unix(1, 0)}, false, 1024, 512 * time.Millisecond, true},
		{"it has one already", each(20_000, much), &lane{possible: true, dedicated: true}, true, 20_000, 20 * time.Second, true},
		{"and keeps it for some", each(60_000, 2*time.Millisecond-time.Microsecond), &lane{possible: true, dedicated: true}, true, 60_000, 120 * time.Second, true},
		{"little", each(5000, 11*time.Millisecond), &lane{possible: true, dedicated: true}, true, 909, 10 * time.Second, false},
		{"nothing, as its connection is dead", nil, &lane{possible: true, dedicated: true}, true, 0, 10 * time.Second, false},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := row.lane
				p := coming(row.at, l, row.dedicated)
				began, taken := time.Now(), 0
				go p.run()
				if p.dedicated {
					go p.watchQuiet()
				}
				hour := time.After(time.Hour)
				for open := true; open; {
					select {
					case _, open = <-p.ResultChan():
						if open {
							taken++
						}
					case <-hour:
						p.Stop()
						hour = nil
					}
				}
				took := time.Since(began)
				if row.ends == 0 {
					row.ends = time.Hour
				}
				if taken != row.taken || took != row.ends {
					t.Errorf("it ends after %d events and %v, want %d and %v", taken, took, row.taken, row.ends)
				}
				then := l.wantsDedicated()
				if row.dedicated {
					then = l.leaveShared()
				}
				if then != row.then {
					t.Errorf("the next watch that brings much has a connection of its own: %v", then)
				}
			})
		})
	}
}

// TestLanes: after a connection that was not worth it watches share for a while.
func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lane{possible: true}
		if l.wantsDedicated() || !l.leaveShared() || !l.wantsDedicated() {
			t.Fatal("it has no connection of its own")
		}
		l.leaveDedicated(true)
		if l.wantsDedicated() || !l.leaveShared() {
			t.Error("it does not go back, or not again, from one that was worth it")
		}
		l.leaveDedicated(false)
		if l.wantsDedicated() || l.leaveShared() || l.wantsDedicated() {
			t.Error("it has one right after one that was not")
		}
		time.Sleep(sharedFor)
		if !l.leaveShared() || !l.wantsDedicated() {
			t.Error("it never has one again")
		}
	})
}
