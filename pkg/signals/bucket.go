package signals

import "time"

// bound is how many there may be at once, and after how long another one.
type bound struct {
	burst  float64
	refill time.Duration
}

// bucket holds what is left of a bound. The zero bucket is full.
type bucket struct {
	taken  float64
	filled time.Time
}

// fill puts back what may be taken again by now.
func (b *bucket) fill(to bound, now time.Time) {
	if !b.filled.IsZero() {
		b.taken = max(0, b.taken-now.Sub(b.filled).Seconds()/to.refill.Seconds())
	}
	b.filled = now
}

func (b *bucket) has(to bound, now time.Time) bool {
	b.fill(to, now)
	return to.burst-b.taken >= 1
}

func (b *bucket) full(to bound, now time.Time) bool {
	b.fill(to, now)
	return b.taken == 0
}

func (b *bucket) take() { b.taken++ }
