package sources

import "time"

const (
	// gatherFor is how long a watch that brings much is not read, so that the
	// next read takes what has come meanwhile. Each read costs as much as some
	// events do: who reads wakes up, and so does everybody behind, and HTTP/2
	// tells the server what was read. With fewer of them, batches are larger too.
	// In a drain as make bench has it, 4 ms save a quarter of the bridge's CPU and
	// a third of NATS', and 2 ms a fifth.
	gatherFor = 4 * time.Millisecond
	// busyEvents within busyFor are much: 2,000 in a second, of which each pause
	// gathers eight. Below that nothing waits, nor in a burst of fewer.
	busyEvents = 32
	busyFor    = 16 * time.Millisecond
)

// pace decides when a watch is read.
type pace struct {
	events int       // that have come since
	since  time.Time // they were last counted
	busy   bool
}

// came takes note of an event.
func (p *pace) came() { p.events++ }

// wait is called when all that was read has been handed over, and waits where
// there is much, but not beyond the end of the watch.
func (p *pace) wait(ended <-chan struct{}) {
	if p.events >= busyEvents {
		now := time.Now()
		p.busy = now.Sub(p.since) < busyFor
		p.events, p.since = 0, now
	}
	if !p.busy {
		return
	}
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ended:
	}
}

// waited takes note of how long a read has waited for something to read. One
// that had to is not busy any more, so that what comes next is read at once.
func (p *pace) waited(d time.Duration) {
	if d > gatherFor {
		p.busy = false
	}
}
