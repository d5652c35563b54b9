// Package nats is the sink that puts events into NATS: into a JetStream
// stream, where they are durable, or onto core NATS subjects, where they reach
// whoever listens at that moment.
//
// With JetStream, an event counts as durable when the stream's leader has
// acknowledged it: with several replicas a majority has it then; on one
// replica it survives the end of the process at once, and the end of the
// machine after the server's sync_interval. An event that is published again
// is stored once, as long as that happens within the stream's
// duplicate_window; whoever needs more than that has to fence.
//
// The files read in this order: nats.go (what a sink is), connect.go and
// auth.go (its connection), publish.go (events on their way), stream.go and
// subjects.go (does the stream fit?), encode.go (an event as a message),
// problems.go and notes.go (what is told to people). gate.go lets Close wait for
// publishers, denials.go lets them hear that they may not publish.
package nats
