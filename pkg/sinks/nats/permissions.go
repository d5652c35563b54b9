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
	if o.JetStream == nil {
		return publish, nil
	}
	s := &Sink{cluster: o.Cluster, jetstream: o.JetStream}
	control, stream := s.controlPrefix()+">", o.JetStream.Stream
	publish = append(publish,
		Permission{control, "control messages, rows, requests for a resync"},
		Permission{"$JS.API.STREAM.INFO." + stream, "whether the stream fits"})
	if o.JetStream.Create {
		publish = append(publish, Permission{"$JS.API.STREAM.CREATE." + stream, "where it is missing; jetstream.create is true"})
	}
	publish = append(publish,
		Permission{"$JS.API.STREAM.NAMES", "says which other stream is in the way"},
		Permission{"$JS.API.STREAM.PURGE." + stream, "deletes old control messages, nothing else"},
		Permission{"$JS.API.STREAM.MSG.GET." + stream, "reads the newest control messages"},
		Permission{"$JS.API.CONSUMER.CREATE." + stream + ".>", "reads the ledger at the start"},
		Permission{"$JS.API.CONSUMER.MSG.NEXT." + stream + ".>", "the same"},
		Permission{"$JS.API.CONSUMER.DELETE." + stream + ".>", "the same"},
		Permission{"$JS.API.STREAM.INFO." + bucketStream, "snapshots, in the object store " + bucket},
		Permission{"$JS.API.STREAM.CREATE." + bucketStream, "the same"},
		Permission{"$JS.API.STREAM.PURGE." + bucketStream, "the same"},
		Permission{"$JS.API.DIRECT.GET." + bucketStream + ".>", "the same"},
		Permission{"$JS.API.CONSUMER.CREATE." + bucketStream + ".>", "the same"},
		Permission{"$JS.API.CONSUMER.DELETE." + bucketStream + ".>", "the same"},
		Permission{"$JS.FC." + bucketStream + ".>", "without it a large snapshot is not read to its end"},
		Permission{"$O." + bucket + ".>", "the content of snapshots"})
	subscribe = []Permission{
		{"_INBOX.>", "answers"},
		{control, "hears at once of other bridges, and of requests for a resync"},
	}
	return publish, subscribe
}
