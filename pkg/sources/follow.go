package sources

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
)

// Cluster is a connection to an API server that any number of sources share.
type Cluster struct {
	Config *rest.Config
	HTTP   *http.Client
	// History is asked before each watch whether what was heard of is still
	// there. Nil asks nothing.
	History *History
	// Presence is asked whether an object that left a selection still exists.
	Presence *Presence
}

// bodies is the client for requests whose answers are not left to client-go.
func (c Cluster) bodies() *http.Client {
	client := *c.HTTP
	inner := client.Transport
	if inner == nil {
		inner = http.DefaultTransport
	}
	client.Transport = bodies{inner}
	return &client
}

// Resource is what to follow, as its CRD describes it.
type Resource struct {
	Kind       schema.GroupVersionKind
	Plural     string
	Namespaced bool
}

// Selection says which objects of a resource are followed. The API server
// evaluates it.
type Selection struct {
	Namespace string // empty: all
	// Labels and Fields are selectors, as the API server takes them. Empty
	// ones select everything.
	Labels, Fields string
}

// Start is where following begins.
type Start struct {
	// Position is the resource version up to which the handler has heard of
	// everything. Where it is empty, or the API server no longer has the
	// history from there, there is a list first, with which the handler
	// compares what it knows.
	Position string
	// Survey asks for a list also where there is a position to watch from. The
	// watch begins at the position all the same, and tells of all that the
	// list has and the handler has not heard of.
	Survey bool
}

// Follow hands everything that happens to the resource's selected objects to
// the handler until ctx is done. An object that leaves the selection is handed
// over like one that was deleted, and one that comes into it like one that was
// created. When it returns, its informer has been removed,
// its watch is closed and no goroutine of it is left. Errors of the API server
// go to the handler and are retried; Follow fails only where nothing could be
// started.
//
// Each call has a cache of its own: a shared one waits for all its informers,
// and what controller-runtime has stopped cannot be started again
// (https://github.com/kubernetes-sigs/controller-runtime/issues/2983).
func Follow(ctx context.Context, cluster Cluster, r Resource, selected Selection, from Start, handler Handler) error {
	options, err := selected.options()
	if err != nil {
		return fmt.Errorf("selection of %s: %w", r.Kind, err)
	}
	objects, err := cache.New(cluster.Config, cache.Options{
		HTTPClient:           cluster.bodies(),
		Scheme:               runtime.NewScheme(),
		Mapper:               r.mapper(),
		DefaultNamespaces:    options.DefaultNamespaces,
		DefaultLabelSelector: options.DefaultLabelSelector,
		DefaultFieldSelector: options.DefaultFieldSelector,
		NewInformer: func(lw toolscache.ListerWatcher, _ runtime.Object, _ time.Duration, _ toolscache.Indexers) toolscache.SharedIndexInformer {
			return newInformer(lw, cluster.pick(r, selected), from, cluster.History, handler)
		},
	})
	if err != nil {
		return fmt.Errorf("cache for %s: %w", r.Kind, err)
	}
	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(r.Kind)
	if _, err := objects.GetInformer(ctx, example, cache.BlockUntilSynced(false)); err != nil {
		return fmt.Errorf("informer for %s: %w", r.Kind, err)
	}

	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- objects.Start(running) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		// RemoveInformer closes the informer's channel and does not wait.
		// Cancelling the cache and joining it does: Start returns when all
		// its informers have.
		err = objects.RemoveInformer(running, example)
		cancel()
		if failed := <-ended; err == nil {
			err = failed
		}
	}
	if err != nil {
		return fmt.Errorf("informer for %s: %w", r.Kind, err)
	}
	return nil
}

// options are the parts of a cache's options that select.
func (s Selection) options() (o cache.Options, err error) {
	if s.Namespace != "" {
		o.DefaultNamespaces = map[string]cache.Config{s.Namespace: {}}
	}
	if s.Labels != "" {
		if o.DefaultLabelSelector, err = labels.Parse(s.Labels); err != nil {
			return o, fmt.Errorf("label selector: %w", err)
		}
	}
	if s.Fields != "" {
		if o.DefaultFieldSelector, err = fields.ParseSelector(s.Fields); err != nil {
			return o, fmt.Errorf("field selector: %w", err)
		}
	}
	return o, nil
}

// mapper knows just this resource, so that no discovery is asked: the CRD has
// said all there is to know, and discovery lags behind it.
func (r Resource) mapper() meta.RESTMapper {
	scope := meta.RESTScopeRoot
	if r.Namespaced {
		scope = meta.RESTScopeNamespace
	}
	plural := r.Kind.GroupVersion().WithResource(r.Plural)
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{r.Kind.GroupVersion()})
	m.AddSpecific(r.Kind, plural, plural, scope)
	return m
}
