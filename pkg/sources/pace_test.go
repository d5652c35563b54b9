package sources

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// arriving is a body whose frames come at their times, however it is read.
type arriving struct {
	began time.Time
	at    []time.Duration
	frame string
	taken int // bytes
	reads int
}

func (a *arriving) Read(p []byte) (int, error) {
	a.reads++
	first := a.taken / len(a.frame)
	if first == len(a.at) {
		return 0, io.EOF
	}
	time.Sleep(time.Until(a.began.Add(a.at[first])))
	there := first
	for there < len(a.at) && a.at[there] <= time.Since(a.began) {
		there++
	}
	n := 0
	for n < len(p) && a.taken < there*len(a.frame) {
		c := copy(p[n:min(len(p), n+there*len(a.frame)-a.taken)], a.frame[a.taken%len(a.frame):])
		n, a.taken = n+c, a.taken+c
	}
	return n, nil
}

func TestPace(t *testing.T) {
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
	small := fmt.Sprintf(`{"type":"MODIFIED","object":%s}`+"\n", two)
	for _, row := range []struct {
		why    string
		at     []time.Duration
		frame  string
		late   time.Duration // at most
		last   time.Duration // the last event, at most
		atMost int           // reads
	}{
		{"few are told at once", each(1000, 5*time.Millisecond), small, 0, 0, 1001},
		{"so are some", each(1000, time.Millisecond), small, 0, 0, 1001},
		{"and bursts", after(50*time.Millisecond, each(busyEvents-1, 0), each(busyEvents-1, 0)), small, 0, 0, 20},
		{"many are read together", each(10_000, 100*time.Microsecond), small, gatherFor, gatherFor, 10_000 / 15},
		{"after many, one is told at once", after(20*time.Millisecond, each(1000, 100*time.Microsecond), each(1, 0)), small, gatherFor, 0, 100},
		{"nor are few delayed for long", after(time.Millisecond, each(1000, 100*time.Microsecond), each(16, 1700*time.Microsecond)), small, gatherFor, 0, 140},
		{
			"there is no wait where HTTP/2 would take no more meanwhile", each(1000, 400*time.Microsecond),
			strings.Replace(small, `"K"`, `"`+strings.Repeat("K", gatherBytes/8)+`"`, 1), 0, 0, 3000,
		},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := &arriving{began: time.Now(), at: row.at, frame: row.frame}
				f := newFrames(body, nil)
				var late time.Duration
				for i := range row.at {
					if _, err := f.next(); err != nil {
						t.Fatalf("event %d: %v", i, err)
					}
					late = time.Since(body.began) - row.at[i]
					if late > row.late {
						t.Fatalf("event %d is told %v after it came, want at most %v", i, late, row.late)
					}
				}
				if late > row.last {
					t.Errorf("the last event is told %v after it came, want at most %v", late, row.last)
				}
				if _, err := f.next(); !errors.Is(err, io.EOF) {
					t.Errorf("then comes %v", err)
				}
				if body.reads > row.atMost {
					t.Errorf("%d events are read with %d reads, want at most %d", len(row.at), body.reads, row.atMost)
				}
			})
		})
	}
}

// TestPaceEnds shows that a watch that has ended is not waited for.
func TestPaceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		close(ended)
		began := time.Now()
		p := pace{busy: true, since: began}
		p.wait(ended)
		if took := time.Since(began); took != 0 {
			t.Errorf("it waits for %v", took)
		}
	})
}
