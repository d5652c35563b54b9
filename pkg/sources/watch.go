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

// onTime is how much before its time the API server may end a watch: that is
// counted from when it was asked for.
const onTime = 10 * time.Second

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
	waits   atomic.Bool   // for the API server to send one

	out  chan watch.Event
	stop chan struct{}
	once sync.Once
}

// newPatientWatch reads the body of the answer, or, where client-go has that,
// what it makes of it.
func newPatientWatch(inner watch.Interface, a *answer, l *lane, timeout time.Duration, failed func(error)) *patientWatch {
	p := &patientWatch{
		failed: failed, lane: l, timeout: timeout, conveyance: a.conveyed(),
		out: make(chan watch.Event), stop: make(chan struct{}),
	}
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

// run passes events on until the watch ends, is stopped or is not read. What was
// read then and not taken comes again.
func (p *patientWatch) run() {
	defer close(p.out)
	began := time.Now()
	brings, how := meter{since: began}, broke
	defer func() { p.leave(how, began, brings) }()
	defer p.Stop()
	patience := time.NewTimer(BlockedWatchTimeout)
	defer patience.Stop()
	for {
		p.waits.Store(true)
		event, err := p.next()
		p.waits.Store(false)
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
	stopped               // nobody wants it any more, or it brings little
	blocked               // it was not read
)

// leave says what follows from how the watch has ended for the next one.
func (p *patientWatch) leave(how ending, began time.Time, brings meter) {
	now := time.Now()
	switch {
	case !p.dedicated:
		early := now.Sub(began) < p.timeout-onTime
		p.lane.ended(p.multiplexed && how != stopped && (early || now.Sub(brings.much) < quietEvery))
	case how == broke && p.events.Load() < busyEvents:
		p.lane.refused()
	default:
		p.lane.leave(how != stopped)
	}
}

// watchQuiet ends a watch that has a connection of its own when it brings little,
// and returns when the watch has ended. One whose reader is slow is left alone.
func (p *patientWatch) watchQuiet() {
	look := time.NewTimer(tryFor)
	defer look.Stop()
	for last, least := int64(0), busyEvents; ; last, least = p.events.Load(), quietEvents {
		select {
		case <-p.stop:
			return
		case <-look.C:
		}
		if p.events.Load()-last < least && p.waits.Load() {
			p.Stop()
			return
		}
		look.Reset(quietEvery)
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
