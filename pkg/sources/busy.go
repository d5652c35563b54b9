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
	// tryFor is how long a watch has to bring much, which is busyEvents or
	// busyBytes, or to go on bringing something without a pause of idleFor, lest
	// it goes back to those that share connections. Of objects of 2 KiB the API
	// server sends ten times as much.
	tryFor  = time.Second
	idleFor = 250 * time.Millisecond
	// quietEvery is how often it is looked afterwards whether a watch has brought
	// less than quietEvents, which are 500 in a second, and quietBytes. Then it goes
	// back, and so does one whose connection is dead; unless its reader, and not the
	// API server, is what it waits for. A slow reader keeps what it has.
	quietEvery = 10 * time.Second
	busyBytes  = 2 << 20
	quietBytes = 10 << 20
	// busyFor is in how much time a watch that shares a connection has to have
	// brought its last busyEvents for the next one to have its own.
	busyFor = 512 * time.Millisecond
	// openTimeout is how long the API server has to grant a watch over a connection
	// of its own, before the shared one is asked. It grants a watch at once.
	openTimeout = 5 * time.Second
	// sharedFor is how long no watch of an informer gets a connection of its own
	// after one that could not be opened, as not everything between here and the
	// API server may speak HTTP/1.1, or that broke before it had brought
	// busyEvents. So long watches may also end early without that the next one gets
	// one, when one had little to catch up with: somebody may end them all.
	sharedFor = 5 * time.Minute
	// onTime is how much before its time the API server may end a watch: that is
	// counted from when it was asked for.
	onTime = 10 * time.Second
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

// intake is how much a watch brings, and how long it waits for that.
type intake struct {
	mu      sync.Mutex
	since   time.Time // it waits; zero: it does not
	waited  time.Duration
	longest time.Duration // it waited in one go
	bytes   int64
}

func (i *intake) waits() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.since = time.Now()
}

func (i *intake) got(bytes int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.bytes += int64(bytes)
	i.count(time.Now())
	i.since = time.Time{}
}

// count counts the time that it has waited. The lock is held.
func (i *intake) count(now time.Time) {
	if i.since.IsZero() {
		return
	}
	wait := now.Sub(i.since)
	i.waited += wait
	i.longest = max(i.longest, wait)
	i.since = now
}

// look tells what has come since the last look.
func (i *intake) look() (waited, longest time.Duration, bytes int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.count(time.Now())
	waited, longest, bytes = i.waited, i.longest, i.bytes
	i.waited, i.longest, i.bytes = 0, 0, 0
	return waited, longest, bytes
}

// lane is which connection an informer's watches have.
type lane struct {
	slots chan struct{} // holds one for each watch with a connection of its own; nil: none may have one

	mu          sync.Mutex
	behind      bool      // the next watch may have much to catch up with
	sharedUntil time.Time // before that none has a connection of its own
	calmUntil   time.Time // before that a watch that ends early says nothing
}

// begin tells whether the watch that begins is to have a connection of its own. If
// so, one of refused and leave has to be called when it did not get it, or has
// ended.
func (l *lane) begin() (dedicated bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.behind || time.Now().Before(l.sharedUntil) {
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
	l.sharedUntil = time.Now().Add(sharedFor)
	l.mu.Unlock()
	<-l.slots
}

// leave: a watch with a connection of its own has ended, or was not granted. behind
// says that the next one may have much to catch up with.
func (l *lane) leave(behind bool) {
	l.mu.Lock()
	if l.behind = behind; !behind {
		l.calmUntil = time.Now().Add(sharedFor)
	}
	l.mu.Unlock()
	<-l.slots
}

// ended: a watch that shared a connection has ended, so that the next one may have
// much to catch up with, or not. One that ends before its time leaves something to
// the next, however little it has brought: its API server has ended, or the reader
// was slow, or the process was stopped.
func (l *lane) ended(early, behind bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind = behind || early && !time.Now().Before(l.calmUntil)
}

// away: a watch was not granted over a shared connection.
func (l *lane) away() { l.ended(false, true) }
