package sources

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
)

// catchUp is how long the watch that follows a survey has until its handler is
// told that it should have caught up. The API server sends at once what its
// cache has; when there is no more of it, it does not say.
const catchUp = 2 * time.Second

// gate is asked before an informer lists and watches, and told when a watch
// was granted.
type gate interface {
	// beforeList and beforeWatch return when what was handed over before has
	// been taken; an error keeps the informer from going on.
	beforeList(ctx context.Context) error
	beforeWatch(ctx context.Context) error
	granted(resourceVersion string)
}

// ungated is where what is handed over is taken at once.
type ungated struct{}

func (ungated) beforeList(context.Context) error  { return nil }
func (ungated) beforeWatch(context.Context) error { return nil }
func (ungated) granted(string)                    {}

// listWatch stands between the reflector and the API server. A list that the
// reflector asks for is
//
//   - answered without asking, where a position to watch from is known: nothing
//     is listed, and the watch brings all that happened since; or, once, when
//     a survey has been given to the handler like a list;
//   - otherwise a consistent list (no resource version, so that it cannot be
//     older than what was already heard), given to the handler page by page; of
//     metadata, and then of what the handler does not know, where it knows some.
//     The reflector gets an empty list that has its resource version.
type listWatch struct {
	inner    toolscache.ListerWatcherWithContext
	handler  Handler
	gate     gate
	pick     pick   // nil: a list has all objects
	resume   string // where the first watch begins; empty: list first
	history  *History
	requests *Requests
	lane     lane
	synced   func() // called once the first list, or its replacement, is through

	mu      sync.Mutex
	survey  bool // a list is wanted before the first watch, although that begins at resume
	behind  bool // the next watch has to catch up with the survey
	closed  bool
	expired bool // the API server no longer has the history from the reflector's position
	running sync.WaitGroup
}

// forReflector is the listWatch in the form that the reflector takes.
func (l *listWatch) forReflector() toolscache.ListerWatcher {
	return listThenWatch{&toolscache.ListWatch{ListWithContextFunc: l.list, WatchFuncWithContext: l.watch}}
}

// listThenWatch tells the reflector to list and then watch, and not to gather
// a streamed list in memory.
type listThenWatch struct{ *toolscache.ListWatch }

// IsWatchListSemanticsUnSupported is what the reflector asks by that name.
func (listThenWatch) IsWatchListSemanticsUnSupported() bool { return true }

// enter counts a call in, unless the informer has ended. The reflector leaves
// the goroutine of a list behind when it is stopped; close waits for it.
func (l *listWatch) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.running.Add(1)
	return true
}

// close waits until nothing started here is running. The context that the
// reflector ran with must be done.
func (l *listWatch) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.running.Wait()
}

var errClosed = errors.New("the informer has ended")

// position is where the reflector can watch from without a list.
func (l *listWatch) position(asked string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.survey: // the watch after it begins there, however often a request for its list was refused
		return l.resume, true
	case l.expired || asked == "":
		return "", false
	case asked == "0": // the reflector's word for "I have none yet"
		return l.resume, l.resume != ""
	default:
		return asked, true
	}
}

func (l *listWatch) setExpired() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expired = true
}

func (l *listWatch) surveys() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.survey
}

func (l *listWatch) listDone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind = l.survey
	l.expired, l.survey = false, false
}

// watch opens a watch that gives up when it is not read.
func (l *listWatch) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if !l.enter() {
		return nil, errClosed
	}
	if err := l.gate.beforeWatch(ctx); err != nil {
		l.running.Done()
		return nil, err
	}
	wanted := eventsWanted
	wanted.dedicated = l.lane.begin()
	asking, a := asking(ctx, wanted)
	w, err := l.open(asking, options)
	if err != nil {
		l.away(wanted.dedicated)
		a.close()
		l.running.Done()
		l.failed(ctx, err)
		return nil, err
	}
	l.handler.Condition(nil)
	l.gate.granted(options.ResourceVersion)
	p := newPatientWatch(w, a, &l.lane, timeoutOf(options), func(err error) { l.failed(ctx, err) })
	switch {
	case p.missing: // client-go takes a server that hangs up for a watch that has ended
		l.away(wanted.dedicated)
	case p.dedicated:
		l.running.Go(p.watchQuiet)
	case wanted.dedicated: // that was not to be had
		l.lane.refused()
	}
	if !p.missing {
		l.requests.watch(p.dedicated)
		p.ended = l.catchesUp(ctx)
	}
	go func() {
		defer l.running.Done()
		p.run()
	}()
	return p, nil
}

// away notes that there was no watch to be had, over whatever connection.
func (l *listWatch) away(dedicated bool) {
	if dedicated {
		l.lane.leave(true)
		return
	}
	l.lane.away()
}

// timeoutOf is when the API server is to end a watch.
func timeoutOf(options metav1.ListOptions) time.Duration {
	if options.TimeoutSeconds == nil {
		return 0
	}
	return time.Duration(*options.TimeoutSeconds) * time.Second
}

// open asks for a watch, if what was heard of is part of the API server's
// history: from a version that is yet to come, a watch is granted as well.
func (l *listWatch) open(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if l.history != nil {
		position, err := strconv.ParseUint(options.ResourceVersion, 10, 64)
		if err == nil {
			err = l.history.Check(ctx, position)
		}
		if err != nil {
			return nil, err
		}
	}
	defer l.requests.turn(ctx)()
	return l.inner.WatchWithContext(ctx, options)
}

// catchesUp tells the handler in a while that the watch should have caught up, if
// it has to; unless that has ended before, as the function that is returned says.
func (l *listWatch) catchesUp(ctx context.Context) (ended func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.behind {
		return func() {}
	}
	watching, cancel := context.WithCancel(ctx)
	l.running.Go(func() {
		defer cancel()
		select {
		case <-time.After(catchUp):
			if l.caughtUp() {
				l.handler.CaughtUp(ctx)
			}
		case <-watching.Done():
		}
	})
	return cancel
}

// caughtUp tells whether the handler has yet to be told.
func (l *listWatch) caughtUp() (yet bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	yet, l.behind = l.behind, false
	return yet
}

// failed notes why a watch was refused or ended. That the history is gone is
// no trouble: a list follows.
func (l *listWatch) failed(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		l.setExpired()
	default:
		l.handler.Condition(err)
	}
}
