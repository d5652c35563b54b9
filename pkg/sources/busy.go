package sources

import (
	"sync"
	"time"

	"github.com/crbridge/crbridge/internal/failpoint"
)

// A watch that brings much has a connection of its own, over HTTP/1.1. An event
// of 2 KiB costs a reader that discards it 40 µs over HTTP/2 and 25 over HTTP/1.1,
// and the API server sends 10,000 in a second instead of 8,300 (drains as make
// bench has them): HTTP/2 hands each from one goroutine to another on both sides,
// in frames of which it keeps account, so that many watches can share a
// connection. That is what the others do: a thousand that wait are a few
// connections, and a ping finds out that one is dead.
//
// Which one it has is decided when a watch begins, and one that brings much is not
// ended so that it gets another: the API server copies everything that it still
// had to send, also when nobody is there any more to whom it could (processInterval
// in k8s.io/apiserver/pkg/storage/cacher; with 20,000 events, half of what sending
// them costs). So a watch that may have much to catch up with has a connection of
// its own from the beginning, and has to earn it: what one brings comes at once.
const (
	// mostDedicated watches have connections of their own at once. As many bring
	// more than the processors of most bridges can take; and where a thousand
	// watches end with an API server, the others begin over those that they share.
	mostDedicated = 8
	// tryFor is how long a watch has to bring busyEvents, lest it goes back to
	// those that share connections. The API server sends ten times as many.
	tryFor = time.Second
	// quietEvery is how often it is looked afterwards whether a watch has brought
	// fewer than quietEvents, which are 500 in a second. Then it goes back, and so
	// does one whose connection is dead.
	quietEvery = 10 * time.Second
	// busyFor is in how much time a watch that shares a connection has to have
	// brought its last busyEvents for the next one to have its own.
	busyFor = 512 * time.Millisecond
	// openTimeout is how long the API server has to grant a watch over a connection
	// of its own, before the shared one is asked. It grants a watch at once.
	openTimeout = 5 * time.Second
	// sharedFor is how long no watch of an informer gets a connection of its own
	// after one that could not be opened, as not everything between here and the
	// API server may speak HTTP/1.1, or that broke before it had brought
	// busyEvents.
	sharedFor = 5 * time.Minute
)

var (
	busyEvents  = int64(failpoint.Bound(1024))
	quietEvents = int64(failpoint.Bound(5000))
)

// meter tells when much comes.
type meter struct {
	events int64
	since  time.Time // they were last counted
	much   time.Time // the last time that busyEvents had come within busyFor
}

func (m *meter) add() {
	if m.events++; m.events < busyEvents {
		return
	}
	now := time.Now()
	if now.Sub(m.since) <= busyFor {
		m.much = now
	}
	m.events, m.since = 0, now
}

// lane is which connection an informer's watches have.
type lane struct {
	slots chan struct{} // holds one for each watch with a connection of its own; nil: none may have one

	mu          sync.Mutex
	behind      bool      // the next watch may have much to catch up with
	doubted     bool      // a watch was refused over a connection of its own; is it over a shared one?
	sharedUntil time.Time // before that none has a connection of its own
}

// begin tells whether the watch that begins is to have a connection of its own. If
// so, one of refused, doubt and leave has to be called when it did not get it, was
// not granted, or has ended.
func (l *lane) begin() (dedicated bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.behind || l.doubted || time.Now().Before(l.sharedUntil) {
		return false
	}
	select {
	case l.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// refused: a watch could not have a connection of its own, or not for long.
func (l *lane) refused() {
	l.mu.Lock()
	l.share()
	l.mu.Unlock()
	<-l.slots
}

// share has no watch get a connection of its own for some time. The lock is held.
func (l *lane) share() { l.sharedUntil = time.Now().Add(sharedFor) }

// doubt: a watch was refused over a connection of its own, perhaps by who is between
// here and the API server and does not let HTTP/1.1 through.
func (l *lane) doubt() {
	l.mu.Lock()
	l.doubted = true
	l.mu.Unlock()
	<-l.slots
}

// asked: a watch over a shared connection was granted, or not.
func (l *lane) asked(granted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doubted && granted {
		l.share()
	}
	l.doubted = false
}

// leave: a watch with a connection of its own has ended; see ended.
func (l *lane) leave(behind bool) {
	l.ended(behind)
	<-l.slots
}

// ended: a watch has ended. behind says that the next one may have much to catch
// up with. So it may where this one has ended before its time, with its API server,
// or as its reader was slow or blocked, or the process was stopped, however little
// it has brought.
func (l *lane) ended(behind bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind = behind
}
