package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/discovery"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/crbridge/crbridge/pkg/sources"
)

// crdCache knows whether the manager's cache of CRDs is complete, and if it is
// not, why.
type crdCache struct {
	api    *discovery.DiscoveryClient
	log    *slog.Logger
	synced func() bool
	last   atomic.Pointer[string]
}

func newCRDCache(cluster sources.Cluster, log *slog.Logger) (*crdCache, error) {
	api, err := discovery.NewDiscoveryClientForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &crdCache{api: api, log: log}, nil
}

// follow makes the cache hold the CRDs from the start, so that a standby's is
// as complete as a leader's. It does not wait for them.
func (c *crdCache) follow(ctx context.Context, objects cache.Cache) error {
	informer, err := objects.GetInformer(ctx, &apiextensions.CustomResourceDefinition{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("informer for CustomResourceDefinitions: %w", err)
	}
	c.synced = informer.HasSynced
	return nil
}

// probe asks the API server for CRDs, once a second until the cache has them,
// so that somebody says why it has not: the reflector behind the cache tells
// nobody of a connection that is refused.
func (c *crdCache) probe(ctx context.Context) {
	for !c.synced() {
		path := "/apis/" + apiextensions.SchemeGroupVersion.String() + "/customresourcedefinitions"
		err := c.api.RESTClient().Get().AbsPath(path).Param("limit", "1").Timeout(10 * time.Second).Do(ctx).Error()
		if err != nil && ctx.Err() == nil {
			c.tell(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// failed takes the errors of the cache's reflector. Before the first list is
// through, probe tells more.
func (c *crdCache) failed(_ context.Context, _ *toolscache.Reflector, err error) {
	if c.synced() {
		c.tell(err)
	}
}

// tell logs an error, and one that repeats once.
func (c *crdCache) tell(err error) {
	text := err.Error()
	if last := c.last.Swap(&text); last == nil || *last != text {
		c.log.Warn("following CRDs at the API server does not work; retrying", "error", err)
	}
}

// ready is nil once the cache has had a complete list.
func (c *crdCache) ready() error {
	if c.synced() {
		return nil
	}
	if last := c.last.Load(); last != nil {
		return fmt.Errorf("not synced, retrying: %s", *last)
	}
	return errors.New("not synced yet")
}
