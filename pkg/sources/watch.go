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
	lane   *lane
	events atomic.Int64 // that were taken

	out  chan watch.Event
	stop chan struct{}
	once sync.Once
}

// newPatientWatch reads the body of the answer, or, where client-go has that,
// what it makes of it.
func newPatientWatch(inner watch.Interface, a *answer, l *lane, failed func(error)) *patientWatch {
	p := &patientWatch{failed: failed, lane: l, conveyance: a.conveyed(), out: make(chan watch.Event), stop: make(chan struct{})}
	body := a.take()
	p.release = func() {
		a.close()
		inner.Stop()
	}
	if body != nil {
		p.next = newFrames(body).next
		return p
	}
	p.next = func() (watch.Event, error) {
		event, open := <-inner.ResultChan()
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

// run passes events on until the watch ends, is stopped, is not read, or is to
// have a connection of its own. What was read then and not taken comes again.
func (p *patientWatch) run() {
	defer close(p.out)
	defer p.Stop()
	if p.dedicated {
		defer func() {
			if p.events.Load() < busyEvents {
				p.lane.leaveDedicated(false)
			}
		}()
	}
	brings := meter{since: time.Now()}
	patience := time.NewTimer(BlockedWatchTimeout)
	defer patience.Stop()
	for {
		event, err := p.next()
		if err != nil {
			if p.stopped() || errors.Is(err, io.EOF) || utilnet.IsProbableEOF(err) || utilnet.IsTimeout(err) {
				return // the end of a watch is nothing unusual, however it comes
			}
			event = undecodable(err)
		}
		if event.Type == watch.Error {
			p.failed(apierrors.FromObject(event.Object))
		}
		select {
		case p.out <- event:
		default:
			patience.Reset(BlockedWatchTimeout)
			select {
			case p.out <- event:
			case <-p.stop:
				return
			case <-patience.C:
				return
			}
		}
		if err != nil {
			return
		}
		p.events.Add(1)
		if p.multiplexed && brings.add() && p.lane.leaveShared() {
			return
		}
	}
}

// watchQuiet ends a watch that has a connection of its own when it brings little,
// and returns when the watch has ended.
func (p *patientWatch) watchQuiet() {
	ticker := time.NewTicker(quietEvery)
	defer ticker.Stop()
	for last := int64(0); ; last = p.events.Load() {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
		}
		if p.events.Load()-last < quietEvents {
			p.lane.leaveDedicated(true)
			p.Stop()
			return
		}
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
