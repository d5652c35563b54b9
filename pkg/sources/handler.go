package sources

import (
	"context"
	"errors"

	"github.com/crbridge/crbridge/pkg/object"
)

// ErrTooSoon is a handler's word for a list that should be made again later.
var ErrTooSoon = errors.New("the list has to be of a later moment")

// Handler takes what the API server says about the objects of one resource.
//
// Its methods are called one at a time, in the order in which things
// happened, and may block: the watch is then not read, and is given up after
// BlockedWatchTimeout and taken up again where it was. They return early once
// ctx is done, which is when the informer is being stopped; what they had not
// finished by then counts as not heard of. Objects are to be read while a
// call lasts, and not to be kept.
type Handler interface {
	// ListStarted says that a complete and consistent list begins, made at
	// that resource version: the first one, or one that the API server's watch
	// history made necessary. Objects of an earlier list that did not get to
	// ListFinished are void. An error refuses the list; it is told as a
	// Condition, and a list tried again later. ErrTooSoon is not told: a list
	// is made again in a moment, until it has a later resource version.
	ListStarted(ctx context.Context, resourceVersion string) error
	// Listed gives one object of the list, as it was when the list was made.
	Listed(ctx context.Context, o *object.Object)
	// Knows is asked before a list: true says that the handler knows objects of
	// it, so that Unchanged is worth asking. It is a hint, and promises nothing
	// of any object.
	Knows(ctx context.Context) bool
	// Unchanged may be asked about an object of the list, given without its
	// JSON: true says that the handler has nothing to learn from it and has
	// noted that the list has it, as if it had been Listed. False notes nothing;
	// the object is then Listed. It may be Listed after true as well, if
	// somebody else wants it.
	Unchanged(ctx context.Context, o *object.Object) bool
	// ListFinished says that the list is complete: what was neither Listed nor
	// Unchanged did not exist at that resource version.
	ListFinished(ctx context.Context, resourceVersion string)

	// Changed gives an object that was created or updated.
	Changed(ctx context.Context, o *object.Object)
	// Deleted gives the last state of an object that is gone or, where objects
	// are selected, no longer selected; its resource version is that of the
	// deletion or the change.
	Deleted(ctx context.Context, o *object.Object)
	// Progressed says that nothing else happened up to this resource version.
	Progressed(ctx context.Context, resourceVersion string)

	// CaughtUp says that the watch that followed a survey has been open for a
	// while, so that it should have told of all that the survey knew. Nobody
	// can promise that: something may still come.
	CaughtUp(ctx context.Context)

	// Busy tells whether the handler has yet to pass on what it was given. One
	// that is busy is not held up by others that share its watch and are slow. It
	// is called from any goroutine, and must not block.
	Busy() bool

	// Condition says how the last request to list or watch went: nil where the
	// API server granted it, a *RewoundError where it has less than was heard
	// of already. It is called from any goroutine and must not block.
	Condition(err error)
}
