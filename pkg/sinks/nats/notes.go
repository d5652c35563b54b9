package nats

import (
	"log/slog"
	"slices"
	"sync"
)

// topic is what notes are about. Those of one topic are said together.
type topic int

const (
	noteStream    topic = iota // how the stream differs from the configuration
	noteSnapshots              // that there can be none
	notePurged                 // that control messages were deleted
	topics
)

// notes are what people may want to know of a stream that works. Each is
// logged once in the life of the sink.
type notes struct {
	mu   sync.Mutex
	said []string
	last [topics][]string
}

// set says what there is to say on the topic now.
func (n *notes) set(log *slog.Logger, about topic, all ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, note := range all {
		if !slices.Contains(n.said, note) {
			n.said = append(n.said, note)
			log.Warn("stream differs", "note", note)
		}
	}
	n.last[about] = all
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Concat(n.last[:]...)
}
