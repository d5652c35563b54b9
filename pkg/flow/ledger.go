package flow

import (
	"iter"
	"sync"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/journal"
)

// row is what the ledger knows of an object: 32 bytes, and its key.
type row struct {
	uid     uuid.UUID
	version uint64
	list    uint32 // the number of the last list that had the object in it
	marks   marks
}

// marks are what else is known of an object.
type marks uint8

const (
	// sent: an event of the object was delivered.
	sent marks = 1 << iota
	// doubted: the sink was given the object's first event, and did not say
	// whether it has it. The object is told of anew where it is there, and its
	// deletion is where it is not.
	doubted
	// buried: the object was told to be deleted and is there all the same, as
	// its CRD was removed by force. Nothing more is told of it.
	buried
	// resent: the requested resync that is under way has told of the object.
	resent
	// risen: a requested resync has told of the object after it was told to be
	// deleted.
	risen
)

func (r row) is(m marks) bool { return r.marks&m != 0 }

// pendingRow is a row that is on its way to the sink.
type pendingRow struct {
	row
	gone  bool
	order uint64 // of the item that carries it
}

// tomb is an object whose deletion is durable.
type tomb struct {
	uid     uuid.UUID
	version uint64 // of the deletion
}

// ledger says, for each object, which version of it is durable in the sink
// (rows) and which newer one is on its way there (pending). Keys are
// "<namespace>/<name>", or "<name>" where the resource is cluster-scoped.
//
// One goroutine at a time observes and adds; another acknowledges.
type ledger struct {
	mu      sync.Mutex
	rows    map[string]row
	pending map[string]pendingRow
	// dead are the objects whose deletion is durable and lies after position:
	// a watch from there tells of their lives once more, and of namesakes'
	// before them. Where there is no position they are all those of the CRD
	// that is gone: the next one's first list tells whether their data is.
	dead map[string]tomb

	// incarnation is the uid of the CRD whose objects these are.
	incarnation types.UID
	// existing: what the first list tells of are existing objects.
	existing bool
	// position is the resource version up to which everything is durable; 0
	// where there is none to watch from.
	position uint64
	// listed is set once a complete list of this incarnation is durable.
	listed bool
	list   uint32
	// rewound is the position that the API server's history ends before.
	rewound uint64
	// selection stands for what the route selected of the objects when all that
	// it selected had been told of.
	selection string
	// resync is the last requested resync that is done, resyncing the one that
	// is under way.
	resync, resyncing uint64

	// changes counts what would be different in a snapshot.
	changes uint64
	// told are the rows of a restoration that a resync has told of.
	told map[string]uint64
}

func newLedger() *ledger {
	l := &ledger{}
	l.Reset()
	return l
}

// Reset implements journal.Restorer.
func (l *ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows, l.pending, l.dead = map[string]row{}, map[string]pendingRow{}, map[string]tomb{}
	l.incarnation, l.existing, l.position, l.listed, l.rewound = "", false, 0, false, 0
	l.selection, l.resync, l.resyncing, l.told = "", 0, 0, nil
	l.changes++
}

// Restore implements journal.Restorer. The versions under one name only grow,
// so what is older than what is known comes from before it.
func (l *ledger) Restore(r journal.Row) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	known, alive := l.rows[r.Key]
	died, dead := l.dead[r.Key]
	rises := dead && r.Resync != 0 && !r.Gone && r.UID == died.uid
	if (alive && r.Version < known.version) || (dead && !rises && (r.Version < died.version || !r.Gone && r.Version == died.version)) {
		return
	}
	if r.Gone {
		delete(l.rows, r.Key)
		l.dead[r.Key] = tomb{r.UID, r.Version}
		return
	}
	delete(l.dead, r.Key)
	restored := row{uid: r.UID, version: r.Version, list: known.list}
	restored.set(sent, r.Sent || (alive && known.uid == r.UID && known.is(sent)))
	restored.set(buried, r.Buried)
	same := alive && known.uid == r.UID
	restored.set(resent, same && known.is(resent))
	restored.set(risen, r.Risen || rises || same && (known.is(risen) || r.Resync != 0 && known.is(buried)))
	l.rows[r.Key] = restored
	if r.Resync != 0 {
		if l.told == nil {
			l.told = map[string]uint64{}
		}
		l.told[r.Key] = r.Resync
	}
}

func (r *row) set(m marks, on bool) {
	if on {
		r.marks |= m
	} else {
		r.marks &^= m
	}
}

// Rebase implements journal.Restorer: versions known so far are of another
// history, and any version is newer than they are.
func (l *ledger) Rebase() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	for key, r := range l.rows {
		r.version = 0
		l.rows[key] = r
	}
	l.dead = map[string]tomb{}
	l.position, l.rewound = 0, 0
}

// restored takes the state that goes with the rows, once all are restored.
// settled says that no event is in doubt any more.
func (l *ledger) restored(s journal.State, fresh, settled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fresh {
		l.incarnation, l.existing = types.UID(s.Incarnation), s.Existing
		l.position, l.listed, l.rewound = s.Position, s.Phase == journal.Following, s.Rewound
		l.selection, l.resync, l.resyncing = s.Selection, s.Resync, s.Resyncing
		l.bury()
	}
	for key, n := range l.told {
		if r, ok := l.rows[key]; ok && n == l.resyncing {
			r.set(resent, true)
			l.rows[key] = r
		}
	}
	l.told = nil
	if !settled {
		return
	}
	for key, r := range l.rows {
		if r.is(doubted) { // it never arrived
			delete(l.rows, key)
		}
	}
}

// bury forgets the dead that no watch can tell of any more. The lock is held.
func (l *ledger) bury() {
	for key, died := range l.dead {
		if died.version <= l.position {
			delete(l.dead, key)
		}
	}
}

// state is the part of journal.State that the ledger knows.
func (l *ledger) state() journal.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := journal.State{
		Phase: journal.Waiting, Incarnation: string(l.incarnation), Existing: l.existing, Position: l.position,
		Rewound: l.rewound, Selection: l.selection, Resync: l.resync, Resyncing: l.resyncing,
	}
	switch {
	case l.listed:
		s.Phase = journal.Following
	case l.incarnation != "":
		s.Phase = journal.Listing
	}
	return s
}

// all are the rows as a snapshot has them. Each is as it is when it is its
// turn, so that nobody has to wait for all of them.
func (l *ledger) all() iter.Seq[journal.Row] {
	const atOnce = 1024
	return func(yield func(journal.Row) bool) {
		l.mu.Lock()
		keys := make([]string, 0, len(l.rows)+len(l.dead))
		for key := range l.rows {
			keys = append(keys, key)
		}
		for key := range l.dead {
			keys = append(keys, key)
		}
		resyncing := l.resyncing
		l.mu.Unlock()
		rows := make([]journal.Row, 0, atOnce)
		for len(keys) > 0 {
			n := min(len(keys), atOnce)
			rows = rows[:0]
			l.mu.Lock()
			for _, key := range keys[:n] {
				if r, ok := l.rows[key]; ok && !r.is(doubted) {
					out := journal.Row{Key: key, UID: r.uid, Version: r.version, Sent: r.is(sent), Buried: r.is(buried), Risen: r.is(risen)}
					if r.is(resent) {
						out.Resync = resyncing
					}
					rows = append(rows, out)
				} else if died, ok := l.dead[key]; ok {
					rows = append(rows, journal.Row{Key: key, UID: died.uid, Version: died.version, Gone: true})
				}
			}
			l.mu.Unlock()
			keys = keys[n:]
			for _, r := range rows {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// begin makes the ledger that of the given incarnation of the CRD, and tells
// whether it was another's before. Another incarnation has another history,
// so the position is void; the rows stay, and the next list's difference to
// them is the drain of the old one.
func (l *ledger) begin(incarnation types.UID, existing bool) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.incarnation == incarnation {
		return false
	}
	changed = l.incarnation != ""
	l.incarnation, l.existing, l.position, l.listed = incarnation, existing, 0, false
	l.changes++
	return changed
}

// selects makes the selection the ledger's, where it has none, and tells
// whether it has another one: there are objects to be told of that no watch
// brings.
func (l *ledger) selects(selection string) (differently bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.selection == "" {
		l.selection = selection
		l.changes++
	}
	return l.selection != selection
}

// relist makes the next run list and compare: what is known is not all.
func (l *ledger) relist() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.position = 0
}

// holdsOthers tells whether there are rows, and they are of another incarnation.
func (l *ledger) holdsOthers(incarnation types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.incarnation != "" && l.incarnation != incarnation && len(l.rows)+len(l.pending) > 0
}

// newestVersion is that of the newest row.
func (l *ledger) newestVersion() (version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rows {
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
		for key, r := range l.rows {
			if r.is(resent) {
				r.set(resent, false)
				l.rows[key] = r
			}
		}
		l.changes++
	}
	return true
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
	l.rewound = max(l.position, version)
	l.changes++
}

// resume is where a watch may begin, and whether a list has been durable.
func (l *ledger) resume() (position uint64, listed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.position, l.listed
}

// newest is the newest row of the key, on its way or durable. The lock is held.
func (l *ledger) newest(key string) (row, bool) {
	if p, ok := l.pending[key]; ok {
		return p.row, !p.gone
	}
	r, ok := l.rows[key]
	return r, ok
}

// sight is what is known of an object that the API server tells of.
type sight struct {
	known row  // the newest of that name
	alive bool // it was not told to be deleted
	// news: this version is one that was not heard of yet.
	news bool
	// risen: the object was told to be deleted, and is there.
	risen bool
}

// observe looks up what is known of an object that the API server tells of. It
// is no news where this version, a later one or a later bearer of the name has
// been heard of: the versions under one name only grow, so what is older is a
// watch that repeats itself.
func (l *ledger) observe(key string, seen row, inList bool) (s sight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.known, s.alive = l.newest(key)
	_, pending := l.pending[key]
	died, dead := l.dead[key]
	switch {
	case s.alive && s.known.is(doubted):
		s.news = seen.version >= s.known.version
	case s.alive || pending:
		s.news = seen.version > s.known.version
	case dead && died.uid == seen.uid:
		// A list has what is there; a watch may repeat what was there once.
		s.risen = inList || seen.version > died.version
	default:
		s.news = seen.version > died.version
	}
	return s
}

// startList begins a list; markListed notes that an object is in it.
func (l *ledger) startList() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list++
}

func (l *ledger) markListed(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.pending[key]; ok {
		p.list = l.list
		l.pending[key] = p
		return
	}
	if r, ok := l.rows[key]; ok {
		r.list = l.list
		l.rows[key] = r
	}
}

// keyed is a row with its key.
type keyed struct {
	key string
	row
}

// absent are the objects that were not in the list, nor are newer than it.
func (l *ledger) absent(version uint64) []keyed {
	return l.where(func(r row) bool { return r.list != l.list && r.version <= version })
}

// upTo are the objects that are not newer than the version.
func (l *ledger) upTo(version uint64) []keyed {
	return l.where(func(r row) bool { return r.version <= version })
}

func (l *ledger) where(wanted func(row) bool) []keyed {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []keyed
	for key, r := range l.rows {
		if _, pending := l.pending[key]; !pending && wanted(r) {
			found = append(found, keyed{key, r})
		}
	}
	for key, p := range l.pending {
		if !p.gone && wanted(p.row) {
			found = append(found, keyed{key, p.row})
		}
	}
	return found
}

// holds tells whether there are rows that are not newer than the version.
func (l *ledger) holds(version uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rows {
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

// pend notes that an item with a change is on its way.
func (l *ledger) pend(i *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i.row.list = l.list
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
		if i.position > l.position {
			l.position = i.position
			l.bury()
		}
		if i.listed {
			l.listed = true
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

func (l *ledger) ackRow(i *item) {
	r := i.row
	if p, ok := l.pending[i.key]; ok && p.order == i.order {
		r = p.row // with the mark of a list that came by in the meantime
		delete(l.pending, i.key)
	}
	if !i.gone {
		l.rows[i.key] = r
		delete(l.dead, i.key)
		return
	}
	delete(l.rows, i.key)
	if i.drained || r.version > max(l.position, i.position) {
		l.dead[i.key] = tomb{r.uid, r.version}
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
		if _, known := l.rows[i.key]; !known && !i.gone {
			i.row.set(doubted, true)
			l.rows[i.key] = i.row
		}
	}
}

// endIncarnation closes the ledger of an incarnation of which every object's
// deletion is durable. Rows that are left are of a later one, which was heard
// of before its CRD was; the next list compares with them. The dead stay: if
// the CRD was removed by force, the next one brings them back.
func (l *ledger) endIncarnation() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.incarnation, l.position, l.listed, l.existing, l.rewound = "", 0, false, false, 0
	l.changes++
}

// objects is how many objects are known to exist.
func (l *ledger) objects() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.rows)
	for key, p := range l.pending {
		_, durable := l.rows[key]
		switch {
		case p.gone && durable:
			n--
		case !p.gone && !durable:
			n++
		}
	}
	return n
}

// size is how many rows a snapshot has, and changed what it changes with.
func (l *ledger) size() (rows int, changed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.rows) + len(l.dead), l.changes
}
