//go:build unix

// Package docs has the tests of the documents: that every command in them is
// known to the table in table_test.go, and, with the build tag docs, that the
// commands do what the documents say, with a real API server, nats-server,
// kubectl and nats.
package docs
