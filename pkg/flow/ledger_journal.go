package flow

import (
	"iter"

	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/journal"
)

// Reset implements journal.Restorer.
func (l *ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows, l.pending, l.dead, l.told = table{}, map[string]pendingRow{}, table{}, table{}
	l.incarnation, l.existing, l.wanted, l.watches, l.rewound = "", false, nil, watches{}, 0
	l.selection, l.resync, l.resyncing, l.history = "", 0, 0, 0
	l.changes++
}

// Restore implements journal.Restorer. The versions under one name only grow,
// so what is older than what is known comes from before it.
func (l *ledger) Restore(r journal.Row) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	known, alive := l.rows.get(r.Key)
	died, dead := l.dead.get(r.Key)
	rises := dead && r.Resync != 0 && !r.Gone && r.UID == died.uid && !died.is(deselected)
	at := max(r.Version, r.Listed)
	if (alive && at < known.version) || (dead && !rises && (at < died.version || !r.Gone && at == died.version)) {
		return
	}
	if r.Gone {
		died = row{uid: r.UID, version: r.Version}
		died.set(deselected, r.Deselected)
		l.rows.delete(r.Key)
		l.dead.put(r.Key, died)
		return
	}
	l.dead.delete(r.Key)
	restored := row{uid: r.UID, version: r.Version, list: known.list, digest: r.Digest}
	restored.set(sent, r.Sent || (alive && known.uid == r.UID && known.is(sent)))
	restored.set(buried, r.Buried)
	same := alive && known.uid == r.UID
	restored.set(resent, same && known.is(resent))
	restored.set(risen, r.Risen || rises || same && (known.is(risen) || r.Resync != 0 && known.is(buried)))
	l.rows.put(r.Key, restored)
	if r.Resync != 0 {
		l.told.put(r.Key, row{version: r.Resync})
	}
}

// Rebase implements journal.Restorer: versions known so far are of another
// history, and any version is newer than they are.
func (l *ledger) Rebase() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	l.rows.edit(func(r row) row {
		r.version = 0
		return r
	})
	l.dead = table{}
	l.rewound = 0
	l.forgetPositions()
}

// restored takes the state that goes with the rows, once all are restored.
// settled says that no event is in doubt any more.
func (l *ledger) restored(s journal.State, fresh, settled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fresh {
		l.incarnation, l.existing, l.rewound = types.UID(s.Incarnation), s.Existing, s.Rewound
		l.watches = watches{}
		if s.Phase == journal.Following && len(s.Positions) == 0 {
			l.watches[allNamespaces] = &watched{position: s.Position}
		}
		for namespace, position := range s.Positions {
			l.watches[namespace] = &watched{position: position}
		}
		l.selection, l.resync, l.resyncing, l.history = s.Selection, s.Resync, s.Resyncing, s.History
		l.bury()
	}
	for key, t := range l.told.all() {
		if r, ok := l.rows.get(string(key)); ok && t.version == l.resyncing {
			r.set(resent, true)
			l.rows.put(string(key), r)
		}
	}
	l.told = table{}
	if settled { // what is in doubt never arrived
		l.rows.deleteFunc(func(_ []byte, r row) bool { return r.is(doubted) })
	}
}

// state is the part of journal.State that the ledger knows.
func (l *ledger) state() journal.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := journal.State{
		Phase: journal.Waiting, Incarnation: string(l.incarnation), Existing: l.existing,
		Rewound: l.rewound, Selection: l.selection, Resync: l.resync, Resyncing: l.resyncing, History: l.history,
	}
	s.Position, s.Positions = l.watches.positions()
	switch {
	case l.allListed():
		s.Phase = journal.Following
	case l.incarnation != "":
		s.Phase = journal.Listing
	}
	return s
}

// all are the rows as a snapshot has them. Each is as it is when it is its
// turn, so that nobody has to wait for all of them. Of what changes meanwhile
// there may be a row or none, and an object that is there, or dead, all the time
// has a row.
func (l *ledger) all() iter.Seq[journal.Row] {
	return func(yield func(journal.Row) bool) {
		rows := make([]journal.Row, 0, atOnce)
		for from, more := uint64(0), true; more; {
			rows = rows[:0]
			l.mu.Lock()
			for more && len(rows) < atOnce {
				// An object may go from one table to the other and back, so
				// that both have to be looked at in the same moment.
				last := min(l.rows.pageEnd(from), l.dead.pageEnd(from))
				for key, died := range l.dead.within(from, last) {
					rows = append(rows, journal.Row{Key: string(key), UID: died.uid, Version: died.version, Gone: true, Deselected: died.is(deselected)})
				}
				for key, r := range l.rows.within(from, last) {
					if !r.is(doubted) {
						rows = append(rows, l.record(string(key), r))
					}
				}
				from, more = last+1, last != lastPlace
			}
			l.mu.Unlock()
			for _, r := range rows {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// record is the row of an object as a snapshot has it. The lock is held.
func (l *ledger) record(key string, r row) journal.Row {
	out := journal.Row{Key: key, UID: r.uid, Version: r.version, Sent: r.is(sent), Buried: r.is(buried), Risen: r.is(risen)}
	if r.is(resent) {
		out.Resync = l.resyncing
	}
	if l.digestsStay {
		out.Digest = r.digest
	}
	return out
}

// size is how many rows a snapshot has, and changed what it changes with.
func (l *ledger) size() (rows int, changed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows.len() + l.dead.len(), l.changes
}
