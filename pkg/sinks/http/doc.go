// Package http is the sink that posts events to a URL, by the CloudEvents HTTP
// protocol binding: to a Knative broker, a webhook or any other receiver.
//
// An event is durable when the receiver has answered with a 2xx status. Each is
// a request of its own, and a flow has one on its way at a time: so the
// receiver gets the events of a flow in their order. It gets one again where
// the answer to it was lost, with the same id.
package http
