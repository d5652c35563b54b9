package flow

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sources"
)

// ListStarted begins to compare a list with the ledger. It refuses one that is
// older than what was delivered.
func (r *Run) ListStarted(_ context.Context, resourceVersion string) error {
	version, err := parseVersion(resourceVersion)
	if err != nil {
		return err
	}
	position, listed := r.flow.ledger.resume()
	if position > version {
		return &sources.RewoundError{Position: position, Is: version}
	}
	if listed && position > 0 && !r.surveys {
		r.series.expired.Inc()
	}
	r.flow.ledger.startList()
	return nil
}

// Listed compares one object of a list with the ledger.
func (r *Run) Listed(ctx context.Context, object *unstructured.Unstructured) {
	key, seen, err := identify(object)
	if err != nil {
		r.invalid(err)
		return
	}
	if r.sourcing.Err() != nil {
		return // what follows an object that has been put back is no news either
	}
	r.flow.ledger.markListed(key)
	r.changed(ctx, object, key, seen, true)
	failpoint.Here(failpoint.InFirstList)
}

// ListFinished says of every object that the list did not have that it is
// gone, and moves the position to where the list was made.
func (r *Run) ListFinished(ctx context.Context, resourceVersion string) {
	version, err := parseVersion(resourceVersion)
	if err != nil {
		r.invalid(err)
		return
	}
	if r.sourcing.Err() != nil {
		return
	}
	if r.surveys {
		r.finishSurvey(ctx, version)
		return
	}
	for _, left := range r.flow.ledger.absent(version) {
		if !r.remove(ctx, left, version, 0) {
			return
		}
	}
	if ctx.Err() == nil {
		r.queue.mark(progress{position: version, listed: true, resync: r.resync, selection: r.target.selection()})
		r.first, r.reselected, r.resync, r.surveyed = false, false, 0, 0
	}
}

// finishSurvey takes note that a list has told what no watch tells. What it
// had that is newer than the position is the watch's to tell: of these objects
// a requested resync tells when the watch has.
func (r *Run) finishSurvey(ctx context.Context, version uint64) {
	if ctx.Err() != nil {
		return
	}
	r.surveys, r.reselected = false, false
	r.queue.mark(progress{selection: r.target.selection()})
	if r.resync == 0 {
		return
	}
	r.surveyed = version
	if !r.behind {
		r.reached(ctx, version)
	}
}

// reached takes note that the watch has told of all up to a version, unless
// ctx is done: the last of it may have found no room.
func (r *Run) reached(ctx context.Context, version uint64) {
	if r.surveyed != 0 && version >= r.surveyed && ctx.Err() == nil {
		r.queue.mark(progress{resync: r.resync})
		r.resync, r.surveyed = 0, 0
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
	r.reached(ctx, seen.version)
}

// changed makes events of what is new about an object. Its uid tells one
// bearer of a name from the next: the new one's arrival is the old one's end.
func (r *Run) changed(ctx context.Context, object *unstructured.Unstructured, key string, seen row, inList bool) {
	i := item{key: key, row: seen, progress: progress{position: seen.version}}
	if inList {
		i.position = 0 // a list is durable when all of it is
	}
	s := r.flow.ledger.observe(key, seen, inList)
	if inList && r.surveys && s.news && r.watched(seen.version) {
		r.behind = true
		return
	}
	same := s.alive && s.known.uid == seen.uid
	change := events.Change{
		Type: r.arrival(inList), Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()),
		ResourceVersion: seen.version, Object: object.Object, Observed: time.Now(),
	}
	if inList && s.alive && !s.known.is(doubted) && seen.version < s.known.version {
		// Lists are consistent, and versions under a name only grow: what was
		// delivered of it is not part of the API server's history.
		r.rewound(&sources.RewoundError{Position: s.known.version, Is: seen.version})
		return
	}
	owed := r.resync != 0 && same && !s.known.is(resent)
	i.row.set(sent, same && s.known.is(sent))
	i.row.set(risen, same && s.known.is(risen))
	i.row.set(resent, r.resync != 0 && !owed)
	switch {
	case r.resync != 0 && s.risen, owed && s.known.is(buried) && (inList || s.news):
		i.row.set(risen, true)
		r.resend(ctx, change, i)
		return
	case owed && inList && (!s.news || s.known.version == 0):
		r.resend(ctx, change, i)
		return
	case s.risen:
		r.bury(ctx, i)
		return
	case same && s.known.is(buried):
		r.progress(ctx, i.position)
		return
	case !s.news && inList && r.reselected && same && !s.known.is(sent):
		change.Type = events.Existing // the route did not select it before
	case !s.news:
		r.progress(ctx, i.position)
		return
	case same && s.known.is(doubted):
		// It is told of again as if for the first time. Where the sink has
		// that event already, it knows it by its id.
		owed = false
	case same:
		change.Type = events.Updated
		change.Coalesced = inList // what came between two lists is not known
		i.silent = true
	case s.alive:
		if !r.remove(ctx, keyed{key, s.known}, seen.version-1, 0) {
			return
		}
		failpoint.Here(failpoint.BetweenEvents)
	}
	r.send(ctx, change, i)
	if owed {
		change.Coalesced = false
		i.row.set(sent, i.row.is(sent) || r.target.Events.Has(change.Type))
		r.resend(ctx, change, i)
	}
}

// watched tells whether the watch that follows a survey tells of a version.
func (r *Run) watched(version uint64) bool {
	position, _ := r.flow.ledger.resume()
	return version > position
}

// resend tells of an object again, as requested: of the version that was told
// of last, or of an object of which nothing more was told.
func (r *Run) resend(ctx context.Context, change events.Change, i item) {
	change.Type, change.Resync = events.Existing, r.resync
	i.row.set(resent, true)
	i.silent = false
	r.send(ctx, change, i)
}

// bury notes that an object is there that was told to be deleted: its CRD was
// removed by force, which leaves the objects' data behind, and has come back.
func (r *Run) bury(ctx context.Context, i item) {
	i.row.set(buried, true)
	r.flow.condition.setBuried(fmt.Sprintf("%s and perhaps others were told to be deleted with their CRD, which was removed by force: "+
		"their data is still there, and nothing more is told of them; `bridge resync --route %s` tells of all objects again",
		i.key, r.flow.id.Route))
	r.put(ctx, nil, i)
}

// arrival is what the first event of an object says.
func (r *Run) arrival(inList bool) events.Type {
	if inList && r.first && r.flow.ledger.state().Existing {
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
	s := r.flow.ledger.observe(key, seen, false)
	switch {
	case !s.alive || seen.version < s.known.version:
		r.progress(ctx, seen.version) // nobody was told of it, or of its end already
	case s.known.uid != seen.uid:
		// Its namesake lived after the one that is known, which is thus gone.
		r.remove(ctx, keyed{key, s.known}, seen.version-1, seen.version)
	case s.known.is(buried):
		r.put(ctx, nil, item{key: key, row: seen, gone: true, progress: progress{position: seen.version}})
	default:
		r.send(ctx, events.Change{
			Type: events.Deleted, Namespace: object.GetNamespace(), Name: object.GetName(), UID: string(object.GetUID()),
			ResourceVersion: seen.version, Object: object.Object, Observed: time.Now(), Resync: r.endSuffix(s.known),
		}, item{key: key, row: seen, gone: true, progress: progress{position: seen.version}})
	}
	r.reached(ctx, seen.version)
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
		r.queue.mark(progress{position: position})
		r.reached(ctx, position)
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
	i := item{key: left.key, row: left.row, gone: true, progress: progress{position: position}}
	if left.is(buried) {
		return r.put(ctx, nil, i)
	}
	origin := r.origin
	origin.Namespaced = namespaced // the CRD may have had another scope then
	return r.sendFrom(ctx, origin, events.Change{
		Type: events.Deleted, Namespace: namespace, Name: name, UID: left.uid.String(),
		ResourceVersion: version, Inferred: true, Observed: time.Now(), Resync: r.endSuffix(left.row),
	}, i)
}

// endSuffix is the number of a resync for the id of an object's deletion. An
// object has one, so that its id needs none; but of one that a resync has told
// of after its deletion there is a second.
func (r *Run) endSuffix(known row) uint64 {
	if !known.is(risen) {
		return 0
	}
	return r.flow.ledger.lastResync()
}

func (r *Run) send(ctx context.Context, change events.Change, i item) {
	r.sendFrom(ctx, r.origin, change, i)
}

// sendFrom makes the change's event, if the route wants it, and puts it into
// the queue. Without an event the ledger takes note of the change all the
// same. It tells whether it did before ctx ended.
func (r *Run) sendFrom(ctx context.Context, origin events.Origin, change events.Change, i item) bool {
	if !r.target.Events.Has(change.Type) {
		return r.put(ctx, nil, i)
	}
	event, err := events.New(origin, change)
	if err != nil {
		r.invalid(err)
		return ctx.Err() == nil
	}
	i.row.set(sent, true)
	return r.put(ctx, &event, i)
}

// rowSize is about what an item without an event takes.
const rowSize = 256

// put puts an item into the queue when there is room, and notes in the ledger
// that it is on its way. It tells whether it did before ctx ended.
func (r *Run) put(ctx context.Context, event *events.Event, i item) bool {
	i.event, i.size, i.drained = event, rowSize, r.draining
	if event != nil {
		i.size = event.Size()
	}
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
