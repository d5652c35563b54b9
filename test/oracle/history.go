package oracle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// retryInterval is how long a recorder waits before it asks again a server
	// that gave no answer, or not the one that it waits for.
	retryInterval = 20 * time.Millisecond

	// maxBackoff bounds how long a server may be back before it is noticed.
	maxBackoff = 500 * time.Millisecond

	// requestTimeout bounds one question to a server: one that is paused
	// accepts connections and answers nothing.
	requestTimeout = 5 * time.Second
)

// ErrClosed is returned by what waits for a recorder that is closed.
var ErrClosed = errors.New("the recorder is closed")

// Resource is a kind of object, as in the name of its CRD.
type Resource struct{ Group, Plural string }

func (r Resource) String() string { return r.Plural + "." + r.Group }

// Version is one entry in the history of an object: it was written, or deleted.
type Version struct {
	Resource
	Namespace string // empty for an object of the whole cluster
	Name      string
	UID       string
	Created   int64 // revision at which the object was created
	Revision  int64 // of this entry; the resource version, to Kubernetes
	Deleted   bool
	Content   Content // of a deletion: what was deleted
}

// Key is the object's name as events have it in their subject.
func (v *Version) Key() string {
	if v.Namespace == "" {
		return v.Name
	}
	return v.Namespace + "/" + v.Name
}

// Past is what a history has recorded: every version up to a revision, those of
// one object in order.
type Past struct {
	Revision int64
	Versions []Version
}

// History records every version of every object below some prefixes of etcd.
// It reads what etcd's own watch says, from the first revision on, through
// outages and restarts of etcd. Either it misses nothing or Err says so.
//
// It cannot see that etcd was restored from a backup and has grown beyond
// what was recorded before the next Sync; a Sync before that finds it out.
type History struct {
	client *clientv3.Client
	cancel context.CancelFunc
	watch  sync.WaitGroup

	asking sync.Mutex // held while streams are asked

	mu       sync.Mutex                      // guards what follows
	streams  map[string]pb.Watch_WatchClient // by prefix
	versions []Version
	alive    map[string]Version // by etcd key: the newest version of what is there
	recorded map[string]int64   // by prefix: up to which revision
	err      error
	changed  chan struct{} // closed, and made anew, when any of this changes
}

// Record starts to record what is below the prefixes, for example
// /registry/shop.example.com/orders/, of which none may be within another.
// Ctx bounds the recording; Close ends it and must be called. Etcd need not be
// there yet. If it has compacted its first revisions away already, Err says so.
func Record(ctx context.Context, endpoint string, prefixes ...string) (*History, error) {
	if len(prefixes) == 0 {
		return nil, errors.New("no prefix to record")
	}
	for i, p := range prefixes {
		for j, q := range prefixes {
			if i != j && strings.HasPrefix(p, q) {
				return nil, fmt.Errorf("prefix %s is within %s", p, q)
			}
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint},
		Logger:    zap.NewNop(), // outages are what it is for
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: retryInterval, Multiplier: 2, MaxDelay: maxBackoff},
		})},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	h := &History{
		client:   client,
		cancel:   cancel,
		alive:    map[string]Version{},
		recorded: map[string]int64{},
		streams:  map[string]pb.Watch_WatchClient{},
		changed:  make(chan struct{}),
	}
	for _, prefix := range prefixes {
		h.recorded[prefix] = 0
	}
	for _, prefix := range prefixes {
		h.watch.Go(func() { h.follow(ctx, prefix) })
	}
	return h, nil
}

// Close ends the recording and waits until it has. What was recorded stays.
func (h *History) Close() error {
	h.cancel()
	err := h.client.Close()
	h.watch.Wait()
	h.fail(ErrClosed)
	if errors.Is(err, context.Canceled) {
		return nil // that is how the client reports that it was closed
	}
	return err
}

// Err returns why the recording is incomplete or has ended, or nil.
func (h *History) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Past returns what is recorded.
func (h *History) Past() Past {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Past{Revision: h.everywhere(), Versions: slices.Clone(h.versions)}
}

// Sync waits until everything is recorded up to the revision that etcd has now,
// and returns that. It waits through an outage of etcd, until ctx ends.
func (h *History) Sync(ctx context.Context) (int64, error) {
	before, _, _ := h.progress()
	target, err := h.current(ctx)
	if err != nil {
		return 0, err
	}
	if target < before {
		h.fail(fmt.Errorf("etcd is at revision %d, and %d is recorded: it was restored from a backup", target, before))
	}
	for {
		revision, changed, err := h.progress()
		switch {
		case err != nil:
			return 0, err
		case revision >= target:
			return target, nil
		}
		// Where nothing is written, etcd says how far it is only when asked. A
		// question may be lost with a connection, so it is asked again.
		h.requestProgress()
		select {
		case <-changed:
		case <-time.After(retryInterval):
		case <-ctx.Done():
			return 0, fmt.Errorf("etcd's history is recorded up to revision %d, not %d: %w", revision, target, context.Cause(ctx))
		}
	}
}

// Compact makes etcd forget what it had before its present revision, all of
// which is recorded first, and returns that revision. A watch from before then
// ends with 410 as soon as the API server, too, no longer has it in its cache.
func (h *History) Compact(ctx context.Context) (int64, error) {
	revision, err := h.Sync(ctx)
	if err != nil {
		return 0, err
	}
	_, err = h.client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return 0, fmt.Errorf("compact etcd at revision %d: %w", revision, err)
	}
	return revision, nil
}

// current asks for etcd's revision until there is an answer. The read is
// linearizable: what was acknowledged before is below it.
func (h *History) current(ctx context.Context) (int64, error) {
	for {
		if err := h.Err(); err != nil {
			return 0, err
		}
		revision, err := h.askRevision(ctx)
		if err == nil {
			return revision, nil
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
			return 0, fmt.Errorf("etcd's revision: %w: %w", context.Cause(ctx), err)
		}
	}
}

func (h *History) askRevision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := h.client.Get(ctx, "/registry/", clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return answer.Header.Revision, nil
}

// progress returns up to which revision everything is recorded, what tells of
// the next change, and the error that the recording has ended with.
func (h *History) progress() (revision int64, changed <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.everywhere(), h.changed, h.err
}

// everywhere needs mu.
func (h *History) everywhere() int64 {
	least := int64(-1)
	for _, revision := range h.recorded {
		if least < 0 || revision < least {
			least = revision
		}
	}
	return least
}

// fail keeps the first error: what comes after is its consequence.
func (h *History) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
		h.announce()
	}
}

// announce needs mu.
func (h *History) announce() {
	close(h.changed)
	h.changed = make(chan struct{})
}
