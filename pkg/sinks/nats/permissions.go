package nats

import "github.com/crbridge/crbridge/pkg/events"

// Permission is a subject that the bridge's NATS user has to be allowed.
type Permission struct {
	Subject string
	For     string // what it does with it, in words
}

// Permissions are all that a sink with these options needs: what its user may
// publish to, and what it may subscribe to. Nothing of it may be missing but
// what is said to be optional.
func Permissions(o Options) (publish, subscribe []Permission) {
	publish = []Permission{{o.Subject.Pattern(events.Fields{Cluster: o.Cluster}), "the events"}}
	a := newAccount(&o)
	if o.JetStream == nil {
		return publish, []Permission{{a.inbox + ">", "which events reach nobody; without it they are not counted"}}
	}
	s := &Sink{cluster: o.Cluster, jetstream: o.JetStream}
	control, stream := s.controlPrefix()+">", o.JetStream.Stream
	publish = append(publish,
		Permission{control, "control messages, rows, requests for a resync"},
		Permission{a.api + "STREAM.INFO." + stream, "whether the stream fits"})
	if o.JetStream.Create {
		publish = append(publish, Permission{a.api + "STREAM.CREATE." + stream, "where it is missing; jetstream.create is true"})
	}
	publish = append(publish,
		Permission{a.api + "STREAM.NAMES", "says which other stream is in the way"},
		Permission{a.api + "STREAM.PURGE." + stream, "deletes old control messages, nothing else"},
		Permission{a.api + "STREAM.MSG.GET." + stream, "reads the newest control messages"},
		Permission{a.api + "CONSUMER.CREATE." + stream + ".>", "reads the ledger at the start"},
		Permission{a.api + "CONSUMER.MSG.NEXT." + stream + ".>", "the same"},
		Permission{a.api + "CONSUMER.DELETE." + stream + ".>", "the same"},
		Permission{a.api + "STREAM.INFO." + bucketStream, "snapshots, in the object store " + bucket},
		Permission{a.api + "STREAM.CREATE." + bucketStream, "the same"},
		Permission{a.api + "STREAM.PURGE." + bucketStream, "the same"},
		Permission{a.api + "DIRECT.GET." + bucketStream + ".>", "the same"},
		Permission{a.api + "CONSUMER.CREATE." + bucketStream + ".>", "the same"},
		Permission{a.api + "CONSUMER.DELETE." + bucketStream + ".>", "the same"},
		Permission{"$JS.FC." + bucketStream + ".>", "without it a large snapshot is not read to its end"},
		Permission{"$O." + bucket + ".>", "the content of snapshots"})
	subscribe = []Permission{
		{a.inbox + ">", "answers"},
		{control, "hears at once of other bridges, and of requests for a resync"},
	}
	return publish, subscribe
}
