package sources

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// tooSoon is the pause after a list that was refused with ErrTooSoon. The API
// server's own leases have it write something every 10 s at least.
const tooSoon = 250 * time.Millisecond

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

// listOnce gives a list to the handler: of what it does not know, where it knows
// some of it, and the API server has metadata for that; else of all objects.
func (l *listWatch) listOnce(ctx context.Context) (string, error) {
	defer l.requests.list()()
	options := metav1.ListOptions{Limit: firstPage}
	if l.pick != nil && l.handler.Knows(ctx) {
		resourceVersion, err := l.listUnknown(ctx, options)
		if !errors.Is(err, errNoMetadata) {
			return resourceVersion, err
		}
	}
	return l.listWhole(ctx, options)
}

// listWhole gives a list of all objects to the handler.
func (l *listWatch) listWhole(ctx context.Context, options metav1.ListOptions) (string, error) {
	pages := pages{requests: l.requests}
	for first := true; ; first = false {
		page, err := pages.read(ctx, l.inner.ListWithContext, options)
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
		options.Continue, options.Limit = page.Continue, l.requests.pageLimit(sizeOf(page.Objects), len(page.Objects), options.Limit)
	}
}
