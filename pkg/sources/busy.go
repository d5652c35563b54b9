package sources

import (
	"sync"
	"time"

	"github.com/crbridge/crbridge/internal/failpoint"
)

// A watch that brings much gets a connection of its own, over HTTP/1.1. An event
// of 2 KiB costs a reader that discards it 40 µs over HTTP/2 and 25 over HTTP/1.1,
// and the API server sends 10,000 in a second instead of 8,300 (drains as make
// bench has them): HTTP/2 hands each from one goroutine to another on both sides,
// in frames of which it keeps account, so that many watches can share a
// connection. That is what the others do: a thousand that wait are a few
// connections, and a ping finds out that one is dead. A watch that has its own
// therefore has to go on earning it.
const (
	// busyFor is in how much time busyEvents have to come: 2,000 in a second,
	// as in a backlog. Half a second of them costs more than to watch anew.
	busyFor = 512 * time.Millisecond
	// quietEvery is how often it is looked whether a watch has brought fewer than
	// quietEvents, which are 500 in a second. Then it goes back, and so does one
	// whose connection is dead.
	quietEvery = 10 * time.Second
	// openTimeout is how long the API server has to grant a watch over a connection
	// of its own, before the shared one is asked. It grants a watch at once.
	openTimeout = 5 * time.Second
	// sharedFor is how long no watch of an informer gets a connection of its own
	// after one that was not worth it: that could not be opened, as not everything
	// between here and the API server may speak HTTP/1.1, or that ended before it
	// had brought busyEvents.
	sharedFor = 5 * time.Minute
)

var (
	busyEvents  = int64(failpoint.Bound(1024))
	quietEvents = int64(failpoint.Bound(5000))
)

// meter tells when much has come.
type meter struct {
	events int64
	since  time.Time // they were last counted
}

// add counts an event, and tells whether much has come.
func (m *meter) add() (much bool) {
	if m.events++; m.events < busyEvents {
		return false
	}
	now := time.Now()
	much = now.Sub(m.since) <= busyFor
	m.events, m.since = 0, now
	return much
}

// lane is which connection an informer's watches have.
type lane struct {
	possible bool // that a watch has one of its own

	mu          sync.Mutex
	dedicated   bool      // the next watch is to have one of its own
	sharedUntil time.Time // before that it is not
}

// wantsDedicated tells whether the next watch is to have a connection of its own.
func (l *lane) wantsDedicated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dedicated
}

// leaveShared has the next watch get a connection of its own, and tells whether it
// may have one.
func (l *lane) leaveShared() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dedicated = l.possible && !time.Now().Before(l.sharedUntil)
	return l.dedicated
}

// leaveDedicated has the next watch share a connection, and where the one that had
// its own was not worth it, those of some time.
func (l *lane) leaveDedicated(worth bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dedicated = false
	if !worth {
		l.sharedUntil = time.Now().Add(sharedFor)
	}
}
