package sources

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
)

// RewoundError says that the API server has an earlier state than one that was
// delivered: its etcd was restored from a backup. Resource versions then come
// once more, with other objects.
type RewoundError struct {
	Position uint64 // the resource version up to which everything was heard
	Is       uint64 // the newest one that there is
}

func (e *RewoundError) Error() string {
	return fmt.Sprintf("the API server is at resource version %d, and %d was delivered", e.Is, e.Position)
}

// History knows how far the API server's history goes. Many may ask at once:
// one request answers all who had asked before it was made.
type History struct {
	client metadata.Interface

	mu      sync.Mutex
	running bool
	next    *revisionCall // for those who ask while one is under way
}

// revisionCall is one request, and those who wait for it. When they have all
// gone, it is given up.
type revisionCall struct {
	ctx      context.Context
	giveUp   context.CancelFunc
	waiting  int
	done     chan struct{}
	revision uint64
	err      error
}

// NewHistory makes one for the cluster.
func NewHistory(c Cluster) (*History, error) {
	client, err := metadata.NewForConfigAndClient(c.Config, c.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for metadata: %w", err)
	}
	return &History{client: client}, nil
}

// Check fails with a *RewoundError where the API server has not got as far as
// the position. A watch from there would wait, and say nothing of what changes
// until then.
func (h *History) Check(ctx context.Context, position uint64) error {
	revision, err := h.revision(ctx)
	if err != nil {
		return err
	}
	if revision < position {
		return &RewoundError{Position: position, Is: revision}
	}
	return nil
}

// revision is the newest resource version, as of a moment after the call.
func (h *History) revision(ctx context.Context) (uint64, error) {
	h.mu.Lock()
	if h.next == nil {
		h.next = &revisionCall{done: make(chan struct{})}
		h.next.ctx, h.next.giveUp = context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	}
	call := h.next
	call.waiting++
	if !h.running {
		h.running = true
		go h.run()
	}
	h.mu.Unlock()
	select {
	case <-call.done:
		return call.revision, call.err
	case <-ctx.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		if call.waiting--; call.waiting == 0 {
			call.giveUp()
			if h.next == call {
				h.next = nil // who comes now asks anew
			}
		}
		return 0, ctx.Err()
	}
}

// run asks until nobody waits.
func (h *History) run() {
	for {
		h.mu.Lock()
		call := h.next
		h.next = nil
		if call == nil {
			h.running = false
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		call.revision, call.err = h.ask(call.ctx)
		call.giveUp()
		close(call.done)
	}
}

// askTimeout bounds one request, and the wait for the one before it; those who
// wait may go before.
const askTimeout = 30 * time.Second

// ask lists CustomResourceDefinitions, which every bridge may: a consistent
// list has the resource version of the whole store, whatever is listed. One
// item is enough.
func (h *History) ask(ctx context.Context) (uint64, error) {
	crds := schema.GroupVersionResource{Group: apiextensions.GroupName, Version: "v1", Resource: "customresourcedefinitions"}
	list, err := h.client.Resource(crds).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("how far the API server's history goes: %w", err)
	}
	revision, err := strconv.ParseUint(list.ResourceVersion, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resource version %q of a list of CustomResourceDefinitions: %w", list.ResourceVersion, err)
	}
	return revision, nil
}
