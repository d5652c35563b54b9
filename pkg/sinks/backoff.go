package sinks

import (
	"context"
	"math/rand/v2"
	"time"
)

// The delay before the n-th attempt to connect is a random part, from half to
// all, of firstBackoff·2ⁿ or of LongestBackoff.
const (
	firstBackoff   = 50 * time.Millisecond
	LongestBackoff = 5 * time.Second
)

// Backoff is how long to wait before the attempt, counted from 1.
func Backoff(attempt int) time.Duration {
	d := LongestBackoff
	if attempt < 10 {
		d = min(d, firstBackoff<<attempt)
	}
	return d/2 + rand.N(d/2)
}

// Sleep tells whether it has slept all of d.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
