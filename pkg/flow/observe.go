package flow

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/crbridge/crbridge/pkg/events"
)

// ListStarted begins to compare a list with the ledger.
func (r *Run) ListStarted(context.Context) {
	if _, listed := r.flow.ledger.resume(); listed {
		r.series.expired.Inc()
	}
	r.flow.ledger.startList()
}

// Listed compares one object of a list with the ledger.
func (r *Run) Listed(ctx context.Context, object *unstructured.Unstructured) {
	key, seen, err := identify(object)
	if err != nil {
		r.invalid(err)
		return
	}
	r.flow.ledger.markListed(key)
	r.changed(ctx, object, key, seen, true)
}

// ListFinished says of every object that the list did not have that it is
// gone, and moves the position to where the list was made.
func (r *Run) ListFinished(ctx context.Context, resourceVersion string) {
	version, err := parseVersion(resourceVersion)
	if err != nil {
		r.invalid(err)
		return
	}
	for _, left := range r.flow.ledger.absent(version) {
		if !r.remove(ctx, left, version, 0) {
			return
		}
	}
	if ctx.Err() == nil {
		r.heard = true
		r.queue.mark(version, true)
	}
}

// Changed compares an object that the watch brought with the ledger.
func (r *Run) Changed(ctx context.Context, object *unstructured.Unstructured) {
	key, seen, err := identify(object)
	if err != nil {
		r.invalid(err)
		return
	}
	r.changed(ctx, object, key, seen, false)
}

// changed makes events of what is new about an object. Its uid tells one
// bearer of a name from the next: the new one's arrival is the old one's end.
func (r *Run) changed(ctx context.Context, object *unstructured.Unstructured, key string, seen row, inList bool) {
	position := seen.version
	if inList {
		position = 0 // a list is durable when all of it is
	}
	known, alive, news := r.flow.ledger.observe(key, seen)
	if !news {
		r.progress(ctx, position)
		return
	}
	change := events.Change{
		Type: r.arrival(inList), Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()),
		ResourceVersion: seen.version, Object: object.Object, Observed: time.Now(),
	}
	switch {
	case alive && known.uid == seen.uid && known.doubt:
		// It is told of again as if for the first time. Where the sink has
		// that event already, it knows it by its id.
	case alive && known.uid == seen.uid:
		change.Type = events.Updated
		change.Coalesced = inList // what came between two lists is not known
	case alive:
		if !r.remove(ctx, keyed{key, known}, seen.version-1, 0) {
			return
		}
	}
	r.send(ctx, change, item{key: key, row: seen, position: position})
}

// arrival is what the first event of an object says.
func (r *Run) arrival(inList bool) events.Type {
	if inList && !r.heard && r.target.Existing {
		return events.Existing
	}
	return events.Created
}

// Deleted makes the last event of an object.
func (r *Run) Deleted(ctx context.Context, object *unstructured.Unstructured) {
	key, seen, err := identify(object)
	if err != nil {
		r.invalid(err)
		return
	}
	known, alive, _ := r.flow.ledger.observe(key, seen)
	switch {
	case !alive || seen.version < known.version:
		r.progress(ctx, seen.version) // nobody was told of it, or of its end already
	case known.uid != seen.uid:
		// Its namesake lived after the one that is known, which is thus gone.
		r.remove(ctx, keyed{key, known}, seen.version-1, seen.version)
	default:
		r.send(ctx, events.Change{
			Type: events.Deleted, Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()),
			ResourceVersion: seen.version, Object: object.Object, Observed: time.Now(),
		}, item{key: key, row: seen, gone: true, position: seen.version})
	}
}

// Progressed moves the position while nothing changes.
func (r *Run) Progressed(ctx context.Context, resourceVersion string) {
	version, err := parseVersion(resourceVersion)
	if err != nil {
		r.invalid(err)
		return
	}
	r.progress(ctx, version)
}

// progress moves the position, unless ctx is done: the reflector may hand over
// one thing more then, after one that found no room in time.
func (r *Run) progress(ctx context.Context, position uint64) {
	if position > 0 && ctx.Err() == nil {
		r.queue.mark(position, false)
	}
}

// remove makes the deletion of an object whose absence was seen. It tells
// whether it got to do so before ctx ended.
func (r *Run) remove(ctx context.Context, left keyed, version, position uint64) bool {
	namespace, name, namespaced := strings.Cut(left.key, "/")
	if !namespaced {
		namespace, name = "", left.key
	}
	left.version = version
	origin := r.origin
	origin.Namespaced = namespaced // the CRD may have had another scope then
	return r.sendFrom(ctx, origin, events.Change{
		Type: events.Deleted, Namespace: namespace, Name: name, UID: left.uid.String(),
		ResourceVersion: version, Inferred: true, Observed: time.Now(),
	}, item{key: left.key, row: left.row, gone: true, position: position})
}

func (r *Run) send(ctx context.Context, change events.Change, i item) {
	r.sendFrom(ctx, r.origin, change, i)
}

// sendFrom puts the change's event into the queue when there is room, and
// notes in the ledger that it is on its way. It tells whether it did before
// ctx ended.
func (r *Run) sendFrom(ctx context.Context, origin events.Origin, change events.Change, i item) bool {
	event, err := events.New(origin, change)
	if err != nil {
		r.invalid(err)
		return ctx.Err() == nil
	}
	i.event, i.size = &event, event.Size()
	if r.queue.room(ctx, i.size) != nil {
		return false
	}
	i.order = r.queue.next()
	r.flow.ledger.pend(&i) // before the queue has it, as its ack may come at once
	r.queue.add(i)
	r.pending()
	return true
}

// identify is who an object is, and which version of it this is.
func identify(object *unstructured.Unstructured) (key string, seen row, err error) {
	key = object.GetName()
	if namespace := object.GetNamespace(); namespace != "" {
		key = namespace + "/" + key
	}
	uid := string(object.GetUID())
	if seen.uid, err = uuid.Parse(uid); err != nil || seen.uid.String() != uid {
		return "", row{}, fmt.Errorf("%s %s: metadata.uid %q is not a UUID as the API server writes it", object.GetKind(), key, uid)
	}
	if seen.version, err = parseVersion(object.GetResourceVersion()); err != nil {
		return "", row{}, fmt.Errorf("%s %s: %w", object.GetKind(), key, err)
	}
	return key, seen, nil
}

// parseVersion reads a resource version, which is a decimal number for every
// custom resource and can be compared
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).
func parseVersion(s string) (uint64, error) {
	version, err := strconv.ParseUint(s, 10, 64)
	if err != nil || version == 0 {
		return 0, fmt.Errorf("resource version %q is not a positive decimal number", s)
	}
	return version, nil
}
