// Package sinks says what a sink is: a place where events become durable.
// Each kind of sink is a folder of its own below this one, and passes the
// conformance suite in sinktest.
package sinks

import (
	"context"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
)

// Flow names, within one cluster, whose events a publisher carries.
type Flow struct {
	Route string
	CRD   string
}

func (f Flow) String() string { return f.CRD + " on route " + f.Route }

// Sink is one place to which events go. It is opened once and shared by all
// flows that lead to it. All its methods may be called concurrently.
type Sink interface {
	// Publisher is the flow's way into the sink. It does not wait for the
	// sink to be reachable, and costs little.
	Publisher(Flow) Publisher
	// Keeper is the sink as one that keeps ledgers; nil where it does not.
	Keeper() Keeper
	// Status is how the sink is now. It does not block.
	Status() Status
	// Reconnect has the sink use what its files of secrets and authorities
	// have now. It does not wait for that.
	Reconnect()
	// Close lets go of the sink, at the latest when ctx is done. Publishers
	// fail from then on.
	Close(ctx context.Context) error
}

// Keeper keeps the ledgers of flows: of those whose publishers are Journals,
// and of flows that lead elsewhere.
type Keeper interface {
	// Journal keeps the ledger of a flow whose events go to the sink of that name.
	Journal(flow Flow, sink string) journal.Journal
	// Flows are the flows of this cluster of which something is kept here.
	Flows(ctx context.Context) ([]Kept, error)
	// Forget deletes what is kept of a flow, if it was last written before
	// then, and tells whether it was.
	Forget(ctx context.Context, flow Kept, before time.Time) (bool, error)
	// Notify has news reported: of claims by other bridges, and of resyncs
	// that people request. It is called once, before anything is claimed; what
	// is given must not block.
	Notify(Listener)
	// RequestResync asks whichever bridge runs the route, now or later, to
	// deliver the present state of its objects again. It returns the
	// request's number when the request is durable.
	RequestResync(ctx context.Context, route string) (uint64, error)
}

// Kept names a flow that a Keeper knows.
type Kept struct {
	Flow
	Sink string // that its events go to
}

// Listener hears of what others do.
type Listener struct {
	// Fenced: another bridge has taken over a flow that this one had claimed.
	Fenced func(*journal.FencedError)
	// Resync: the present state of all the route's objects has been asked
	// for, and this is the number of the request. Numbers grow. One that was
	// told before may be told again.
	Resync func(route string, number uint64)
}

// Publisher carries the events of one flow into a sink. One that is a
// journal.Journal as well keeps the flow's ledger together with its events; it
// has to be claimed before it publishes.
type Publisher interface {
	// Publish hands over events in their order and returns how many of them,
	// counted from the first, are durable; the error says why the rest is
	// not, and is nil exactly if all are.
	//
	// It is one attempt, as long as ctx allows: it never drops an event and
	// then goes on with a later one of the same object, and the caller calls
	// again with all that is not durable, for as long as it takes. An event
	// of which Publish does not say that it is durable may be so all the
	// same, also behind one that is not; a sink that knows its events by id
	// stores it once. After Close it fails with ErrClosed, with a
	// journal.FencedError when another bridge has taken over the flow, and
	// with journal.ErrReplaced when it has to be claimed anew.
	//
	// One call at a time.
	Publish(ctx context.Context, batch []events.Event) (durable int, err error)
}

// Status is how a sink is at one moment.
type Status struct {
	Type      string // the kind of sink, as the configuration names it
	Connected bool
	// LastError says in words which sink does not take events now and why. It
	// is empty while it does.
	LastError string
	// Batches says how events are written where there is more than one way;
	// empty where that is not known yet, or there is only one.
	Batches string
	// Notes say in which ways the sink is not as configured without being
	// unfit, one sentence each.
	Notes []string
	// Server is where the sink is connected to, or was last; empty where it
	// never was.
	Server string
	// Stream is what the sink's events are kept in; nil where they are not, or
	// nothing is known of it yet.
	Stream *Stream
}

// Stream is how a stream was when it was last looked at. Limits that are 0 are
// none.
type Stream struct {
	Name         string
	Storage      string
	Replicas     int
	Messages     uint64
	Bytes        uint64
	Oldest       time.Time // when its first message was stored; zero where it has none
	MaxAge       time.Duration
	MaxBytes     uint64
	MaxMessages  uint64
	MaxOfSubject uint64 // that one subject may have
	DiscardsNew  bool   // when it is full; otherwise what is old goes
	Looked       time.Time
}

// freshFor is twice as long as it takes until a stream is looked at again, while
// flows lead to it. A standby looks once.
const freshFor = time.Minute

// Fresh tells whether it was looked at so lately that it says how the stream is.
func (s *Stream) Fresh() bool { return time.Since(s.Looked) < freshFor }

// Left is how many bytes fit in before the stream is full, and whether its own
// limits say that at all: those of the account and of the disk are not known.
func (s *Stream) Left() (bytes uint64, limited bool) {
	if s.MaxBytes == 0 {
		return 0, false
	}
	return s.MaxBytes - min(s.Bytes, s.MaxBytes), true
}
