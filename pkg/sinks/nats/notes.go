package nats

import (
	"log/slog"
	"slices"
	"sync"
)

// notes are what people may want to know of a stream that works. Each is
// logged once in the life of the sink.
type notes struct {
	mu   sync.Mutex
	said []string
	last []string
}

func (n *notes) add(log *slog.Logger, all []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, note := range all {
		if !slices.Contains(n.said, note) {
			n.said = append(n.said, note)
			log.Warn("stream differs", "note", note)
		}
	}
	n.last = all
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.last)
}
