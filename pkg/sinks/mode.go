package sinks

import "github.com/crbridge/crbridge/pkg/settings"

// Mode is how an event becomes a message: the content mode of the CloudEvents
// protocol bindings.
type Mode string

// The content modes.
const (
	// Binary: attributes are headers, the payload is the data.
	Binary Mode = "binary"
	// Structured: the payload is the whole event as JSON.
	Structured Mode = "structured"
)

// Words implements settings.Worded.
func (Mode) Words() []string { return settings.Words(Binary, Structured) }
