package main

import (
	"context"
	"log/slog"
	"math"
	"runtime"
	"time"
)

// The processors that are in use follow from the load. With one, the bridge took
// 15 to 25 % less CPU for an event than with two (drains of 20,000 events on two
// CPUs): a goroutine that is handed work on another processor has a thread woken
// up for it, and a processor that has run out of work spins for a while, looking
// for more. One for good would be a ceiling for a busy installation.
const (
	// governEvery is how often it is looked how many the load takes. What comes all at
	// once has twice as many within two seconds, as it may begin between two looks, and
	// again with each second.
	governEvery = time.Second
	// growAbove is the share of the processors in use above which the load may take
	// more than there are: what it would take with more cannot be seen. It is not 1, as
	// nothing keeps all of them at work through a whole second.
	growAbove = 0.9
	// shrinkBelow is the share below which half of them do. That half is then at work
	// for 0.7 of the time at most, well below growAbove: a load that varies by less than
	// an eighth either way (0.9/0.7 is (1+1/8)/(1-1/8)) is never given what was just
	// taken from it, nor the other way round. That fewer processors take less for the
	// same events only adds to that.
	shrinkBelow = 0.35
	// readLimitEvery is how often a CPU limit that has been lowered is looked for.
	// Go itself does so every second; here it means to stop the world twice.
	readLimitEvery = time.Minute
)

// processorsFor is how many processors are to be in use next, at least one, where
// current are and most may be. used is how many the process has taken, on average,
// since the last look: CPU time by time that has passed. It grows and shrinks by a
// factor of two at most, but is never above most. What others on the machine keep the
// process from using is not seen: where they take all CPUs, one processor may stay one
// although two would get more.
func processorsFor(current int, used float64, most int) int {
	next := current
	switch {
	case used > growAbove*float64(current):
		next = 2 * current
	case used < shrinkBelow*float64(current):
		next = (current + 1) / 2 // rounded up, as less than half might be too few
	}
	return max(1, min(next, most))
}

// governor has Go use as many processors as the load takes, and no more than Go
// would by itself.
type governor struct {
	// cpuTime is the CPU time that the process has taken since it began.
	cpuTime func() (time.Duration, error)
	// processors is how many are in use, and set changes that, which has Go follow the
	// CPU limit no longer.
	processors func() int
	set        func(n int)
	// setDefault puts Go's own number in use, read anew, and has Go follow the limit.
	setDefault func()
	log        *slog.Logger

	// held tells whether Go is kept below its own number, which was most when it was
	// last read. Where it is not, what is in use is Go's own, and Go follows the limit.
	held bool
	most int
	read time.Time
}

// governProcessors has Go use as many processors as the load takes, until ctx is
// done, unless GOMAXPROCS says how many. The bridge begins with Go's own number, so
// that a start and its first lists have all there are, and ends with it.
func governProcessors(ctx context.Context, environ []string, log *slog.Logger) {
	if processorsGiven(environ) {
		return
	}
	g := &governor{
		cpuTime:    cpuTime,
		processors: func() int { return runtime.GOMAXPROCS(0) },
		set:        func(n int) { runtime.GOMAXPROCS(n) },
		setDefault: runtime.SetDefaultGOMAXPROCS,
		log:        log,
	}
	g.run(ctx)
}

// run returns when ctx is done, or where the system does not tell CPU time. Go's own
// number of processors is in use then.
func (g *governor) run(ctx context.Context) {
	spent, err := g.cpuTime()
	since := time.Now()
	tick := time.NewTicker(governEvery)
	defer tick.Stop()
	defer g.release()
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Not the tick's time: a process that was stopped (SIGSTOP) is given one that is
		// long over. For it the time that has passed is long, and so what it used next to
		// nothing; the next tick may come right after, and of a moment nothing can be said.
		elapsed := time.Since(since)
		if elapsed < governEvery/2 {
			continue
		}
		before := spent
		if spent, err = g.cpuTime(); err == nil {
			g.look(float64(spent-before) / float64(elapsed))
		}
		since = since.Add(elapsed)
	}
	g.log.Debug("processors do not follow from the load", "error", err)
}

// look changes how many processors are in use, if what was used asks for it. A change
// stops the world, as a collection of garbage does: for 30 to 40 µs at the median in a
// process with 7,000 goroutines that wait, as a thousand flows have.
func (g *governor) look(used float64) {
	current := g.processors()
	if !g.held {
		g.most, g.read = current, time.Now()
	}
	next := processorsFor(current, used, g.most)
	// Where Go is held, only this shows that the limit has changed. One processor is
	// below each limit.
	if next > current || g.held && current > 1 && time.Since(g.read) >= readLimitEvery {
		g.release()
		g.most, g.read = g.processors(), time.Now()
		next = processorsFor(current, used, g.most)
	}
	if next != g.processors() {
		g.set(next)
		g.held = true
	}
	if next != current {
		g.log.Debug("processors in use", "from", current, "to", next, "used", math.Round(used*100)/100)
	}
}

// release has Go use its own number of processors again.
func (g *governor) release() {
	if g.held {
		g.setDefault()
		g.held = false
	}
}
