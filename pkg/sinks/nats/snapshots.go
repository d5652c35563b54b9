package nats

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
)

const (
	// bucket is the object store that ledgers are kept in.
	bucket = "crbridge"
	// snapshotsKept is how many of a flow's snapshots are left: the newest,
	// and one to fall back to.
	snapshotsKept = 2
	// listingAge is for how long a list of the bucket serves all flows that
	// are claimed at about the same time.
	listingAge = 10 * time.Second
	// snapshotTimeout bounds the transfer of one snapshot.
	snapshotTimeout = 5 * time.Minute
)

// snapshotRef names a snapshot: the ledger as it was when all messages up to
// the sequence were known, or newer.
type snapshotRef struct {
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"`
}

// name is the object's. A bridge that has lost its claim writes under its own
// epoch, where it replaces nothing.
func (r snapshotRef) name(flow string) string {
	return fmt.Sprintf("%s.%010d.%020d", flow, r.Epoch, r.Sequence)
}

// parseRef reads a name.
func parseRef(name string) (flow string, ref snapshotRef, ok bool) {
	tokens := strings.Split(name, ".")
	if len(tokens) < 3 {
		return "", snapshotRef{}, false
	}
	last := len(tokens) - 2
	var err, err2 error
	ref.Epoch, err = strconv.ParseUint(tokens[last], 10, 64)
	ref.Sequence, err2 = strconv.ParseUint(tokens[last+1], 10, 64)
	return strings.Join(tokens[:last], "."), ref, err == nil && err2 == nil
}

// newestFirst orders by epoch and then by sequence.
func newestFirst(a, b snapshotRef) int {
	return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Sequence, a.Sequence))
}

// snapshotHeader is the first part of a snapshot.
type snapshotHeader struct {
	Stream time.Time     `json:"stream"` // when it was created
	Ref    snapshotRef   `json:"ref"`
	Base   uint64        `json:"base,omitempty"`
	State  journal.State `json:"state"`
}

// shelf is the bucket, as a session knows it.
type shelf struct {
	mu     sync.Mutex
	store  jetstream.ObjectStore
	listed time.Time
	refs   map[string][]snapshotRef // by flow, newest first
}

// open finds the bucket, or makes it.
func (h *shelf) open(ctx context.Context, s *Sink, ses *session, replicas int) (jetstream.ObjectStore, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.store != nil {
		return h.store, nil
	}
	ctx, done := ses.patience(ctx, isAPI)
	defer done()
	store, err := ses.js.ObjectStore(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		store, err = ses.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
			Bucket: bucket, Description: "Ledgers of crbridge: which version of each object it has delivered.",
			Storage: storageType(s.jetstream.Storage), Replicas: replicas,
		})
		if errors.Is(err, jetstream.ErrBucketExists) { // another bridge was faster
			store, err = ses.js.ObjectStore(ctx, bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", bucket, apiWords(because(ctx, err)))
	}
	h.store = store
	return store, nil
}

// of is what the bucket has of a flow, newest first.
func (h *shelf) of(ctx context.Context, ses *session, store jetstream.ObjectStore, flow string) ([]snapshotRef, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.listed) > listingAge {
		ctx, done := ses.patience(ctx, isAPI)
		defer done()
		objects, err := store.List(ctx)
		if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
			return nil, fmt.Errorf("object store %s: %w", bucket, apiWords(because(ctx, err)))
		}
		h.refs = map[string][]snapshotRef{}
		for _, o := range objects {
			if of, ref, ok := parseRef(o.Name); ok {
				h.refs[of] = append(h.refs[of], ref)
			}
		}
		for _, refs := range h.refs {
			slices.SortFunc(refs, newestFirst)
		}
		h.listed = time.Now()
	}
	return slices.Clone(h.refs[flow]), nil
}

// shelfName is what the names of the flow's snapshots begin with.
func (p *streamPublisher) shelfName() string {
	tokens := []string{events.Token(p.sink.jetstream.Stream), events.Token(p.sink.cluster), events.Token(p.flow.Route), events.Token(p.flow.CRD)}
	if p.foreign != "" {
		tokens = append(tokens, events.Token(p.foreign))
	}
	return strings.Join(tokens, ".")
}

// save writes a snapshot.
func (p *streamPublisher) save(ctx context.Context, ses *session, store jetstream.ObjectStore, h snapshotHeader, rows iter.Seq[journal.Row]) error {
	ctx, done := ses.bound(ctx, snapshotTimeout, nil)
	defer done()
	reader, writer := io.Pipe()
	var writing sync.WaitGroup
	writing.Go(func() { writer.CloseWithError(journal.Write(writer, h, rows)) }) // never fails but for the pipe
	_, err := store.Put(ctx, jetstream.ObjectMeta{Name: h.Ref.name(p.shelfName())}, reader)
	_ = reader.CloseWithError(err) // ends the writer where Put has not read to the end
	writing.Wait()
	if err != nil {
		return fmt.Errorf("object store %s: %w", bucket, apiWords(because(ctx, err)))
	}
	return nil
}

// load reads a snapshot into the restorer.
func (p *streamPublisher) load(ctx context.Context, ses *session, store jetstream.ObjectStore, ref snapshotRef, into journal.Restorer) (h snapshotHeader, err error) {
	ctx, done := ses.bound(ctx, snapshotTimeout, nil)
	defer done()
	object, err := store.Get(ctx, ref.name(p.shelfName()))
	if err != nil {
		return h, because(ctx, err)
	}
	defer object.Close()
	if err := journal.Read(object, &h, into.Restore); err != nil {
		return h, because(ctx, err)
	}
	return h, because(ctx, object.Error())
}

// metaSubject is where nats.go's object store keeps what it knows of an object.
func metaSubject(name string) string {
	return "$O." + bucket + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
}

// remove deletes a snapshot, and the marker that the object store leaves in its
// place: names are not used again, so markers would pile up.
func (p *streamPublisher) remove(ctx context.Context, ses *session, store jetstream.ObjectStore, ref snapshotRef) {
	ctx, done := ses.patience(ctx, isAPI)
	defer done()
	name := ref.name(p.shelfName())
	err := store.Delete(ctx, name)
	if err == nil || errors.Is(err, jetstream.ErrObjectNotFound) {
		var stream jetstream.Stream
		if stream, err = ses.js.Stream(ctx, "OBJ_"+bucket); err == nil {
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(metaSubject(name)))
		}
	}
	if err != nil {
		p.sink.log.Debug("an old snapshot is left behind for now", "name", name, "error", apiWords(because(ctx, err)))
	}
}
