package sources

import "time"

const (
	// gatherFor is how long a watch that brings much is not read, so that the
	// next read takes what has come meanwhile. Each read costs as much as some
	// events do: who reads wakes up, and so does everybody behind, and HTTP/2
	// tells the server what was read. In a drain as make bench has it, 4 ms save a
	// quarter of the bridge's CPU, and 2 ms a fifth.
	gatherFor = 4 * time.Millisecond
	// busyEvents within busyFor are much: 2,000 in a second, of which each pause
	// gathers eight. Below that nothing waits, nor in a burst of fewer.
	busyEvents = 32
	busyFor    = 16 * time.Millisecond
	// gatherBytes is three quarters of what the HTTP/2 client takes of a watch
	// that is not read. Where more than that comes in a pause, its reads are large
	// as it is, and the API server would have to wait.
	gatherBytes = 192 << 10
)

// pace decides when a watch is read.
type pace struct {
	events int       // that have come since
	bytes  int       // that were read since
	since  time.Time // they were last counted
	busy   bool
}

// came takes note of an event.
func (p *pace) came() { p.events++ }

// wait is called when all that was read has been handed over, and waits where
// there is much, but not beyond the end of the watch.
func (p *pace) wait(ended <-chan struct{}) {
	now := time.Now()
	took := now.Sub(p.since)
	if p.events >= busyEvents || took >= busyFor {
		p.busy = took < busyFor && time.Duration(p.bytes)*gatherFor <= gatherBytes*took
		p.events, p.bytes, p.since = 0, 0, now
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

// read takes note of how much a read has brought, and how long it took. Where it
// had to wait there is not much any more, and what comes next is read at once.
func (p *pace) read(bytes int, took time.Duration) {
	p.bytes += bytes
	if took > gatherFor {
		p.busy = false
	}
}
