package nats

import (
	"log/slog"
	"sync"

	"github.com/crbridge/crbridge/pkg/sinks"
)

// kind is what a problem is about. The first kind that has a problem is the
// one that people are told.
type kind int

const (
	connection kind = iota
	permission
	stream
	kinds
)

// problems is what is wrong with a sink now, in words, and the log of how that
// changes: a line when something goes wrong or goes wrong in another way, a
// line when all is well again, and none for the attempts in between.
type problems struct {
	log *slog.Logger

	mu        sync.Mutex
	connected bool
	words     [kinds]string
	denied    string          // the subject that the problem of kind permission is about
	told      map[string]bool // what was logged since all was well
}

func (p *problems) now() (connected bool, words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected, p.first()
}

// first needs mu.
func (p *problems) first() string {
	for _, words := range p.words {
		if words != "" {
			return words
		}
	}
	return ""
}

func (p *problems) connect(server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.connected {
		return // a connection took the place of another
	}
	p.connected = true
	p.words[connection] = ""
	p.words[permission] = "" // may be another now; what is still denied is said again
	if p.first() == "" {
		p.told = nil
	}
	p.log.Info("sink connected", "server", server)
}

// closed: the sink is not used any more.
func (p *problems) closed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connected = false
	p.words[connection] = sinks.ErrClosed.Error()
}

func (p *problems) disconnect(words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connected = false
	p.set(connection, words)
}

// refused: the stream is missing, does not fit or takes nothing.
func (p *problems) refused(words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(stream, words)
}

// taken: the stream is as it should be.
func (p *problems) taken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear(stream)
}

// deny: the server does not let the bridge publish or subscribe to subject.
func (p *problems) deny(subject, words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.denied = subject
	p.set(permission, words)
}

// allowed: what the server last denied was just done, if it was one of the
// subjects for which these is true.
func (p *problems) allowed(these func(subject string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.words[permission] != "" && these(p.denied) {
		p.clear(permission)
	}
}

// set needs mu.
func (p *problems) set(k kind, words string) {
	p.words[k] = words
	if p.told[words] {
		return
	}
	if p.told == nil {
		p.told = map[string]bool{}
	}
	p.told[words] = true
	p.log.Warn("sink does not take events", "reason", words)
}

// clear needs mu.
func (p *problems) clear(k kind) {
	if p.words[k] == "" {
		return
	}
	p.words[k] = ""
	if p.first() == "" {
		p.told = nil
		p.log.Info("sink takes events again")
	}
}
