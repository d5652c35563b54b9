package oracle

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
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
//
// It is a watch of etcd's API, not of its client library. That goes on after an
// outage by itself, with all watches on one stream that is asked for progress
// meanwhile; once a history had a gap after etcd was killed, and said that it had
// none. Here a watch that ends is begun anew, from what is recorded, on a stream
// of its own.
func (h *History) watchOnce(ctx context.Context, prefix string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.mu.Lock()
	recorded := h.recorded[prefix]
	h.mu.Unlock()
	stream, err := pb.NewWatchClient(h.client.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32)) // as the client library has it
	if err != nil {
		return nil // it is tried again
	}
	create := &pb.WatchCreateRequest{
		Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), StartRevision: recorded + 1, ProgressNotify: true,
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil // as above
	}
	defer h.asks(prefix, stream)()
	for {
		answer, err := stream.Recv()
		switch {
		case err != nil:
			return nil // as above
		case answer.GetCompactRevision() != 0:
			return &lostError{fmt.Sprintf("recorded up to revision %d, and etcd has compacted up to %d", recorded, answer.GetCompactRevision())}
		case answer.GetCanceled():
			return nil
		case answer.GetCreated() && answer.GetHeader().GetRevision() < recorded:
			return &lostError{fmt.Sprintf("recorded up to revision %d, and etcd is back at %d", recorded, answer.GetHeader().GetRevision())}
		case answer.GetCreated():
			continue
		}
		if recorded, err = h.record(prefix, answer); err != nil {
			return err
		}
	}
}

// asks has requestProgress ask the stream, until the returned function is called.
func (h *History) asks(prefix string, stream pb.Watch_WatchClient) func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[prefix] = stream
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.streams, prefix)
	}
}

// requestProgress asks how far etcd is, on each stream that there is. Whoever
// waits asks again. It is called by one at a time: a stream takes one message
// at a time.
func (h *History) requestProgress() {
	h.asking.Lock()
	defer h.asking.Unlock()
	h.mu.Lock()
	streams := slices.Collect(maps.Values(h.streams))
	h.mu.Unlock()
	for _, stream := range streams {
		_ = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	}
}

// record adds what an answer says. The answer's own revision counts only where
// it says nothing else: with events it is that of etcd, of which more may be on
// its way, and etcd sends those of one revision together.
func (h *History) record(prefix string, answer *pb.WatchResponse) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	recorded := h.recorded[prefix]
	if len(answer.GetEvents()) == 0 {
		recorded = max(recorded, answer.GetHeader().GetRevision())
	}
	for _, event := range answer.GetEvents() {
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
func (h *History) add(event *mvccpb.Event) error {
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
