package flow

import (
	"time"

	"github.com/crbridge/crbridge/internal/failpoint"
)

const (
	// gatherFor is how long a batch gathers at most, from when the one before it
	// was taken. Each batch costs as much as some events do, here and in the
	// sink: both wake up, read and write, whatever there is. At 7,000 events/s
	// of 2 KiB into JetStream, batches of 32 take 73 µs of CPU an event, of who
	// publishes and the server together, those of 128 take 42, and larger ones
	// hardly less (make bench-nats BENCHFLAGS=-windows).
	gatherFor = 25 * time.Millisecond
	// A batch of gatherEvents or gatherBytes has gathered enough. It stays below
	// what the NATS sink writes as an atomic batch, which costs the server more
	// where writing is fast; where it is slow, more than that waits.
	gatherEvents = 192
	gatherBytes  = batchBytes / 2
	// Batches gather while floodEvents come within floodFor, which are 2,000 in a
	// second: as in a backlog, or in a list. What comes more slowly than that, or
	// in a burst of fewer, waits for nothing.
	floodFor = 128 * time.Millisecond
)

var floodEvents = failpoint.Bound(256)

// flood knows whether so much comes that batches gather.
type flood struct {
	taken time.Time // when the last batch was
	items int       // that were taken since
	since time.Time // they were last counted
	much  bool
}

// took takes note of a batch.
func (f *flood) took(items int, now time.Time) {
	f.items, f.taken = f.items+items, now
	if took := now.Sub(f.since); f.items >= floodEvents || took >= floodFor {
		f.much = took < floodFor
		f.items, f.since = 0, now
	}
}

// wait is for how long more is to gather.
func (f *flood) wait(now time.Time) time.Duration {
	if !f.much {
		return 0
	}
	return gatherFor - now.Sub(f.taken)
}
