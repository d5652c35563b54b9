package sinks

import (
	"log/slog"
	"sync"
)

// Topic is what a problem of a sink is about. Each kind of sink has its own
// ones from 1 on; the lowest that has a problem is the one that people are told.
type Topic int

// Connection is the topic of a sink that cannot be reached.
const Connection Topic = 0

// Problems are what is wrong with a sink now, in words, and the log of how that
// changes: a line when something goes wrong or goes wrong in another way, a
// line when all is well again, and none for the attempts in between. By their
// key connected those of a sink that comes and goes can be summed up. All its
// methods may be called concurrently.
type Problems struct {
	log *slog.Logger

	mu        sync.Mutex
	connected bool
	server    string          // of the connection, or the last one
	words     []string        // by topic
	told      map[string]bool // what was logged since all was well
	closed    bool            // from then on nothing changes
}

// NewProblems are those of a sink that is not connected yet; its topics are
// lower than the number.
func NewProblems(log *slog.Logger, topics Topic) *Problems {
	return &Problems{log: log, words: make([]string, topics)}
}

// Now is how the sink is; no words where nothing is wrong.
func (p *Problems) Now() (connected bool, words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected, p.first()
}

// Status is how a sink of that kind and name is.
func (p *Problems) Status(kind, sink string) Status {
	p.mu.Lock()
	s, words := Status{Type: kind, Connected: p.connected, Server: p.server}, p.first()
	p.mu.Unlock()
	if words != "" {
		s.LastError = "sink " + sink + ": " + words
	}
	return s
}

// first needs mu.
func (p *Problems) first() string {
	for _, words := range p.words {
		if words != "" {
			return words
		}
	}
	return ""
}

// Connect takes note of a connection to the server, and that nothing is wrong
// any more with these topics, as far as is known. Take, which may be nil, has
// the connection used from then on: nobody hears of the one without the other,
// and what is said of the connection is said after that.
func (p *Problems) Connect(server string, take func(), mended ...Topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if take != nil {
		take()
	}
	p.server = server
	if p.connected || p.closed {
		return // a connection took the place of another
	}
	p.connected = true
	p.words[Connection] = ""
	for _, t := range mended {
		p.words[t] = ""
	}
	if p.first() == "" {
		p.told = nil
	}
	p.log.Info("sink connected", "connected", true, "server", server)
}

// Closed takes note that the sink is not used any more.
func (p *Problems) Closed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connected, p.closed = false, true
	p.words[Connection] = ErrClosed.Error()
}

// Disconnect takes note that there is no connection, and why.
func (p *Problems) Disconnect(words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connected = false
	p.set(Connection, words)
}

// Set says what is wrong with the topic.
func (p *Problems) Set(t Topic, words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(t, words)
}

// set needs mu.
func (p *Problems) set(t Topic, words string) {
	if p.closed {
		return
	}
	p.words[t] = words
	if p.told[words] {
		return
	}
	if p.told == nil {
		p.told = map[string]bool{}
	}
	p.told[words] = true
	p.log.Warn("sink does not take events", "connected", p.connected, "reason", words)
}

// Clear says that nothing is wrong with the topic.
func (p *Problems) Clear(t Topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.words[t] == "" || p.closed {
		return
	}
	p.words[t] = ""
	if p.first() == "" {
		p.told = nil
		p.log.Info("sink takes events again", "connected", p.connected)
	}
}
