package lifecycle

import "time"

// Backoff paces the restarts of a flow whose CRD flaps: the first one is at
// once, each further one within Stable of the last waits twice as long, from
// First to Most.
type Backoff struct {
	First  time.Duration
	Most   time.Duration
	Stable time.Duration
}

// DefaultBackoff keeps a CRD that is recreated all the time from costing the
// API server more than a list a second. It is no longer than that because what
// happens to objects of a CRD that comes and goes meanwhile is not seen.
func DefaultBackoff() Backoff {
	return Backoff{First: 50 * time.Millisecond, Most: time.Second, Stable: 30 * time.Second}
}

// starts is the history of a flow's starts.
type starts struct {
	last  time.Time
	quick int // how many have followed each other within Stable
}

// wait is how long from now the next start has to wait.
func (s *starts) wait(b Backoff, now time.Time) time.Duration {
	if s.last.IsZero() || now.Sub(s.last) >= b.Stable || s.quick == 0 {
		return 0
	}
	pause := b.First
	for range s.quick - 1 {
		if pause *= 2; pause >= b.Most {
			pause = b.Most
			break
		}
	}
	return max(0, s.last.Add(pause).Sub(now))
}

// started notes a start.
func (s *starts) started(b Backoff, now time.Time) {
	if !s.last.IsZero() && now.Sub(s.last) < b.Stable {
		s.quick++
	} else {
		s.quick = 0
	}
	s.last = now
}
