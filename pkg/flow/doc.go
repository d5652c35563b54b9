// Package flow carries one CRD's changes, on one route, to one sink: it
// compares what the API server says with the ledger of what is durable in the
// sink, makes events of the differences, and delivers them in order, in
// batches of which one at a time is on its way.
//
// A Flow is that triple's identity and lives on while its CRD comes and goes.
// A Run is what follows and delivers; it is started afresh each time and never
// restarted.
package flow
