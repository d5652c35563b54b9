package oracle

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// lostError is an end of the recording: something is not recorded, and never
// can be.
type lostError struct{ reason string }

func (e *lostError) Error() string { return e.reason }

// follow records a prefix until ctx ends or something is lost.
func (h *History) follow(ctx context.Context, prefix string) {
	for {
		if err := h.watchOnce(ctx, prefix); err != nil {
			h.fail(fmt.Errorf("history of %s: %w", prefix, err))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryInterval):
		}
	}
}

// watchOnce records a prefix from where its record ends, until the watch does.
// The client goes on after an outage by itself most of the time; a watch that
// ended without a loss is begun again.
func (h *History) watchOnce(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	recorded := h.recorded[prefix]
	h.mu.Unlock()
	watch := h.client.Watch(ctx, prefix, clientv3.WithPrefix(),
		clientv3.WithRev(recorded+1), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	for answer := range watch {
		switch {
		case answer.CompactRevision != 0:
			return &lostError{fmt.Sprintf("recorded up to revision %d, and etcd has compacted up to %d", recorded, answer.CompactRevision)}
		case answer.Err() != nil:
			return nil
		case answer.Created && answer.Header.Revision < recorded:
			return &lostError{fmt.Sprintf("recorded up to revision %d, and etcd is back at %d", recorded, answer.Header.Revision)}
		}
		var err error
		if recorded, err = h.record(prefix, answer); err != nil {
			return err
		}
	}
	return nil
}

// record adds what an answer says. The answer's own revision counts only where
// it says nothing else: with events it is that of etcd, of which more may be on
// its way, and etcd sends those of one revision together.
func (h *History) record(prefix string, answer clientv3.WatchResponse) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	recorded := h.recorded[prefix]
	if answer.IsProgressNotify() {
		recorded = max(recorded, answer.Header.Revision)
	}
	for _, event := range answer.Events {
		if event.Kv.ModRevision <= h.recorded[prefix] {
			continue // repeated after an outage
		}
		if err := h.add(event); err != nil {
			return 0, fmt.Errorf("%s at revision %d: %w", event.Kv.Key, event.Kv.ModRevision, err)
		}
		recorded = max(recorded, event.Kv.ModRevision)
	}
	if recorded != h.recorded[prefix] {
		h.recorded[prefix] = recorded
		h.announce()
	}
	return recorded, nil
}

// add needs mu.
func (h *History) add(event *clientv3.Event) error {
	key := string(event.Kv.Key)
	if event.Type == mvccpb.Event_DELETE {
		v, ok := h.alive[key]
		if !ok {
			return &lostError{"deleted, and its creation is not recorded"}
		}
		delete(h.alive, key)
		v.Deleted, v.Revision = true, event.Kv.ModRevision
		h.versions = append(h.versions, v)
		return nil
	}
	v, err := parseKey(key)
	if err != nil {
		return err
	}
	content, who, err := readContent(event.Kv.Value)
	if err != nil {
		return err
	}
	v.UID, v.Content = who.uid, content
	v.Created, v.Revision = event.Kv.CreateRevision, event.Kv.ModRevision
	h.alive[key] = v
	h.versions = append(h.versions, v)
	return nil
}

// parseKey reads /registry/<group>/<plural>/<namespace>/<name>, in which an
// object of the whole cluster has no namespace.
func parseKey(key string) (Version, error) {
	parts := strings.Split(strings.TrimPrefix(key, "/registry/"), "/")
	switch len(parts) {
	case 3:
		return Version{Resource: Resource{parts[0], parts[1]}, Name: parts[2]}, nil
	case 4:
		return Version{Resource: Resource{parts[0], parts[1]}, Namespace: parts[2], Name: parts[3]}, nil
	}
	return Version{}, fmt.Errorf("the key of no custom resource")
}
