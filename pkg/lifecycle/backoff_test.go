package lifecycle

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	b := Backoff{First: time.Second, Most: 4 * time.Second, Stable: time.Minute}
	begin := time.Unix(1_000_000, 0)
	for _, row := range []struct {
		why    string
		starts []time.Duration // since begin
		now    time.Duration
		want   time.Duration
	}{
		{"the first start is at once", nil, 0, 0},
		{"so is the second", []time.Duration{0}, time.Second, 0},
		{"the third waits", []time.Duration{0, 1 * time.Second}, time.Second, time.Second},
		{"and what has passed already counts", []time.Duration{0, 1 * time.Second}, 1500 * time.Millisecond, 500 * time.Millisecond},
		{"each further one waits twice as long", []time.Duration{0, 1 * time.Second, 2 * time.Second}, 2 * time.Second, 2 * time.Second},
		{"but not longer than the most", []time.Duration{0, 1 * time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second, 5 * time.Second}, 5 * time.Second, 4 * time.Second},
		{"a run that lasted makes up for it", []time.Duration{0, 1 * time.Second, 2 * time.Second}, 62 * time.Second, 0},
		{"and after that it begins anew", []time.Duration{0, 1 * time.Second, 2 * time.Second, 62 * time.Second}, 62 * time.Second, 0},
	} {
		t.Run(row.why, func(t *testing.T) {
			var s starts
			for _, at := range row.starts {
				s.started(b, begin.Add(at))
			}
			if got := s.wait(b, begin.Add(row.now)); got != row.want {
				t.Errorf("waits %v, not %v", got, row.want)
			}
		})
	}
}
