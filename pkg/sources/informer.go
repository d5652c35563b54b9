package sources

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// retryBackoff paces the reflector while the API server refuses to list or
// watch. The cap is how long a right that was granted, or an API server that
// came back, may go unnoticed (and half as much again for the jitter).
func retryBackoff() *wait.Backoff {
	return &wait.Backoff{Duration: 250 * time.Millisecond, Cap: 10 * time.Second, Steps: 20, Factor: 2, Jitter: 0.5}
}

// Informer is an informer in controller-runtime's sense that keeps no object:
// it runs client-go's Reflector and hands what that brings to a Handler. It
// can be run once. What needs objects in memory (event handlers, indexers,
// transforms) it refuses; its store is always empty.
type Informer struct {
	// running, where it is there, is done with the context that RunWithContext is
	// given. controller-runtime makes that of a channel, and to derive one from
	// it takes a goroutine.
	running context.Context
	lw      *listWatch
	handler Handler
	empty   toolscache.Indexer

	reflector atomic.Pointer[toolscache.Reflector]
	stopped   atomic.Bool
	syncOnce  sync.Once
	synced    chan struct{}
}

var _ toolscache.SharedIndexInformer = (*Informer)(nil)

// NewInformer returns an informer for the objects that lw lists and watches. It
// watches from the start's position; where that is empty, or the API server no
// longer has the history from there, it lists first, all objects. The history
// may be nil.
func NewInformer(lw toolscache.ListerWatcher, from Start, history *History, handler Handler) *Informer {
	return newInformer(lw, from, Cluster{History: history}, nil, handler, ungated{})
}

// newInformer is NewInformer, whose lists can pick objects, behind a gate.
func newInformer(lw toolscache.ListerWatcher, from Start, c Cluster, pick pick, handler Handler, gate gate) *Informer {
	i := &Informer{
		handler: handler,
		empty:   toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{}),
		synced:  make(chan struct{}),
	}
	i.lw = &listWatch{
		inner:    toolscache.ToListerWatcherWithContext(lw),
		handler:  handler,
		gate:     gate,
		pick:     pick,
		resume:   from.Position,
		survey:   from.Survey && from.Position != "",
		history:  c.History,
		requests: c.Requests,
		// From a position on there may be much: nobody watched meanwhile.
		lane:   lane{behind: from.Position != ""},
		synced: func() { i.syncOnce.Do(func() { close(i.synced) }) },
	}
	if i.lw.requests == nil {
		i.lw.requests = NewRequests()
	}
	if c.Dedicated != nil {
		i.lw.lane.slots = i.lw.requests.dedicated
	}
	return i
}

// RunWithContext lists and watches until ctx is done, and returns when none
// of its goroutines is left and its watch is closed.
//
// What it has on the stack stays there for as long as it runs, which is why
// begin is no part of it. Requests have the stack grow to 16 KiB; Go gives half
// of that back where less than a quarter is used, and that is close.
func (i *Informer) RunWithContext(ctx context.Context) {
	ctx, cancel := i.begin(ctx)
	defer i.end(cancel)
	i.reflector.Load().RunWithContext(ctx)
}

// begin makes the reflector, and what it runs with.
func (i *Informer) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	if i.running != nil {
		ctx = i.running
	}
	ctx, cancel := context.WithCancel(ctx)
	// The handler hears of every error, so the reflector's own log lines, one
	// for each retry, say nothing new.
	quiet := logr.Discard()
	ctx = klog.NewContext(ctx, quiet)
	i.reflector.Store(toolscache.NewReflectorWithOptions(i.lw.forReflector(), &carrier{}, &store{ctx: ctx, handler: i.handler},
		toolscache.ReflectorOptions{Logger: &quiet, Name: "crbridge", Backoff: retryBackoff()}))
	return ctx, cancel
}

// end waits until nothing is left that the informer started.
func (i *Informer) end(cancel context.CancelFunc) {
	cancel()
	i.lw.close()
	i.stopped.Store(true)
}

// Run is RunWithContext for those who have a channel.
func (i *Informer) Run(stop <-chan struct{}) { i.RunWithContext(wait.ContextForChannel(stop)) }

// HasSynced tells whether the handler has been given the first list, or the
// watch from the start's position needed none.
func (i *Informer) HasSynced() bool {
	select {
	case <-i.synced:
		return true
	default:
		return false
	}
}

// HasSyncedChecker is HasSynced for those who wait.
func (i *Informer) HasSyncedChecker() toolscache.DoneChecker { return syncedChecker(i.synced) }

type syncedChecker chan struct{}

func (syncedChecker) Name() string            { return "crbridge informer" }
func (c syncedChecker) Done() <-chan struct{} { return c }

// IsStopped tells whether the informer has run and ended.
func (i *Informer) IsStopped() bool { return i.stopped.Load() }

// LastSyncResourceVersion is where the reflector is.
func (i *Informer) LastSyncResourceVersion() string {
	if r := i.reflector.Load(); r != nil {
		return r.LastSyncResourceVersion()
	}
	return ""
}

// GetStore is always empty.
func (i *Informer) GetStore() toolscache.Store { return i.empty }

// GetIndexer is always empty.
func (i *Informer) GetIndexer() toolscache.Indexer { return i.empty }

// GetController is nil: there is no queue between the reflector and the handler.
func (i *Informer) GetController() toolscache.Controller { return nil }

var errKeepsNothing = errors.New("sources.Informer keeps no objects; its Handler hears of every change")

// AddEventHandler is refused.
func (i *Informer) AddEventHandler(toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	return nil, errKeepsNothing
}

// AddEventHandlerWithResyncPeriod is refused.
func (i *Informer) AddEventHandlerWithResyncPeriod(toolscache.ResourceEventHandler, time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	return nil, errKeepsNothing
}

// AddEventHandlerWithOptions is refused.
func (i *Informer) AddEventHandlerWithOptions(toolscache.ResourceEventHandler, toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	return nil, errKeepsNothing
}

// RemoveEventHandler is refused, as there is none.
func (i *Informer) RemoveEventHandler(toolscache.ResourceEventHandlerRegistration) error {
	return errKeepsNothing
}

// AddIndexers is refused.
func (i *Informer) AddIndexers(toolscache.Indexers) error { return errKeepsNothing }

// SetTransform is accepted where there is nothing to transform.
func (i *Informer) SetTransform(transform toolscache.TransformFunc) error {
	if transform == nil {
		return nil
	}
	return errKeepsNothing
}

// SetWatchErrorHandler is refused: the Handler hears of every error.
func (i *Informer) SetWatchErrorHandler(toolscache.WatchErrorHandler) error { return errKeepsNothing }

// SetWatchErrorHandlerWithContext is refused: the Handler hears of every error.
func (i *Informer) SetWatchErrorHandlerWithContext(toolscache.WatchErrorHandlerWithContext) error {
	return errKeepsNothing
}
