package sources

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
)

// Cluster is a connection to an API server that any number of sources share.
type Cluster struct {
	Config *rest.Config
	HTTP   *http.Client
	// Dedicated is for watches that bring much: it should give each request a
	// connection of its own, over HTTP/1.1, and not keep it. Where it is nil they
	// share what HTTP has.
	Dedicated *http.Client
	// History is asked before each watch whether what was heard of is still
	// there. Nil asks nothing.
	History *History
	// Presence is asked whether an object that left a selection still exists.
	Presence *Presence
	// Requests paces what they ask for. Where it is nil nobody waits for others.
	Requests *Requests
	// Feeds lets those who follow the same share a watch. Where it is nil
	// everybody has one.
	Feeds *Feeds
}

// bodies is the client for requests whose answers are not left to client-go.
func (c Cluster) bodies() *http.Client {
	client := *c.HTTP
	b := bodies{inner: transport(c.HTTP)}
	if c.Dedicated != nil {
		b.dedicated = transport(c.Dedicated)
	}
	client.Transport = b
	return &client
}

func transport(c *http.Client) http.RoundTripper {
	if c.Transport == nil {
		return http.DefaultTransport
	}
	return c.Transport
}

// Resource is what to follow, as its CRD describes it.
type Resource struct {
	CRD        types.UID // another CRD's objects are others, whatever they are called
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
// created. When it returns, no goroutine, informer or watch is left that was
// there for it alone. Errors of the API server go to the handler and are
// retried; Follow fails only where nothing could be started.
func Follow(ctx context.Context, cluster Cluster, r Resource, selection Selection, from Start, handler Handler) error {
	feeds := cluster.Feeds
	if feeds == nil {
		feeds = &Feeds{}
	}
	group := feeds.join(selected{r, selection})
	defer feeds.quit(group)
	if err := newReader(from, handler).follow(ctx, group, cluster.open); err != nil {
		return fmt.Errorf("informer for %s: %w", r.Kind, err)
	}
	return nil
}

// noTypes is the scheme of all caches: unstructured objects need none.
var noTypes = runtime.NewScheme()

// open starts the informer of a feed.
//
// Each has a cache of its own: a shared one waits for all its informers, and
// what controller-runtime has stopped cannot be started again
// (https://github.com/kubernetes-sigs/controller-runtime/issues/2983).
func (c Cluster) open(f *feed, from Start) error {
	what := f.group.selected
	options, err := what.selection.options()
	if err != nil {
		return fmt.Errorf("selection: %w", err)
	}
	running, cancel := context.WithCancel(context.Background())
	objects, err := cache.New(c.Config, cache.Options{
		HTTPClient:           c.bodies(),
		Scheme:               noTypes,
		Mapper:               mapper{what.resource},
		DefaultNamespaces:    options.DefaultNamespaces,
		DefaultLabelSelector: options.DefaultLabelSelector,
		DefaultFieldSelector: options.DefaultFieldSelector,
		NewInformer: func(lw toolscache.ListerWatcher, _ runtime.Object, _ time.Duration, _ toolscache.Indexers) toolscache.SharedIndexInformer {
			i := newInformer(lw, from, c, c.pick(what.resource, what.selection), f, f)
			i.running = running
			return i
		},
	})
	if err != nil {
		cancel()
		return err
	}
	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(what.resource.Kind)
	if _, err := objects.GetInformer(running, example, cache.BlockUntilSynced(false)); err != nil {
		cancel()
		return err
	}
	// RemoveInformer closes the informer's channel and does not wait.
	// Cancelling the cache and joining it does: Start returns when all its
	// informers have.
	f.stop = sync.OnceFunc(func() {
		_ = objects.RemoveInformer(running, example) // fails for what is of no kind; it was given an informer above
		cancel()
	})
	go func() {
		defer close(f.done)
		f.failed = objects.Start(running)
	}()
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
