package sinks

import (
	"context"
	"log/slog"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
)

// Settings are the keys of a sink of one kind, as package settings describes
// such structs: all that the rest of the bridge has to know of the kind. They
// are complete and valid when anything but Validate is called.
type Settings interface {
	// Validate reports what is wrong with the values of the keys at the path.
	Validate(at settings.Path, r settings.Report)
	// KeepsLedgers tells whether the sink's publishers keep their ledgers.
	KeepsLedgers() bool
	// Files are the files of secrets and authorities that are read for each
	// connection; what is empty is none.
	Files() []string
	// Same says in words to which place of its own the other sink leads as
	// well, so that a route to both would feed it twice; empty where it does
	// not, or that is not known.
	Same(other Settings) string
	// Open opens the sink. It does not wait for it to be reachable, and fails
	// only for what cannot work however often it is tried.
	Open(Environment) (Sink, error)
	// Check looks at what the sink would meet, and changes nothing. It fails
	// as Open does.
	Check(context.Context, Environment) ([]Finding, error)
}

// Environment is what a sink has to know besides its settings.
type Environment struct {
	// Name is what people call the sink: in the log, in errors, in metrics.
	Name string
	// Cluster is what people call the Kubernetes cluster that the events come from.
	Cluster string
	// Logger gets one line per change of the sink's state; nil discards them.
	Logger *slog.Logger
	// Guest: another process runs what the sink has to have run. This one only
	// speaks to it.
	Guest bool
	// Metrics may be nil.
	Metrics *Metrics
}

// Finding is one thing that Check has looked at.
type Finding struct {
	What string
	// Result is how it is, in words.
	Result string
	// Bad: events could not be delivered. Warn: they could, with a restriction.
	Bad, Warn bool
}

// Addressed are settings of a kind where an event has an address that is made
// of what the event is about. Events of several routes may be mixed up where
// they share theirs.
type Addressed interface {
	Template() string
}

// Exclusive are settings of a kind that may run in this process what can be
// there only once.
type Exclusive interface {
	// Exclusive names what no other sink, and no other process, can have at the
	// same time, in words, and the key that says so; nothing where there is
	// none.
	Exclusive() (key string, all []string)
}

// Readable are settings of a kind whose events can be read where they went.
type Readable interface {
	// Follow reads the sink's events as any subscriber could, in their order
	// and each once, until ctx is done. What is no CloudEvent is left out. A
	// connection that ends, and a place that is not there, are waited for; then
	// it goes on where it was, if the sink keeps what it takes. Its error is
	// that of Take, or says which setting cannot work however often it is
	// tried; it is nil when ctx is done.
	Follow(context.Context, Environment, Followed) error
}

// Followed says what Follow reads.
type Followed struct {
	// Subject is the one that events are on, in the sink's own terms. Empty
	// means that of the fields; what these leave open may be anything.
	Subject string
	Fields  events.Fields
	// FromStart begins with the first event that the sink has; only one that
	// keeps ledgers keeps events. Otherwise it is the first that comes after
	// Begun was called.
	FromStart bool
	// Begun is called once, when there is a connection and it is settled which
	// event is the first.
	Begun func()
	// Problem is told why nothing can be read now, once for each time that the
	// reason changes, and "" when all is well again.
	Problem func(words string)
	// Take gets the events. An error from it ends Follow.
	Take func(event.Event) error
}
