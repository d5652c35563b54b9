package sources

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
)

// BlockedWatchTimeout is how long a watch stays open while nobody takes its
// next event. Go's HTTP/2 client holds up to 256 KiB of each stream that is not
// read; closed, it holds nothing, and the reflector watches again from the
// last event that was taken.
const BlockedWatchTimeout = 10 * time.Second

// patientWatch is a watch that reads its events itself, sees the errors among
// them, and closes itself when its reader has not come back for
// BlockedWatchTimeout. An event that was not taken by then is not lost: it
// comes again, because the next watch begins before it.
type patientWatch struct {
	// next waits for the next event, and fails with io.EOF where there is none
	// any more. release ends the request, and makes next fail.
	next    func() (watch.Event, error)
	release func()
	failed  func(error)

	conveyance
	lane    *lane
	timeout time.Duration // when the API server is to end the watch
	events  atomic.Int64  // that were taken
	intake  *intake
	ended   func() // called when it has

	out  chan watch.Event
	stop chan struct{}
	once sync.Once
}

// newPatientWatch reads the body of the answer, or, where client-go has that,
// what it makes of it.
func newPatientWatch(inner watch.Interface, a *answer, l *lane, timeout time.Duration, failed func(error)) *patientWatch {
	p := &patientWatch{
		failed: failed, lane: l, timeout: timeout, conveyance: a.conveyed(),
		out: make(chan watch.Event), stop: make(chan struct{}), ended: func() {},
	}
	body := a.take()
	p.release = func() {
		a.close()
		inner.Stop()
	}
	if body != nil {
		f := newFrames(body)
		p.next, p.intake = f.next, &f.intake
		return p
	}
	p.intake = &intake{}
	p.next = func() (watch.Event, error) {
		p.intake.waits()
		event, open := <-inner.ResultChan()
		p.intake.got(0)
		if !open {
			return event, io.EOF
		}
		return carried(event)
	}
	return p
}

func (p *patientWatch) ResultChan() <-chan watch.Event { return p.out }

// Stop may be called often, and before run.
func (p *patientWatch) Stop() {
	p.once.Do(func() {
		close(p.stop)
		p.release()
	})
}

// run passes events on until the watch ends, is stopped or is not read. What was
// read then and not taken comes again.
func (p *patientWatch) run() {
	defer close(p.out)
	began := time.Now()
	brings, how := meter{since: began}, broke
	defer func() {
		p.ended()
		p.leave(how, began, brings)
	}()
	defer p.Stop()
	patience := time.NewTimer(BlockedWatchTimeout)
	defer patience.Stop()
	for {
		event, err := p.next()
		if err != nil {
			if p.stopped() {
				how = stopped
				return
			}
			if errors.Is(err, io.EOF) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err) {
				return // the end of a watch is nothing unusual, however it comes
			}
			event = undecodable(err)
		}
		if event.Type == watch.Error {
			p.failed(apierrors.FromObject(event.Object))
			if err == nil {
				how = stopped // as who is told of it does, sooner or later
			}
		}
		select {
		case p.out <- event:
		default:
			patience.Reset(BlockedWatchTimeout)
			select {
			case p.out <- event:
			case <-p.stop:
				how = stopped
				return
			case <-patience.C:
				how = blocked
				return
			}
		}
		if err != nil {
			return
		}
		p.events.Add(1)
		brings.add()
	}
}

// ending is how a watch has ended.
type ending int

const (
	broke   ending = iota // it has ended on the other side, or in between
	stopped               // nobody wants it any more, it brings little, or an error
	blocked               // it was not read
)

// leave says what follows from how the watch has ended for the next one.
func (p *patientWatch) leave(how ending, began time.Time, brings meter) {
	now := time.Now()
	early := how == broke && now.Sub(began) < p.timeout-onTime
	switch {
	case p.missing: // there was none
	case p.dedicated && early && p.events.Load() < busyEvents:
		p.lane.refused()
	case p.dedicated:
		p.lane.leave(how != stopped)
	case p.multiplexed:
		p.lane.ended(early, how == blocked || how == broke && now.Sub(brings.much) < quietEvery)
	default: // it had a connection of its own all the same
		p.lane.ended(false, false)
	}
}

// watchQuiet ends a watch that has a connection of its own when it brings little,
// and returns when the watch has ended.
func (p *patientWatch) watchQuiet() {
	interval := tryFor
	look := time.NewTimer(interval)
	defer look.Stop()
	last, looked := int64(0), time.Now()
	for {
		select {
		case <-p.stop:
			return
		case <-look.C:
		}
		events := p.events.Load() - last
		last += events
		waited, longest, bytes := p.intake.look()
		quiet := events < quietEvents && bytes < quietBytes && waited > interval/2
		if interval == tryFor {
			quiet = events < busyEvents && bytes < busyBytes && longest >= idleFor
		}
		now := time.Now()
		// Where it is much later than it should be the process did not run: what
		// there is comes now.
		if slept := now.Sub(looked) > 2*interval; quiet && !slept {
			p.Stop()
			return
		}
		interval, looked = quietEvery, now
		look.Reset(interval)
	}
}

func (p *patientWatch) stopped() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}
