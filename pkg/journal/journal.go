// Package journal says how a flow's ledger outlives the process: what of it is
// kept, in which form, and what a keeper of it promises. A stream that holds a
// flow's events is the best keeper: there an event is a row of the ledger.
package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"

	"github.com/google/uuid"
)

// Row is what a ledger knows of one object, or of its end.
type Row struct {
	// Key is "<namespace>/<name>", or "<name>" where cluster-scoped.
	Key     string
	UID     uuid.UUID
	Version uint64
	// Gone: the object is no more; Version is that of its end.
	Gone bool
	// Sent: an event of the object was delivered.
	Sent bool
	// Buried: the object was told to be deleted, and its data is there all the
	// same (its CRD went without it). Nothing more is told of it.
	Buried bool
	// Risen: a requested resync has told of the object after it was told to be
	// deleted, so that its end is another than that.
	Risen bool
	// Resync is the requested resync that told of this version; 0 for none.
	Resync uint64
	// Deselected: the end, of which Gone tells, is that the route no longer
	// selected the object; it may come back.
	Deselected bool
	// Listed is the resource version of the list by which a changed selection
	// brought the object up, which had not changed itself: the row is newer
	// than any up to there, whatever its Version. 0 otherwise.
	Listed uint64
	// Digest stands for what of this version counts as a change; zero where
	// that is not known.
	Digest [16]byte
}

// Phase is how far a flow has come with its CRD.
type Phase string

// The phases of a flow.
const (
	Waiting   Phase = "waiting"   // there is no CRD, or nothing of it has been followed yet
	Listing   Phase = "listing"   // the first list is not durable yet
	Following Phase = "following" // it is
)

// State is what no row tells of a flow.
type State struct {
	CRD   string `json:"crd"`
	Route string `json:"route"`
	Sink  string `json:"sink"`

	Phase Phase `json:"phase"`
	// Active is when the route became active for the flow, in seconds of Unix
	// time.
	Active int64 `json:"active,omitempty"`
	// Incarnation is the uid of the CRD that is followed.
	Incarnation string `json:"incarnation,omitempty"`
	// Existing: what the first list tells of are existing objects, not created ones.
	Existing bool `json:"existing,omitempty"`
	// Position is W: everything up to this resource version is durable. 0
	// where there is none to go on from. Where the route names namespaces,
	// each has a watch of its own, and a W in Positions; one of 0 says that a
	// complete list of the namespace has been durable, and none is there to go
	// on from.
	Position  uint64            `json:"position,omitempty"`
	Positions map[string]uint64 `json:"positions,omitempty"`
	// Rewound is the position that the API server's history was found to end
	// before: etcd was restored from a backup. Nothing goes on before a resync
	// is requested.
	Rewound uint64 `json:"rewound,omitempty"`

	// History is the number of the requested resync that went on after that. All
	// other events since have it in their ids: a version, or an object's end, of the
	// history that is no more may have been told by the same id without it.
	History uint64 `json:"history,omitempty"`

	// Version, Kind and Namespaced describe the resource when its CRD no
	// longer does.
	Version    string `json:"version,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Namespaced bool   `json:"namespaced,omitempty"`

	// Selection stands for what the route selects of the CRD's objects.
	Selection string `json:"selection,omitempty"`
	// Resync is the last requested resync that is done, Resyncing the one that
	// is under way.
	Resync    uint64 `json:"resync,omitempty"`
	Resyncing uint64 `json:"resyncing,omitempty"`
}

// Equal tells whether two states say the same.
func (s State) Equal(other State) bool { return reflect.DeepEqual(s, other) }

// Claim is what a Journal says when it is claimed.
type Claim struct {
	State State
	// Known: the flow has been claimed before, by this process or another.
	Known bool
	// Requested is the number of the last resync of the flow's route that has
	// been requested by now; 0 where none has, and where the state says which
	// one is done.
	Requested uint64
	// Gap says in words why rows may be missing from what was restored. Empty
	// where none can be.
	Gap string
}

// Restorer takes what a Journal has kept.
type Restorer interface {
	// Reset says that what was known is void: what follows is all of it.
	Reset()
	// Restore gives a row. Rows of one key come in their order, unless one is
	// given that is older than one before: that one is nothing.
	Restore(Row)
	// Rebase says that all versions given so far are of another history and
	// cannot be compared with those that follow.
	Rebase()
}

// Journal keeps the state of one flow. It is claimed before anything else is
// done with it. One call at a time, and none while the flow's events are being
// published, but for Snapshot.
type Journal interface {
	// Claim makes this process the only writer of the flow: whatever another
	// has under way can no longer become durable. It hands to the restorer
	// what is durable: all of it the first time, and after something else may
	// have happened to it; otherwise only what has become durable since
	// without anybody having said so.
	Claim(ctx context.Context, into Restorer) (Claim, error)

	// Record makes rows durable that no event in this place tells, and then
	// the state.
	Record(ctx context.Context, rows []Row, state State) error

	// Rebase records the state, and that versions up to now are of another
	// history; see Restorer.
	Rebase(ctx context.Context, state State) error

	// SnapshotDue tells whether it is time for a snapshot, as the way back
	// would be long without one, or what it is needed for would be gone. The
	// ledger has that many rows.
	SnapshotDue(rows int) bool

	// OnDue names who is called, in any goroutine, when SnapshotDue may have
	// become true without anything being recorded: what the ledger is made of
	// ages while nothing happens. Nil names nobody.
	OnDue(call func())

	// Snapshot writes the state and all rows to where the next Claim finds
	// them. The rows may be newer than the moment of the call. It is the one
	// method that may run beside others; the next Record makes it count.
	Snapshot(ctx context.Context, state State, rows iter.Seq[Row]) error

	// Exact tells whether the events themselves are rows here, so that each is
	// stored once. Elsewhere the rows have to be recorded when their events
	// are delivered, and those in between are delivered again after a crash.
	Exact() bool

	// Fenced tells whether the last claim is one that shuts other bridges out.
	// It does not block.
	Fenced() bool
}

// ErrReplaced is why a claim is void: the place is not the one it was made in,
// or has been put back to an earlier state. Claimed once more, the journal
// restores from what there is.
var ErrReplaced = errors.New("the flow has to be restored anew")

// FencedError says that another bridge has taken over the flow. This one can
// no longer deliver anything of it, and must end.
type FencedError struct {
	Flow  string // route and CRD
	Owner string // of the newer claim
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("another bridge (%s) has taken over the flow of %s: two must not deliver at once, so this one ends; "+
		"to run several replicas, enable leaderElection", e.Owner, e.Flow)
}
