package flow

import (
	"log/slog"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sources"
)

// ID is a flow's identity, and its ledger's, its metrics' and its status'.
type ID struct {
	CRD   string
	Route string
	Sink  string
}

// Environment is what all flows share.
type Environment struct {
	Cluster string // the configured name, part of every event's source
	API     sources.Cluster
	Memory  *Memory
	Metrics *Metrics
	Log     *slog.Logger
	Tap     *Tap // that others look through while flows deliver; may be nil
}

// Flow is one CRD's changes, on one route, to one sink. At most one Run of it
// exists at a time.
type Flow struct {
	id        ID
	env       Environment
	publisher sinks.Publisher
	journal   journal.Journal
	pattern   *Flow // of the wildcard that the flow is of, if it is
	log       *slog.Logger
	ledger    *ledger
	condition *condition

	delivered atomic.Uint64
	waited    atomic.Int64        // nanoseconds from observed to durable, of all that was delivered
	last      atomic.Int64        // when the last was, in Unix nanoseconds
	run       atomic.Pointer[Run] // the one that is not done yet
	requested atomic.Uint64       // the last resync that was asked for

	// claimed is closed when the journal has been claimed for the first time.
	// known and active, which are set before, tell whether something had been
	// recorded before that, and since when the route has been active.
	claimed chan struct{}
	known   bool
	active  int64 // see journal.State
	// state is as it was recorded last; begun tells whether something of the
	// flow was ever followed into the place where its events go. They belong to
	// the run.
	state journal.State
	begun bool
	// unsaved are rows that the last run could not record.
	unsaved map[string]journal.Row
}

// New makes a flow that waits for its first run. Its ledger is kept in the
// journal. Where a wildcard brought the flow about, pattern is the flow that
// stands for the wildcard: it remembers that the route was active when there
// was nothing yet that could be followed.
func New(id ID, env Environment, publisher sinks.Publisher, kept journal.Journal, pattern *Flow) *Flow {
	log := env.Log.With("crd", id.CRD, "route", id.Route, "sink", id.Sink)
	return &Flow{
		id: id, env: env, publisher: publisher, journal: kept, pattern: pattern, log: log,
		ledger:    newLedger(),
		condition: &condition{log: log},
		claimed:   make(chan struct{}),
	}
}

// ID is the flow's identity.
func (f *Flow) ID() ID { return f.id }

// Idle says why nothing runs: Waiting, Failed or Stopped, and the reason in
// words with what to do.
func (f *Flow) Idle(state State, reason string) { f.condition.setIdle(state, reason) }

// Going says that the CRD has begun to be deleted. Its objects go first, and
// each one's end is an event.
func (f *Flow) Going() { f.condition.setGoing("the CRD is being deleted") }

// Holds tells whether the sink may know of objects whose end it has not heard
// of; it may as long as the ledger has not been restored. Objects that are
// newer than the version do not count: where that is when the CRD was seen to
// be gone, they are of the next one.
func (f *Flow) Holds(version uint64) bool {
	select {
	case <-f.claimed:
		return f.ledger.holds(version)
	default:
		return true
	}
}

// HoldsOthers tells whether the sink may know of objects of another CRD of
// that name than the one with the uid.
func (f *Flow) HoldsOthers(crd types.UID) bool {
	select {
	case <-f.claimed:
		return f.ledger.holdsOthers(crd)
	default:
		return true
	}
}

// RequestResync has the flow tell of all its objects again, unless that was
// done for the request of that number or a later one. The next run does it: it
// tells whether one that is under way has to make way.
func (f *Flow) RequestResync(number uint64) (restart bool) {
	for last := f.requested.Load(); ; last = f.requested.Load() {
		if number <= last {
			return false
		}
		if f.requested.CompareAndSwap(last, number) {
			break
		}
	}
	if !f.isClaimed() {
		return false // a run looks at it after it has claimed
	}
	s := f.ledger.state()
	return number > s.Resync && number != s.Resyncing
}

// Rest ends the flow's series until its next run, in which its counters go on,
// also where another Flow of the same ID has it. It must not run.
func (f *Flow) Rest() { f.env.Metrics.rest(f.id, time.Now()) }

// Forget ends the flow's series for good. It must not run.
func (f *Flow) Forget() { f.env.Metrics.forget(f.id) }

// Status is how a flow is at one moment.
type Status struct {
	ID
	Version   string // of the CRD, as it is watched; empty while nothing runs
	State     State
	Since     time.Time // of the state; zero where it was never another
	Reason    string
	Objects   int
	Delivered uint64
	// Waited is how long all that was delivered took together, from being
	// observed to being durable.
	Waited time.Duration
	// LastDelivered is when an event was last delivered; zero for never.
	LastDelivered time.Time
	Pending       int
	Lag           time.Duration // since the oldest event that is not durable was observed
	LastError     string
	// Fenced: no other bridge can deliver anything of the flow unnoticed.
	Fenced bool
	// Missing is the right that a Forbidden flow lacks; nil otherwise.
	Missing *Right
}

// Right is to list and watch objects.
type Right struct {
	Group, Resource string
	Namespace       string // empty for all of them
}

// Status is how the flow is now. It does not wait for anything.
func (f *Flow) Status() Status {
	s := Status{ID: f.id, Objects: f.ledger.objects(), Delivered: f.delivered.Load(), Waited: time.Duration(f.waited.Load()), Fenced: f.journal.Fenced()}
	f.condition.now(&s)
	if last := f.last.Load(); last != 0 {
		s.LastDelivered = time.Unix(0, last)
	}
	if r := f.run.Load(); r != nil {
		s.Version = r.version()
		var since time.Time
		if s.Pending, since = r.queue.waiting(); !since.IsZero() {
			s.Lag = time.Since(since)
		}
	}
	return s
}
