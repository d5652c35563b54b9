package flow

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/events/changes"
	"github.com/crbridge/crbridge/pkg/events/when"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sources"
)

// changed makes events of what is new about an object. Its uid tells one
// bearer of a name from the next: the new one's arrival is the old one's end.
func (w *watcher) changed(ctx context.Context, o *object.Object, key string, seen row, inList bool) {
	r := w.run
	seen.list = w.list
	i := item{key: key, row: seen, progress: w.at(seen.version)}
	if inList {
		i.progress = progress{} // a list is durable when all of it is
	}
	s := r.flow.ledger.observe(key, seen, inList)
	if inList && w.surveys && s.news && !s.back && !s.outlived && w.watched(seen.version) {
		w.behind = true
		return
	}
	if inList && s.alive && !s.known.is(doubted) && seen.version < s.known.version {
		// Lists are consistent, and versions under a name only grow: what was
		// delivered of it is not part of the API server's history.
		r.rewound(&sources.RewoundError{Position: s.known.version, Is: seen.version})
		return
	}
	if s.outlived && w.version < s.ended {
		r.rewound(&sources.RewoundError{Position: s.ended, Is: w.version}) // nor was that end yet
		return
	}
	if s.risen && !inList && r.presence != nil {
		// A watch may tell of what an object did before it died, see held.
		fates, known := r.fates(ctx, []keyed{{key, seen}})
		if !known {
			return
		}
		if !fates[key].exists {
			i.row.version, i.gone, i.silent, i.until = s.ended, true, true, fates[key].asOf
			r.put(ctx, nil, i)
			return
		}
	}
	visible, err := r.target.Rules.payload.Visible(o)
	if err != nil {
		r.invalid(err)
		return
	}
	same := s.alive && s.known.uid == seen.uid
	change := events.Change{
		Type: w.arrival(inList), Namespace: o.Namespace, Name: o.Name, UID: o.UID,
		ResourceVersion: seen.version, Object: visible, Observed: time.Now(),
	}
	if inList && w.reselected && change.Type == events.Existing || s.outlived {
		change.Listed, i.raised = w.version, w.version
	}
	if same {
		change.Old = r.past.object(key, s.known)
	}
	if s.news || same && s.known.version == seen.version && !r.past.has(key, seen) {
		r.past.keep(key, seen, visible)
	}
	if !s.news && inList && same && s.known.digest == (changes.Digest{}) && s.known.version == seen.version && r.target.Rules.learns() {
		r.flow.ledger.learn(key, seen, r.target.Rules.digest(o))
	}
	owed := w.resync != 0 && same && !s.known.is(resent)
	i.row.set(sent, same && s.known.is(sent))
	i.row.set(risen, same && s.known.is(risen))
	i.row.set(resent, w.resync != 0 && !owed)
	if i.row.digest = s.known.digest; s.news {
		i.row.digest = r.target.Rules.digest(o)
	}
	switch {
	case w.resync != 0 && s.risen, owed && s.known.is(buried) && (inList || s.news):
		i.row.set(risen, true)
		w.resend(ctx, change, i)
		return
	case owed && inList && (!s.news || s.known.version == 0):
		w.resend(ctx, change, i)
		return
	case s.risen:
		r.bury(ctx, i)
		return
	case same && s.known.is(buried):
		w.progress(ctx, i.position)
		return
	case !s.news && inList && w.reselected && same && !s.known.is(sent):
		// The route did not select it before: it exists.
		i.row.digest = r.target.Rules.digest(o)
	case !s.news:
		w.progress(ctx, i.position)
		return
	case same && s.known.is(doubted):
		// It is told of again as if for the first time. Where the sink has
		// that event already, it knows it by its id.
		owed = false
	case same:
		change.Type, change.Listed, i.raised = events.Updated, 0, 0
		change.Coalesced = inList // what came between two lists is not known
		i.silent = true
		if s.known.digest != (changes.Digest{}) && s.known.digest == i.row.digest {
			r.put(ctx, nil, i) // it touches nothing that counts
			return
		}
	case s.alive:
		if !r.remove(ctx, keyed{key, s.known}, seen.version-1, progress{}, 0) {
			return
		}
		failpoint.Here(failpoint.BetweenEvents)
	}
	r.send(ctx, change, i, s.known.digest)
	if owed {
		change.Coalesced = false
		i.row.set(sent, i.row.is(sent) || r.target.Rules.events.Has(change.Type))
		w.resend(ctx, change, i)
	}
}

// deleted makes the last event of an object that the watch says is gone: it is,
// or it has left what the route selects.
func (w *watcher) deleted(ctx context.Context, o *object.Object, key string, seen row) {
	r := w.run
	seen.list = w.list
	s := r.flow.ledger.observe(key, seen, false)
	i := item{key: key, row: seen, gone: true, progress: w.at(seen.version)}
	change := events.Change{
		Type: events.Deleted, Namespace: o.Namespace, Name: o.Name, UID: o.UID,
		ResourceVersion: seen.version, Observed: time.Now(), Resync: r.endSuffix(s.known),
	}
	repeated := s.died && s.ended == seen.version
	switch {
	case repeated && r.target.Rules.selective():
		// Its end was told before the process began; what the watch may tell
		// of it between the two is to be left out, see held.
		fates, known := r.fates(ctx, []keyed{{key, seen}})
		if !known {
			return
		}
		i.until, i.silent = fates[key].asOf, true
		r.put(ctx, nil, i)
		return
	case !s.alive || seen.version < s.known.version:
		w.progress(ctx, seen.version) // nobody was told of it, or of its end already
		return
	case s.known.uid != seen.uid:
		// Its namesake lived after the one that is known, which is thus gone.
		r.remove(ctx, keyed{key, s.known}, seen.version-1, w.at(seen.version), 0)
		return
	}
	if r.target.Rules.selective() {
		fates, known := r.fates(ctx, []keyed{{key, seen}})
		if !known {
			return
		}
		if fates[key].exists {
			change.Type, change.Resync = events.Deselected, 0
			i.row.set(deselected, true)
		} else {
			i.until = fates[key].asOf
		}
	}
	i.row.set(sent, s.known.is(sent))
	delete(r.past, key)
	if s.known.is(buried) {
		r.put(ctx, nil, i)
		return
	}
	visible, err := r.target.Rules.payload.Visible(o)
	if err != nil {
		r.invalid(err)
		return
	}
	change.Object = visible
	r.send(ctx, change, i, changes.Digest{})
}

// resend tells of an object again, as requested: of the version that was told
// of last, or of an object of which nothing more was told.
func (w *watcher) resend(ctx context.Context, change events.Change, i item) {
	change.Type, change.Resync, change.Old = events.Existing, w.resync, nil
	change.Listed, i.raised = 0, 0
	i.row.set(resent, true)
	i.silent = false
	w.run.send(ctx, change, i, i.row.digest)
}

// bury notes that an object is there that was told to be deleted: its CRD went
// without its data, and has come back. So it is where the CRD was removed by
// force, and may be where the object was made just as its CRD was deleted: the
// API server may carry that out after it has deleted the objects.
func (r *Run) bury(ctx context.Context, i item) {
	i.row.set(buried, true)
	r.flow.condition.setBuried(fmt.Sprintf("%s and perhaps others were told to be deleted with their CRD, which went without their data "+
		"(removed by force, or as they were being made): it is still there, and nothing more is told of them; `bridge resync --route %s` tells of all objects again",
		i.key, r.flow.id.Route))
	r.put(ctx, nil, i)
}

// arrival is what the first event of an object says.
func (w *watcher) arrival(inList bool) events.Type {
	if inList && (w.reselected || w.first && w.run.flow.ledger.state().Existing) {
		return events.Existing
	}
	return events.Created
}

// ended tells of objects that were not there at that version: not among those
// that a list had, at least. doubtful says that such an object may exist all
// the same, and has to be asked for. It tells whether it did before ctx ended.
func (r *Run) ended(ctx context.Context, absent []keyed, version uint64, at progress, doubtful bool) bool {
	var fates map[string]fate
	if doubtful && len(absent) > 0 {
		var known bool
		if fates, known = r.fates(ctx, absent); !known {
			return false
		}
	}
	for _, left := range absent {
		of := fates[left.key]
		var told bool
		if of.exists {
			told = r.deselect(ctx, left, version, at)
		} else {
			told = r.remove(ctx, left, version, at, of.asOf)
		}
		if !told {
			return false
		}
	}
	return ctx.Err() == nil
}

// remove makes the deletion of an object whose absence was seen. It tells
// whether it got to do so before ctx ended. until is when the API server was
// asked, where it had to be; see held.
func (r *Run) remove(ctx context.Context, left keyed, version uint64, at progress, until uint64) bool {
	return r.end(ctx, left, version, events.Deleted, item{until: until, progress: at})
}

// deselect says of an object that exists that the route no longer selects it.
func (r *Run) deselect(ctx context.Context, left keyed, version uint64, at progress) bool {
	return r.end(ctx, left, version, events.Deselected, item{progress: at})
}

// end makes the last event of an object that nothing was seen of but that it is
// not where it was.
func (r *Run) end(ctx context.Context, left keyed, version uint64, how events.Type, i item) bool {
	namespace, name := split(left.key)
	change := events.Change{
		Type: how, Namespace: namespace, Name: name, UID: left.uid.String(), ResourceVersion: version,
		Object: r.past.object(left.key, left.row), Observed: time.Now(),
	}
	if how == events.Deleted {
		change.Inferred, change.Resync = true, r.endSuffix(left.row)
	}
	delete(r.past, left.key)
	i.key, i.row, i.gone = left.key, left.row, true
	i.row.version, i.row.digest = version, changes.Digest{}
	i.row.set(deselected, how == events.Deselected)
	if left.is(buried) {
		return r.put(ctx, nil, i)
	}
	origin := r.origin
	origin.Namespaced = namespace != "" // the CRD may have had another scope then
	return r.sendFrom(ctx, origin, change, i, changes.Digest{})
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

func (r *Run) send(ctx context.Context, change events.Change, i item, before changes.Digest) {
	r.sendFrom(ctx, r.origin, change, i, before)
}

// sendFrom makes the change's event, if the route wants it, and puts it into
// the queue. Without an event the ledger takes note of the change all the
// same; before is then what later versions are compared with, so that what
// `when` keeps back is told with the next version that it lets through. It
// tells whether it did before ctx ended.
func (r *Run) sendFrom(ctx context.Context, origin events.Origin, change events.Change, i item, before changes.Digest) bool {
	rules := r.target.Rules
	if !rules.events.Has(change.Type) {
		return r.put(ctx, nil, i)
	}
	if !r.admits(change, i.row) {
		i.row.digest = before
		return r.put(ctx, nil, i)
	}
	event, err := events.New(origin, rules.payload, change)
	if err != nil {
		r.invalid(err)
		return ctx.Err() == nil
	}
	if rules.digestsStay() {
		event.Digest = i.row.digest
	}
	i.row.set(sent, true)
	return r.put(ctx, &event, i)
}

// admits asks the route's expression. What ends an object is told where the
// object was; an expression that fails holds nothing back.
func (r *Run) admits(change events.Change, of row) bool {
	expression := r.target.Rules.when
	if expression == nil {
		return true
	}
	if change.Type == events.Deleted || change.Type == events.Deselected {
		return of.is(sent)
	}
	admits, err := r.evaluate(expression, change)
	if err != nil {
		r.series.whenErrors.add()
		r.flow.condition.setWhen(fmt.Sprintf("`when` fails for some objects, whose events are sent all the same (bridge_when_errors_total counts them): %v", err))
		return true
	}
	return admits
}

// evaluate evaluates the expression on the objects, decoded.
func (r *Run) evaluate(expression *when.Program, change events.Change) (bool, error) {
	is, err := change.Object.Content()
	if err != nil {
		return false, err
	}
	var was map[string]any
	if change.Old != nil && expression.NeedsOld() {
		if was, err = change.Old.Content(); err != nil {
			return false, err
		}
	}
	return expression.Admits(string(change.Type), is, was)
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
func identify(o *object.Object) (key string, seen row, err error) {
	key = o.Key()
	if seen.uid, err = uuid.Parse(o.UID); err != nil || !canonical(o.UID) {
		return "", row{}, fmt.Errorf("%s: metadata.uid %q is not a UUID as the API server writes it", key, o.UID)
	}
	if seen.version, err = parseVersion(o.ResourceVersion); err != nil {
		return "", row{}, fmt.Errorf("%s: %w", key, err)
	}
	return key, seen, nil
}

// canonical tells whether a text that can be read as a UUID is what that UUID is
// written as.
func canonical(uid string) bool {
	const length = 36 // RFC 9562
	return len(uid) == length && uid == strings.ToLower(uid)
}

// split takes a key apart.
func split(key string) (namespace, name string) {
	namespace, name, namespaced := strings.Cut(key, "/")
	if !namespaced {
		return "", key
	}
	return namespace, name
}

func formatVersion(version uint64) string { return strconv.FormatUint(version, 10) }

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
