package sources

import (
	"sync"
	"time"

	"github.com/crbridge/crbridge/internal/failpoint"
)

// A watch that brings much gets a connection of its own, over HTTP/1.1. There
// the API server writes, and the bridge reads, straight from and to the socket:
// an event of 2 KiB costs the bridge 15 µs less than over HTTP/2, and the API
// server 10 to 40 (drains as make bench has them). HTTP/2 hands each from one
// goroutine to another on both sides, in frames of which it keeps account, so
// that many watches can share a connection. That is what the others do: a
// thousand that wait are a few connections, and a ping finds out that one is
// dead.
const (
	// busyFor is in how much time busyEvents have to come: 2,000 in a second,
	// as in a backlog. Half a second of them costs more than to watch anew.
	busyFor = 512 * time.Millisecond
	// quietFor is how often it is looked whether a watch has brought fewer than
	// quietEvents, which are 500 in a second. Then it goes back, and so does one
	// whose connection is dead.
	quietFor = 10 * time.Second
	// sharedFor is how long no watch of an informer gets a connection of its own
	// after one was refused: not everything between here and the API server may
	// speak HTTP/1.1.
	sharedFor = time.Minute
)

var (
	busyEvents  = failpoint.Bound(1024)
	quietEvents = int64(failpoint.Bound(5000))
)

// meter tells when much has come.
type meter struct {
	events int
	since  time.Time // they were last counted
}

// came takes note of an event, and tells whether much has come.
func (m *meter) came() bool {
	if m.events++; m.events < busyEvents {
		return false
	}
	now := time.Now()
	much := now.Sub(m.since) <= busyFor
	m.events, m.since = 0, now
	return much
}

// lane is which connection an informer's watches have.
type lane struct {
	possible bool // that a watch has one of its own

	mu        sync.Mutex
	dedicated bool      // the next watch is to have one of its own
	shared    time.Time // until then it is not
}

// next tells whether the next watch is to have a connection of its own.
func (l *lane) next() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dedicated
}

// busy gives the next watch a connection of its own, and tells whether it may
// have one.
func (l *lane) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dedicated = l.possible && !time.Now().Before(l.shared)
	return l.dedicated
}

// quiet has the next watch share a connection.
func (l *lane) quiet() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dedicated = false
}

// refused notes that a watch with a connection of its own was not granted. Why
// is not looked at: where it was not for the connection, a shared one does as
// well.
func (l *lane) refused() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dedicated, l.shared = false, time.Now().Add(sharedFor)
}
