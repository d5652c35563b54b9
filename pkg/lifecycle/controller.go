package lifecycle

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Retries of what the API server did not answer.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// crds tells the supervisor how each CRD is. What is there it takes from the
// cache. That one is gone, or is another than it was, it believes only from
// the API server itself: a cache may lag, and a deletion that was made of a
// cache's lag would be an invention.
type crds struct {
	cached     client.Reader
	live       client.Reader
	supervisor *Supervisor

	// seen has CRDs that were there when it was asked which are.
	seen chan event.GenericEvent

	mu    sync.Mutex
	known map[string]types.UID // the CRDs that are there, as was last told
}

// SetupWithManager makes the supervisor run while the manager leads, and the
// controller that tells it of CRDs. The manager's cache should Strip them.
func (s *Supervisor) SetupWithManager(m manager.Manager) error {
	c := &crds{cached: m.GetCache(), live: m.GetAPIReader(), supervisor: s, seen: make(chan event.GenericEvent), known: map[string]types.UID{}}
	s.present = c.present
	if err := m.Add(s); err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	concerned := predicate.NewPredicateFuncs(func(o client.Object) bool { return s.concerns(o.GetName()) })
	err := ctrl.NewControllerManagedBy(m).
		Named("customresourcedefinition").
		For(&apiextensions.CustomResourceDefinition{}).
		WatchesRawSource(source.Channel(c.seen, &handler.EnqueueRequestForObject{})).
		WithEventFilter(concerned).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 4,
			// The usual one lets a retry wait for a quarter of an hour.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
			// The process may make a manager more than once (tests do).
			SkipNameValidation: new(true),
			// An API server that is not reachable is waited for, not a reason to end.
			CacheSyncTimeout: time.Duration(math.MaxInt64),
		}).
		Complete(c)
	if err != nil {
		return fmt.Errorf("controller for CustomResourceDefinitions: %w", err)
	}
	return nil
}

// Reconcile tells the supervisor how the CRD of that name is.
func (c *crds) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	name := request.Name
	var object apiextensions.CustomResourceDefinition
	err := c.cached.Get(ctx, request.NamespacedName, &object)
	if apierrors.IsNotFound(err) || (err == nil && !c.expected(name, object.UID)) {
		object = apiextensions.CustomResourceDefinition{}
		err = c.live.Get(ctx, request.NamespacedName, &object)
	}
	switch {
	case apierrors.IsNotFound(err):
		version, err := c.absence(ctx, name)
		if err != nil {
			return reconcile.Result{}, err
		}
		c.note(name, "")
		return reconcile.Result{}, c.supervisor.observe(ctx, observation{name: name, absent: version})
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("CRD %s: %w", name, err)
	}
	c.note(name, object.UID)
	return reconcile.Result{}, c.supervisor.observe(ctx, observation{name: name, crd: FromObject(&object)})
}

// expected tells whether the CRD that the cache has may be believed: it is the
// one that was last told of. Another, and one that was not there before, is
// looked at once more, as the cache may be about to learn that it is gone.
func (c *crds) expected(name string, uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[name] == uid
}

// note remembers which CRD was told of; none where it is gone.
func (c *crds) note(name string, uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uid == "" {
		delete(c.known, name)
		return
	}
	c.known[name] = uid
}

// absence is the resource version at which the API server, asked for a
// consistent answer, has no CRD of that name. The GET that found none does not
// say when that was.
func (c *crds) absence(ctx context.Context, name string) (uint64, error) {
	list, err := c.list(ctx, client.MatchingFields{"metadata.name": name})
	if err != nil {
		return 0, fmt.Errorf("whether CRD %s is gone: %w", name, err)
	}
	if len(list.Items) > 0 {
		return 0, fmt.Errorf("CRD %s was gone a moment ago and is there again; asking once more", name)
	}
	return versionOf(list)
}

// present is the uid of each CRD that there is now, and the resource version
// that this is as of. The supervisor asks before it takes what the
// controller tells.
func (c *crds) present(ctx context.Context) (map[string]types.UID, uint64, error) {
	uids := map[string]types.UID{}
	var concerned []string
	for page := ""; ; {
		list, err := c.list(ctx, client.Limit(500), client.Continue(page))
		if err != nil {
			return nil, 0, err
		}
		for i := range list.Items {
			name, uid := list.Items[i].Name, list.Items[i].UID
			uids[name] = uid // also one of no route: it may be what a route means
			if c.supervisor.concerns(name) {
				c.note(name, uid)
				concerned = append(concerned, name)
			}
		}
		if page = list.Continue; page == "" {
			version, err := versionOf(list)
			if err == nil {
				go c.look(ctx, concerned)
			}
			return uids, version, err
		}
	}
}

// look has the controller look at CRDs that were there: one that is gone before
// the controller's cache begins to watch is never part of it.
func (c *crds) look(ctx context.Context, names []string) {
	for _, name := range names {
		crd := &apiextensions.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}}
		select {
		case c.seen <- event.GenericEvent{Object: crd}:
		case <-ctx.Done():
			return
		}
	}
}

// versionOf is the resource version of a list of CRDs.
func versionOf(list *metav1.PartialObjectMetadataList) (uint64, error) {
	version, err := strconv.ParseUint(list.ResourceVersion, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resource version %q of a list of CRDs: %w", list.ResourceVersion, err)
	}
	return version, nil
}

// list asks the API server for CRDs' metadata, consistently.
func (c *crds) list(ctx context.Context, options ...client.ListOption) (*metav1.PartialObjectMetadataList, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(apiextensions.SchemeGroupVersion.WithKind("CustomResourceDefinitionList"))
	return list, c.live.List(ctx, list, options...)
}
