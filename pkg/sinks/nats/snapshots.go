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
	// bucketStream is the stream that the bucket is.
	bucketStream = "OBJ_" + bucket
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

// noBucketError says that there is no bucket, and that it cannot be made.
type noBucketError struct{ why error }

func (e *noBucketError) Error() string {
	return "it does not exist and cannot be created: " + e.why.Error()
}

// flowControl tells whether a subject is one by which a client says that it
// can take more. Where that is denied, a large snapshot stops on its way.
func flowControl(subject string) bool { return strings.HasPrefix(subject, "$JS.FC."+bucketStream+".") }

// open finds the bucket, or makes it.
func (h *shelf) open(ctx context.Context, s *Sink, ses *session, replicas int) (jetstream.ObjectStore, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.store != nil {
		return h.store, nil
	}
	ctx, done := ses.patience(ctx, ses.opens)
	defer done()
	store, err := ses.js.ObjectStore(ctx, bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		store, err = s.makeBucket(ctx, ses, replicas)
	}
	if missing, is := errors.AsType[*noBucketError](err); is {
		return nil, fmt.Errorf("object store %s: %w", bucket, missing)
	}
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", bucket, apiWords(because(ctx, err)))
	}
	h.store = store
	return store, nil
}

func (s *Sink) makeBucket(ctx context.Context, ses *session, replicas int) (jetstream.ObjectStore, error) {
	store, err := ses.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: bucket, Description: "Ledgers of crbridge: which version of each object it has delivered.",
		Storage: storageType(s.jetstream.Storage), Replicas: replicas,
	})
	if errors.Is(err, jetstream.ErrBucketExists) { // another bridge was faster
		return ses.js.ObjectStore(ctx, bucket)
	}
	if api, is := errors.AsType[*jetstream.APIError](err); is {
		return nil, &noBucketError{apiWords(api)}
	}
	return store, err
}

// doubt has the bucket looked for again after an error, before anything else
// is done with it: it may have been deleted.
func (h *shelf) doubt(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(err)
}

// forget needs mu. What is denied says nothing of the bucket.
func (h *shelf) forget(err error) {
	if _, denied := errors.AsType[*deniedError](err); !denied {
		h.store, h.listed = nil, time.Time{}
	}
}

// of is what the bucket has of a flow, newest first.
func (h *shelf) of(ctx context.Context, ses *session, store jetstream.ObjectStore, flow string) ([]snapshotRef, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.listed) > listingAge {
		ctx, done := ses.patience(ctx, ses.reads)
		defer done()
		objects, err := store.List(ctx)
		if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
			err = because(ctx, err)
			h.forget(err)
			return nil, fmt.Errorf("object store %s: %w", bucket, apiWords(err))
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
		err = because(ctx, err)
		ses.shelf.doubt(err)
		return fmt.Errorf("object store %s: %w", bucket, apiWords(err))
	}
	return nil
}

// unfitError says that a snapshot is gone, or not what it was. Any other error
// of reading it says nothing of the snapshot.
type unfitError struct{ why error }

func (e *unfitError) Error() string { return words(e.why) }
func (e *unfitError) Unwrap() error { return e.why }

// errBehind is why a snapshot that is there was not found: any replica may
// answer, also one that does not have it yet.
var errBehind = errors.New("the replica that answered does not have it yet")

// load reads a snapshot into the restorer.
func (p *streamPublisher) load(ctx context.Context, ses *session, store jetstream.ObjectStore, ref snapshotRef, into journal.Restorer) (h snapshotHeader, err error) {
	stalled := ses.denial.wait(1, flowControl)
	defer ses.denial.done(stalled)
	denied := ses.denial.wait(1, ses.reads)
	defer ses.denial.done(denied)
	ctx, done := ses.bound(ctx, snapshotTimeout, denied.denied)
	defer done()
	if err = p.readObject(ctx, ses, store, ref, &h, into); err == nil {
		return h, nil
	}
	if err = because(ctx, err); errors.Is(err, errNoAnswer) {
		select {
		case d := <-stalled.denied:
			err = &deniedError{d.words}
		default:
		}
	}
	if _, unfit := errors.AsType[*unfitError](err); !unfit && !errors.Is(err, errBehind) {
		ses.shelf.doubt(err)
	}
	return h, err
}

func (p *streamPublisher) readObject(ctx context.Context, ses *session, store jetstream.ObjectStore, ref snapshotRef, h *snapshotHeader, into journal.Restorer) error {
	name := ref.name(p.shelfName())
	object, err := store.Get(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound):
		return gone(ctx, ses, store, name, err)
	case errors.Is(err, jetstream.ErrBadObjectMeta):
		return &unfitError{err}
	case err != nil:
		return err
	}
	defer object.Close()
	content := &tracked{from: object}
	err = journal.Read(content, h, into.Restore)
	switch {
	case err == nil:
		return object.Error()
	case content.err == nil || wrongDigest(content.err):
		return &unfitError{err}
	}
	return content.err
}

// tracked remembers why it could not be read to its end.
type tracked struct {
	from io.Reader
	err  error
}

func (s *tracked) Read(b []byte) (int, error) {
	n, err := s.from.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// wrongDigest tells whether the error is that the content is not what was written.
func wrongDigest(err error) bool {
	var encoding base64.CorruptInputError
	return errors.Is(err, jetstream.ErrDigestMismatch) || errors.Is(err, jetstream.ErrInvalidDigestFormat) || errors.As(err, &encoding)
}

// gone finds out whether a snapshot is gone that was not found: only the
// stream's leader knows, and it is the leader who answers what subjects there
// are.
func gone(ctx context.Context, ses *session, store jetstream.ObjectStore, name string, notFound error) error {
	info, err := store.GetInfo(ctx, name, jetstream.GetObjectInfoShowDeleted())
	if err == nil && info.Deleted {
		return &unfitError{notFound}
	}
	asking, done := ses.patience(ctx, ses.opens)
	defer done()
	stream, err := ses.js.Stream(asking, bucketStream)
	if err != nil {
		return because(asking, err)
	}
	known, err := stream.Info(asking, jetstream.WithSubjectFilter(metaSubject(name)))
	switch {
	case err != nil:
		return because(asking, err)
	case len(known.State.Subjects) == 0:
		return &unfitError{notFound}
	}
	return errBehind
}

// metaSubject is where nats.go's object store keeps what it knows of an object.
func metaSubject(name string) string {
	return "$O." + bucket + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
}

// remove deletes a snapshot, and the marker that the object store leaves in its
// place: names are not used again, so markers would pile up.
func (p *streamPublisher) remove(ctx context.Context, ses *session, store jetstream.ObjectStore, ref snapshotRef) {
	ctx, done := ses.patience(ctx, ses.isAPI)
	defer done()
	name := ref.name(p.shelfName())
	err := store.Delete(ctx, name)
	if err == nil || errors.Is(err, jetstream.ErrObjectNotFound) {
		var stream jetstream.Stream
		if stream, err = ses.js.Stream(ctx, bucketStream); err == nil {
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(metaSubject(name)))
		}
	}
	if err != nil {
		err = because(ctx, err)
		ses.shelf.doubt(err)
		p.sink.log.Debug("an old snapshot is left behind for now", "name", name, "error", apiWords(err))
	}
}
