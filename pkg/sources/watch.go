package sources

import (
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
)

// BlockedWatchTimeout is how long a watch stays open while nobody takes its
// next event. Go's HTTP/2 client holds up to 256 KiB of each stream that is not
// read; closed, it holds nothing, and the reflector watches again from the
// last event that was taken.
const BlockedWatchTimeout = 10 * time.Second

// patientWatch passes a watch on, sees the errors that come through it, and
// closes it when its reader has not come back for BlockedWatchTimeout. An
// event that was not taken by then is not lost: it comes again, because the
// next watch begins before it.
type patientWatch struct {
	inner  watch.Interface
	out    chan watch.Event
	stop   chan struct{}
	once   sync.Once
	failed func(error)
}

func newPatientWatch(inner watch.Interface, failed func(error)) *patientWatch {
	return &patientWatch{inner: inner, out: make(chan watch.Event), stop: make(chan struct{}), failed: failed}
}

func (p *patientWatch) ResultChan() <-chan watch.Event { return p.out }

// Stop may be called often, and before run.
func (p *patientWatch) Stop() { p.once.Do(func() { close(p.stop) }) }

// run passes events on until the watch ends, is stopped, or is not read.
func (p *patientWatch) run() {
	defer close(p.out)
	defer p.inner.Stop()
	patience := time.NewTimer(BlockedWatchTimeout)
	defer patience.Stop()
	for {
		var event watch.Event
		var open bool
		select {
		case event, open = <-p.inner.ResultChan():
			if !open {
				return
			}
		case <-p.stop:
			return
		}
		if event.Type == watch.Error {
			p.failed(apierrors.FromObject(event.Object))
		}
		select {
		case p.out <- event:
			continue
		default:
		}
		patience.Reset(BlockedWatchTimeout)
		select {
		case p.out <- event:
		case <-p.stop:
			return
		case <-patience.C:
			return
		}
	}
}
