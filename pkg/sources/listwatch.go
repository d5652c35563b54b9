package sources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/crbridge/crbridge/pkg/object"
)

// A page is what of a list is in memory at once, and stays there while the
// handler blocks. It should have pageBytes of JSON, a round trip's worth of
// work. Until an object's size is known a page has firstPage of them.
const (
	pageBytes = 256 << 10
	firstPage = 10
	mostPage  = 500
)

// tooSoon is the pause after a list that was refused with ErrTooSoon. The API
// server's own leases have it write something every 10 s at least.
const tooSoon = 250 * time.Millisecond

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
//     older than what was already heard), given to the handler page by page.
//     The reflector gets an empty list that has its resource version.
type listWatch struct {
	inner   toolscache.ListerWatcherWithContext
	handler Handler
	gate    gate
	resume  string // where the first watch begins; empty: list first
	history *History
	synced  func() // called once the first list, or its replacement, is through

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

// list answers the reflector's list; see listWatch.
func (l *listWatch) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	if !l.enter() {
		return nil, errClosed
	}
	defer l.running.Done()
	version, known := l.position(options.ResourceVersion)
	if !known || l.surveys() {
		if err := l.gate.beforeList(ctx); err != nil {
			return nil, err
		}
		listed, err := l.listAll(ctx)
		if err != nil {
			if ctx.Err() == nil {
				l.handler.Condition(err)
			}
			return nil, err
		}
		if !known {
			version = listed
		}
		l.listDone()
		l.handler.Condition(nil)
	}
	l.synced()
	empty := &unstructured.UnstructuredList{}
	empty.SetResourceVersion(version)
	return empty, nil
}

// listAll gives a complete list to the handler. A list that takes longer than
// the API server keeps its history (the handler may have blocked) begins
// again; the handler knows by then what it has heard, so each time less is
// left to do.
func (l *listWatch) listAll(ctx context.Context) (resourceVersion string, err error) {
	for {
		resourceVersion, err = l.listOnce(ctx)
		switch {
		case err == nil || ctx.Err() != nil:
			return resourceVersion, err
		case errors.Is(err, ErrTooSoon):
			select {
			case <-time.After(tooSoon):
			case <-ctx.Done():
			}
		case !apierrors.IsResourceExpired(err):
			return resourceVersion, err
		}
	}
}

func (l *listWatch) listOnce(ctx context.Context) (string, error) {
	options := metav1.ListOptions{Limit: firstPage}
	var pages pages
	for first := true; ; first = false {
		page, err := pages.read(ctx, l.inner, options)
		if err != nil {
			return "", err
		}
		if first { // all pages are of the same moment
			if err := l.handler.ListStarted(ctx, page.ResourceVersion); err != nil {
				return "", err
			}
		}
		for _, o := range page.Objects {
			l.handler.Listed(ctx, o)
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if page.Continue == "" {
			l.handler.ListFinished(ctx, page.ResourceVersion)
			return page.ResourceVersion, ctx.Err()
		}
		options.Continue, options.Limit = page.Continue, pageLimit(page.Objects, options.Limit)
	}
}

// pageLimit is how many objects the next page should have, going by the size
// of this page's. The next page is at most four times as large as this one, in
// case that one was no measure.
func pageLimit(page []*object.Object, limit int64) int64 {
	size := int64(0)
	for _, o := range page {
		size += int64(len(o.JSON)) + 1
	}
	if size == 0 {
		return limit
	}
	return max(1, min(pageBytes*int64(len(page))/size, 4*limit, mostPage))
}

// pages reads pages into the same memory, one after the other.
type pages struct {
	scanner object.Scanner
	text    bytes.Buffer
}

// read asks for a page. Its objects are good until the next one is read.
func (p *pages) read(ctx context.Context, from toolscache.ListerWatcherWithContext, options metav1.ListOptions) (object.Page, error) {
	asking, a := asking(ctx, emptyList)
	defer a.close()
	decoded, err := from.ListWithContext(asking, options)
	if err != nil {
		return object.Page{}, err
	}
	body := a.take()
	if body == nil {
		return pageOf(decoded)
	}
	p.text.Reset()
	if _, err := p.text.ReadFrom(body); err != nil {
		return object.Page{}, fmt.Errorf("reading a list: %w", err)
	}
	page, err := p.scanner.List(p.text.Bytes())
	if !errors.Is(err, object.ErrUnusual) {
		return page, err
	}
	decoded, _, err = unstructured.UnstructuredJSONScheme.Decode(p.text.Bytes(), nil, nil)
	if err != nil {
		return object.Page{}, fmt.Errorf("a list: %w", err)
	}
	return pageOf(decoded)
}

// pageOf is a page that Kubernetes' own decoders have read.
func pageOf(decoded runtime.Object) (p object.Page, err error) {
	list, ok := decoded.(*unstructured.UnstructuredList)
	if !ok {
		return p, fmt.Errorf("%T where *unstructured.UnstructuredList was asked for", decoded)
	}
	p.ResourceVersion, p.Continue = list.GetResourceVersion(), list.GetContinue()
	p.Objects = make([]*object.Object, len(list.Items))
	for i := range list.Items {
		if p.Objects[i], err = object.Of(list.Items[i].Object); err != nil {
			return p, err
		}
	}
	return p, nil
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
	asking, a := asking(ctx, noEvents)
	w, err := l.open(asking, options)
	if err != nil {
		a.close()
		l.running.Done()
		l.failed(ctx, err)
		return nil, err
	}
	l.handler.Condition(nil)
	l.gate.granted(options.ResourceVersion)
	l.catchesUp(ctx)
	p := newPatientWatch(w, a, func(err error) { l.failed(ctx, err) })
	go func() {
		defer l.running.Done()
		p.run()
	}()
	return p, nil
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
	return l.inner.WatchWithContext(ctx, options)
}

// catchesUp tells the handler in a while that the watch should have caught up,
// if it has to.
func (l *listWatch) catchesUp(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.behind {
		return
	}
	l.behind = false
	l.running.Go(func() {
		select {
		case <-time.After(catchUp):
			l.handler.CaughtUp(ctx)
		case <-ctx.Done():
		}
	})
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
