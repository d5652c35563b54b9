package nats

import (
	"log/slog"
	"sync"

	"github.com/crbridge/crbridge/pkg/sinks"
)

// What a problem may be about, besides the connection.
const (
	permission sinks.Topic = iota + 1
	stream                 // it is missing, or does not fit
	storing                // it fits, and takes no messages
	topicsOfProblems
)

// problems are what is wrong with a sink now.
type problems struct {
	*sinks.Problems

	mu     sync.Mutex
	denied string // the subject that the problem with permission is about
}

func newProblems(log *slog.Logger) *problems {
	return &problems{Problems: sinks.NewProblems(log, topicsOfProblems)}
}

// connect takes note of a connection. What is permitted may be another now;
// what is still denied is said again.
func (p *problems) connect(server string, take func()) {
	p.Connect(server, take, permission, storing)
}

// unfit: the stream is missing or does not fit.
func (p *problems) unfit(words string) { p.Set(stream, words) }

// fit: the stream is as it should be. It may be full all the same.
func (p *problems) fit() { p.Clear(stream) }

// refused: the stream does not take what is published.
func (p *problems) refused(words string) { p.Set(storing, words) }

// taken: the stream has taken what was published.
func (p *problems) taken() { p.Clear(storing) }

// deny: the server does not let the bridge publish or subscribe to subject.
func (p *problems) deny(subject, words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.denied = subject
	p.Set(permission, words)
}

// allowed: what the server last denied was just done, if it was one of the
// subjects for which these is true.
func (p *problems) allowed(these func(subject string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.denied != "" && these(p.denied) {
		p.denied = ""
		p.Clear(permission)
	}
}
