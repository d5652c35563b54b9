// Package sinks says what a sink is: a place where events become durable.
// Each kind of sink is a folder of its own below this one, and passes the
// conformance suite in sinktest.
package sinks

import (
	"context"

	"github.com/crbridge/crbridge/pkg/events"
)

// Flow names, within one cluster, whose events a publisher carries.
type Flow struct {
	Route string
	CRD   string
}

// Sink is one place to which events go. It is opened once and shared by all
// flows that lead to it. All its methods may be called concurrently.
type Sink interface {
	// Publisher is the flow's way into the sink. It does not wait for the
	// sink to be reachable, and costs little.
	Publisher(Flow) Publisher
	// Status is how the sink is now. It does not block.
	Status() Status
	// Close lets go of the sink, at the latest when ctx is done. Publishers
	// fail from then on.
	Close(ctx context.Context) error
}

// Publisher carries the events of one flow into a sink.
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
	// stores it once. After Close it fails with ErrClosed.
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
	// Notes say in which ways the sink is not as configured without being
	// unfit, one sentence each.
	Notes []string
}
