package flow

import (
	"sync"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"
)

// row is what the ledger knows of an object: 32 bytes, and its key.
type row struct {
	uid     uuid.UUID
	version uint64
	list    uint32 // the number of the last list that had the object in it
	// doubt says that the sink was given the object's first event, and did not
	// say whether it has it. The object is told of anew where it is there, and
	// its deletion is where it is not.
	doubt bool
}

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
	rows    map[string]row
	pending map[string]pendingRow
	// dead are the objects whose deletion is durable and lies after position:
	// a watch from there tells of their lives once more, and of namesakes'
	// before them. The value is the resource version of the deletion.
	dead map[string]uint64

	// incarnation is the uid of the CRD whose objects these are.
	incarnation types.UID
	// position is the resource version up to which everything is durable; 0
	// where there is none to watch from.
	position uint64
	// listed is set once a complete list of this incarnation is durable.
	listed bool
	list   uint32
}

func newLedger() *ledger {
	return &ledger{rows: map[string]row{}, pending: map[string]pendingRow{}, dead: map[string]uint64{}}
}

// begin makes the ledger that of the given incarnation of the CRD, and tells
// whether it was another's before. Another incarnation has another history,
// so the position is void; the rows stay, and the next list's difference to
// them is the drain of the old one.
func (l *ledger) begin(incarnation types.UID) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.incarnation == incarnation {
		return false
	}
	changed = l.incarnation != ""
	l.incarnation, l.position, l.listed = incarnation, 0, false
	return changed
}

// resume is where a watch may begin, and whether there is such a place.
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

// observe looks up what is known of an object that the API server tells of,
// and whether that is news. It is not where this version, a later one or a
// later bearer of the name has been heard of: the versions under one name only
// grow, so what is older is a watch that repeats itself.
func (l *ledger) observe(key string, seen row) (known row, alive, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, alive = l.newest(key)
	_, pending := l.pending[key]
	switch {
	case alive && known.doubt:
		return known, alive, seen.version >= known.version
	case alive || pending:
		return known, alive, seen.version > known.version
	}
	return known, alive, seen.version > l.dead[key]
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
		if i.event != nil {
			l.ackRow(i)
		}
		if i.position > l.position {
			l.position = i.position
			for key, died := range l.dead {
				if died <= l.position {
					delete(l.dead, key)
				}
			}
		}
		l.listed = l.listed || i.listed
	}
}

func (l *ledger) ackRow(i *item) {
	r := i.row
	if p, ok := l.pending[i.key]; ok && p.order == i.order {
		r = p.row // with the mark of a list that came by in the meantime
		delete(l.pending, i.key)
	}
	if !i.gone {
		l.rows[i.key] = r
		return
	}
	delete(l.rows, i.key)
	if r.version > max(l.position, i.position) {
		l.dead[i.key] = r.version
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
			i.row.doubt = true
			l.rows[i.key] = i.row
		}
	}
}

// endIncarnation closes the ledger of an incarnation of which every object's
// deletion is durable. Rows that are left are of a later one, which was heard
// of before its CRD was; the next list compares with them.
func (l *ledger) endIncarnation() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = map[string]uint64{}
	l.incarnation, l.position, l.listed = "", 0, false
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
