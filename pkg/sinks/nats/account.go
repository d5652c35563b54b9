package nats

import (
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// account is how the bridge's NATS account names what it has of JetStream: an
// account that gets it from another one, or from another domain, has it under
// subjects of its own.
type account struct {
	api   string // what the subjects of JetStream's requests begin with, to the last dot
	inbox string // and those on which answers come
}

func newAccount(o *Options) account {
	a := account{api: jetstream.DefaultAPIPrefix, inbox: "_INBOX."}
	if o.InboxPrefix != "" {
		a.inbox = strings.TrimSuffix(o.InboxPrefix, ".") + "."
	}
	if o.JetStream != nil && o.JetStream.Prefix() != "" {
		a.api = strings.TrimSuffix(o.JetStream.Prefix(), ".") + "."
	}
	return a
}

// isInbox tells whether a subject is where answers and acknowledgements come.
func (a account) isInbox(subject string) bool { return strings.HasPrefix(subject, a.inbox) }

// isAPI tells whether a subject is one of JetStream's own.
func (a account) isAPI(subject string) bool {
	return strings.HasPrefix(subject, a.api) || strings.HasPrefix(subject, "$JS.")
}

// opens and reads tell whether a subject is one that the bucket is looked for,
// or read by. What else is denied concerns somebody else.
func (a account) opens(subject string) bool {
	return subject == a.api+"STREAM.INFO."+bucketStream || subject == a.api+"STREAM.CREATE."+bucketStream
}

func (a account) reads(subject string) bool {
	return strings.HasPrefix(subject, a.api+"DIRECT.GET."+bucketStream+".") ||
		strings.HasPrefix(subject, a.api+"CONSUMER.CREATE."+bucketStream+".")
}
