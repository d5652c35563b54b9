// Package events says what a change of a custom resource looks like to a
// subscriber: as a CloudEvent, and as a NATS subject. It is pure: it knows no
// watch, no queue and no sink, and the same input always gives the same
// output.
package events
