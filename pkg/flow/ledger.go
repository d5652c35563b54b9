package flow

import (
	"iter"
	"slices"
	"sync"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/events/changes"
)

// row is what the ledger knows of an object. How it is kept says table.
type row struct {
	uid     uuid.UUID
	version uint64
	list    uint32 // the number of the last list that had the object in it
	marks   marks
	// digest stands for what counts as a change of the object, where the route
	// leaves out updates that are none. It is zero where that is not known.
	digest changes.Digest
}

// marks are what else is known of an object. The highest bit is the table's.
type marks uint8

const (
	// sent: an event of the object was delivered.
	sent marks = 1 << iota
	// doubted: the sink was given the object's first event, and did not say
	// whether it has it. The object is told of anew where it is there, and its
	// deletion is where it is not.
	doubted
	// buried: the object was told to be deleted and is there all the same, as
	// its CRD went without its data. Nothing more is told of it.
	buried
	// resent: the requested resync that is under way has told of the object.
	resent
	// risen: a requested resync has told of the object after it was told to be
	// deleted.
	risen
	// deselected, of an object that is dead to the route: it no longer selects
	// it, and it may come back.
	deselected
)

func (r row) is(m marks) bool { return r.marks&m != 0 }

// pendingRow is a row that is on its way to the sink.
type pendingRow struct {
	row
	gone  bool
	order uint64 // of the item that carries it
}

// ledger says, for each object, which version of it is durable in the sink
// (rows) and which newer one is on its way there (pending). Keys are
// "<namespace>/<name>", or "<name>" where the resource is cluster-scoped.
//
// One goroutine at a time observes and adds; another acknowledges.
type ledger struct {
	mu      sync.Mutex
	rows    table
	pending map[string]pendingRow
	// digestsStay: the rows' digests may leave the process.
	digestsStay bool
	// dead are the objects whose end is durable and lies after their watch's
	// position: a watch from there tells of their lives once more, and of
	// namesakes' before them. Where there is no watch they are all those of
	// the CRD that is gone: the next one's first list tells whether their data
	// is. Of such a row there are the uid, the version of the end, and whether
	// that was deselected.
	dead table

	// incarnation is the uid of the CRD whose objects these are.
	incarnation types.UID
	// existing: what the first list tells of are existing objects.
	existing bool
	// wanted are the namespaces to watch, watches those of which a complete
	// list of this incarnation is durable.
	wanted  []string
	watches watches
	list    uint32
	// rewound is the position that the API server's history ends before.
	rewound uint64
	// history is the number of the requested resync since which versions are of
	// another history; 0 where all are of one.
	history uint64
	// selection stands for what the route selected of the objects when all that
	// it selected had been told of; inTransition where it never was.
	selection string
	// resync is the last requested resync that is done, resyncing the one that
	// is under way.
	resync, resyncing uint64

	// changes counts what would be different in a snapshot.
	changes uint64
	// told are the rows of a restoration that a resync has told of; its number
	// is their version.
	told table
}

func newLedger() *ledger {
	l := &ledger{}
	l.Reset()
	return l
}

func (r *row) set(m marks, on bool) {
	if on {
		r.marks |= m
	} else {
		r.marks &^= m
	}
}

// bury forgets the dead that no watch can tell of any more. The lock is held.
func (l *ledger) bury() {
	least := l.watches.least()
	l.dead.deleteFunc(func(key []byte, died row) bool {
		position := least
		if w := l.watches.of(string(key)); w != nil {
			position = w.durable()
		}
		return died.version <= position
	})
}

// allListed tells whether a complete list of all that is wanted is durable. The
// lock is held.
func (l *ledger) allListed() bool {
	if len(l.wanted) == 0 {
		return len(l.watches) > 0 // no run has said yet what it wants
	}
	for _, namespace := range l.wanted {
		if l.watches[namespace] == nil {
			return false
		}
	}
	return true
}

// forgetPositions makes the next run list and compare. The lock is held.
func (l *ledger) forgetPositions() {
	for _, w := range l.watches {
		w.position, w.held = 0, nil
	}
}

// begin makes the ledger that of the given incarnation of the CRD, and tells
// whether it was another's before. Another incarnation has another history,
// so the positions are void; the rows stay, and the next list's difference to
// them is the drain of the old one.
func (l *ledger) begin(incarnation types.UID, existing bool) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.incarnation == incarnation {
		return false
	}
	changed = l.incarnation != ""
	l.incarnation, l.existing, l.watches = incarnation, existing, watches{}
	l.changes++
	return changed
}

// watch makes the ledger's watches those of the namespaces; see
// watches.watching. digestsStay tells whether digests may be recorded.
func (l *ledger) watch(namespaces []string, reselected, digestsStay bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted, l.digestsStay = namespaces, digestsStay
	if next := l.watches.watching(namespaces, reselected); !next.equal(l.watches) {
		l.watches = next
		l.changes++
	}
}

// inTransition is the selection while objects are told of that the route
// selects since its selection changed: neither the one before nor the new one
// can be taken for done.
const inTransition = "changing"

// selects makes the selection the ledger's, where it has none, and tells
// whether it has another one: there are objects to be told of that no watch
// brings.
func (l *ledger) selects(selection string) (differently bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.selection {
	case selection:
		return false
	case "":
		l.selection = selection
		l.changes++
		return false
	}
	l.selection = inTransition
	l.changes++
	return true
}

// relist makes the next run list and compare: what is known is not all.
func (l *ledger) relist() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetPositions()
}

// holdsOthers tells whether there are rows, and they are of another incarnation.
func (l *ledger) holdsOthers(incarnation types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.incarnation != "" && l.incarnation != incarnation && l.rows.len()+len(l.pending) > 0
}

// newestVersion is that of the newest row.
func (l *ledger) newestVersion() (version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rows.all() {
		version = max(version, r.version)
	}
	for _, p := range l.pending {
		version = max(version, p.version)
	}
	return version
}

// startResync begins a requested resync, or goes on with it. It tells whether
// the ledger does not know it as done.
func (l *ledger) startResync(number uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number <= l.resync {
		return false
	}
	if l.resyncing != number {
		l.resyncing = number
		l.rows.edit(func(r row) row {
			r.set(resent, false)
			return r
		})
		l.changes++
	}
	return true
}

// goOn makes what follows another history than what was told so far: the
// requested resync of that number is where it begins.
func (l *ledger) goOn(number uint64) {
	l.Rebase()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.history = number
}

// skipResync takes a resync for done that was requested when there was nothing
// yet that could be told again.
func (l *ledger) skipResync(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resync = max(l.resync, number)
}

// lastResync is the number of the last resync that has begun.
func (l *ledger) lastResync() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.resync, l.resyncing)
}

// setRewound notes that the API server has less than what was delivered, which
// is up to that version at least.
func (l *ledger) setRewound(version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rewound = max(l.watches.most(), version)
	l.changes++
}

// resume is where the watch of a namespace may begin, and whether a list of it
// has been durable.
func (l *ledger) resume(namespace string) (position uint64, listed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.watches[namespace]; w != nil {
		return w.position, true
	}
	return 0, false
}

// newestTold is what no event has a later sequence than, as far as positions
// and the dead tell, while nothing is on its way.
func (l *ledger) newestTold() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest := l.watches.most()
	for _, died := range l.dead.all() {
		newest = max(newest, died.version)
	}
	return newest
}

// newest is the newest row of the key, on its way or durable. The lock is held.
func (l *ledger) newest(key string) (row, bool) {
	if p, ok := l.pending[key]; ok {
		return p.row, !p.gone
	}
	return l.rows.get(key)
}

// knows tells whether there is an object with the key.
func (l *ledger) knows(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, alive := l.newest(key)
	return alive
}

// sight is what is known of an object that the API server tells of.
type sight struct {
	known row  // the newest of that name
	alive bool // its end was not told
	// news: this version is one that was not heard of yet.
	news bool
	// risen: the object was told to be deleted, and is there.
	risen bool
	// died: it was told to be deleted, as of the version ended; so was the one that
	// had its name before.
	died  bool
	ended uint64
	// back: it was told to be deselected, and the route selects it again. No
	// watch can tell that.
	back bool
	// outlived: it has outlived its CRD, and the end of the one that had its name
	// before was told as of a version that is later than this one of it.
	outlived bool
}

// observe looks up what is known of an object that the API server tells of. It
// is no news where this version, a later one or a later bearer of the name has
// been heard of: the versions under one name only grow, so what is older is a
// watch that repeats itself.
func (l *ledger) observe(key string, seen row, inList bool) (s sight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.known, s.alive = l.newest(key)
	p, pending := l.pending[key]
	died, dead := l.dead.get(key)
	if pending && p.gone {
		died, dead = p.row, true
	}
	switch {
	case s.alive && s.known.is(doubted):
		s.news = seen.version >= s.known.version
	case s.alive:
		s.news = seen.version > s.known.version
	case dead && died.uid == seen.uid && !died.is(deselected):
		s.died, s.ended = true, died.version
		// A list has what is there; a watch may repeat what was there once.
		s.risen = inList || seen.version > died.version
	default:
		s.news = seen.version > died.version
		s.back = inList && !s.news && died.is(deselected) && died.uid == seen.uid
		// A list has it now, while it is older than an end that was deduced: the
		// API server made it when it deleted what else there was of the CRD.
		s.outlived, s.ended = inList && !s.news && dead && died.uid != seen.uid, died.version
		s.news = s.news || s.back || s.outlived
	}
	return s
}

// startList gives the number of a new list; markListed notes that an object is
// in it.
func (l *ledger) startList() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list++
	return l.list
}

func (l *ledger) markListed(key string, list uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.pending[key]; ok {
		p.list = list
		l.pending[key] = p
		return
	}
	if r, ok := l.rows.get(key); ok {
		r.list = list
		l.rows.put(key, r)
	}
}

// learn notes what counts as a change of a row that is known in that version.
func (l *ledger) learn(key string, seen row, digest changes.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.pending[key]; ok {
		if !p.gone && p.uid == seen.uid && p.version == seen.version {
			p.digest = digest
			l.pending[key] = p
		}
		return
	}
	if r, ok := l.rows.get(key); ok && r.uid == seen.uid && r.version == seen.version {
		r.digest = digest
		l.rows.put(key, r)
		l.changes++
	}
}

// keyed is a row with its key.
type keyed struct {
	key string
	row
}

// upTo are the objects that are not newer than the version; see those.
func (l *ledger) upTo(version uint64) iter.Seq[keyed] {
	return l.those(func(_ []byte, r row) bool { return r.version <= version })
}

// where are the objects that are wanted.
func (l *ledger) where(wanted func(key []byte, r row) bool) []keyed {
	return slices.Collect(l.those(wanted))
}

// atOnce is about how many rows are looked at before others get the lock.
const atOnce = 1024

// those are the objects that are wanted, each as it is when the iteration
// begins. Meanwhile what is on its way may become durable, and of what was
// yielded more may be put on its way, but nothing else. A key is valid during
// the call of wanted only.
func (l *ledger) those(wanted func(key []byte, r row) bool) iter.Seq[keyed] {
	return func(yield func(keyed) bool) {
		// Of what is on its way now that is what counts, whenever it arrives.
		l.mu.Lock()
		pending := make(map[string]bool, len(l.pending))
		var found []keyed
		for key, p := range l.pending {
			pending[key] = true
			if !p.gone && wanted([]byte(key), p.row) {
				found = append(found, keyed{key, p.row})
			}
		}
		l.mu.Unlock()
		for from, more := uint64(0), true; more; {
			l.mu.Lock()
			for seen := 0; more && seen < atOnce; {
				last := l.rows.pageEnd(from)
				for key, r := range l.rows.within(from, last) {
					seen++
					if !pending[string(key)] && wanted(key, r) {
						found = append(found, keyed{string(key), r})
					}
				}
				from, more = last+1, last != lastPlace
			}
			l.mu.Unlock()
			for _, one := range found {
				if !yield(one) {
					return
				}
			}
			found = found[:0]
		}
	}
}

// has tells whether there is an object of whose key that is so.
func (l *ledger) has(so func(key []byte) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.rows.all() {
		if so(key) {
			return true
		}
	}
	for key := range l.pending {
		if so([]byte(key)) {
			return true
		}
	}
	return false
}

// hasDigests tells whether there is a row of which is known what counts as a
// change of it.
func (l *ledger) hasDigests() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rows.all() {
		if r.digested() {
			return true
		}
	}
	for _, p := range l.pending {
		if p.digested() {
			return true
		}
	}
	return false
}

// holds tells whether there are rows that are not newer than the version.
func (l *ledger) holds(version uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rows.all() {
		if r.version <= version {
			return true
		}
	}
	for _, p := range l.pending {
		if !p.gone && p.version <= version {
			return true
		}
	}
	return false
}

// count is how many objects there are that are not newer than the version; one
// counts until its end is durable.
func (l *ledger) count(version uint64) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rows.all() {
		if r.version <= version {
			n++
		}
	}
	for key, p := range l.pending {
		if _, durable := l.rows.get(key); !durable && !p.gone && p.version <= version {
			n++
		}
	}
	return n
}

// pend notes that an item with a change is on its way.
func (l *ledger) pend(i *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending[i.key] = pendingRow{row: i.row, gone: i.gone, order: i.order}
}

// ack notes that items are durable. They come in the order in which they were
// made, each once.
func (l *ledger) ack(items []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range items {
		i := &items[n]
		if i.key != "" {
			l.ackRow(i)
		}
		moved := l.reach(i.reached)
		for _, other := range i.also {
			moved = l.reach(other) || moved
		}
		if moved {
			l.bury()
		}
		if i.resync != 0 && i.resync == l.resyncing {
			l.resync, l.resyncing = l.resyncing, 0
		}
		if i.selection != "" {
			l.selection = i.selection
		}
	}
	l.changes++
}

// reach moves a watch's position, and tells whether the one that a restart may
// go on from has changed. The lock is held.
func (l *ledger) reach(to reached) bool {
	w := l.watches[to.watch]
	if w == nil {
		if !to.listed {
			return false
		}
		w = &watched{}
		l.watches[to.watch] = w
	}
	return w.reach(to.position)
}

func (l *ledger) ackRow(i *item) {
	r := i.row
	if p, ok := l.pending[i.key]; ok && p.order == i.order {
		r = p.row // with the mark of a list that came by in the meantime
		delete(l.pending, i.key)
	}
	if !i.gone {
		l.rows.put(i.key, r)
		l.dead.delete(i.key)
		return
	}
	l.rows.delete(i.key)
	w := l.watches.of(i.key)
	position := i.position
	if w != nil {
		position = max(w.position, position)
		if i.until > position {
			w.hold(r.version, i.until)
		}
		if len(w.held) > 0 {
			position = min(position, w.held[0].end-1)
		}
	}
	if i.drained || r.version > position {
		l.dead.put(i.key, row{uid: r.uid, version: r.version, marks: r.marks & deselected})
	}
}

// forgetPending gives up what is on its way: the rows are what is durable
// again, and a later list or watch finds the difference. Of what the sink was
// given and did not answer for, an object's first event is remembered in
// doubt, lest nobody be told of its end. Of later events there is nothing to
// remember: the object has its row.
func (l *ledger) forgetPending(unanswered []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = map[string]pendingRow{}
	tried := map[string]bool{}
	for n := range unanswered {
		i := &unanswered[n]
		if i.event == nil || tried[i.key] {
			continue // a sink goes on with an object only when it has said of the event before
		}
		tried[i.key] = true
		if _, known := l.rows.get(i.key); !known && !i.gone {
			i.row.set(doubted, true)
			i.row.digest = changes.Digest{} // of what nobody may have
			l.rows.put(i.key, i.row)
		}
	}
}

// endIncarnation closes the ledger of an incarnation of which every object's
// deletion is durable. Rows that are left are of a later one, which was heard
// of before its CRD was; the next list compares with them. The dead stay: if
// the CRD went without their data, the next one brings them back.
func (l *ledger) endIncarnation() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incarnation, l.watches, l.existing, l.rewound = "", watches{}, false, 0
	l.changes++
}

// objects is how many objects are known to exist.
func (l *ledger) objects() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.rows.len()
	for key, p := range l.pending {
		_, durable := l.rows.get(key)
		switch {
		case p.gone && durable:
			n--
		case !p.gone && !durable:
			n++
		}
	}
	return n
}
