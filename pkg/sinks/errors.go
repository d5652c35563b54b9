package sinks

import (
	"errors"
	"fmt"
)

// ErrClosed is why a publisher of a closed sink takes nothing.
var ErrClosed = errors.New("the sink is closed")

// TooLargeError says that an event is larger than the sink can ever take. To
// try again is of no use before the event is smaller or the limit is higher.
type TooLargeError struct {
	ID      string // of the event
	Subject string // of the event: the object
	Size    int64  // in bytes, as the sink counts
	Limit   int64  // in bytes
	Source  string // what sets the limit, as its owner knows it
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("event %s of %s is too large: it has %d bytes, and %s allows %d",
		e.ID, e.Subject, e.Size, e.Source, e.Limit)
}
