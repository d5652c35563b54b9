package flow

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
)

// Delivery is what those who look on are told of an event that has become
// durable: what it was about, and nothing of the object's content.
type Delivery struct {
	ID
	Type     events.Type
	Object   string // namespace and name, or name
	Version  string // resource version
	Observed time.Time
	Durable  time.Time
	Inferred bool
}

// Tap lets others look on while flows deliver. It holds nobody up: who does not
// keep pace misses deliveries, and is told how many. While nobody looks, it
// costs a flow one atomic load for each batch; otherwise one copy for each
// delivery, however many look and whatever they look for. The zero value may be
// used, and nil is one that nobody looks through.
type Tap struct {
	viewers atomic.Int64 // changed with mu held

	mu    sync.Mutex
	ring  []Delivery // nil while nobody looks
	shown uint64     // deliveries until now; the last of them are in the ring
}

// viewed is how many deliveries a viewer is behind before it misses some. All
// viewers share them; with what they refer to it is about 1 MiB.
const viewed = 4096

// Viewer is one who looks on. It is for one goroutine.
type Viewer struct {
	tap    *Tap
	next   uint64 // the first delivery that it has not taken
	closed bool
}

// View begins to look on, until Close.
func (t *Tap) View() *Viewer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ring == nil {
		t.ring = make([]Delivery, viewed)
	}
	t.viewers.Add(1)
	return &Viewer{tap: t, next: t.shown}
}

// Close ends looking on. It may be called again.
func (v *Viewer) Close() {
	t := v.tap
	t.mu.Lock()
	defer t.mu.Unlock()
	if v.closed {
		return
	}
	v.closed = true
	if t.viewers.Add(-1) == 0 {
		t.ring = nil
	}
}

// Take copies what was delivered since the last call, oldest first, as far as
// there is room for it: n deliveries. Missed are those before them that nobody
// took in time. Flows wait while it copies, so that there should be room for a
// few hundred at most.
func (v *Viewer) Take(into []Delivery) (n, missed int) {
	t := v.tap
	t.mu.Lock()
	defer t.mu.Unlock()
	if v.closed {
		return 0, 0
	}
	if behind := t.shown - v.next; behind > viewed {
		missed = int(behind - viewed)
		v.next = t.shown - viewed
	}
	for ; n < len(into) && v.next < t.shown; n++ {
		into[n] = t.ring[v.next%viewed]
		v.next++
	}
	return n, missed
}

// Watched tells whether anybody looks on.
func (t *Tap) Watched() bool { return t != nil && t.viewers.Load() > 0 }

// Show tells viewers of a delivery.
func (t *Tap) Show(d Delivery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ring == nil {
		return
	}
	t.ring[t.shown%viewed] = d
	t.shown++
}

// deliveryOf is what those who look on are told of an event of the flow. It
// holds none of the event's memory.
func deliveryOf(id ID, e *events.Event, durable time.Time) Delivery {
	return Delivery{
		ID: id, Type: events.Type(e.Fields.Event), Object: strings.Clone(e.Subject()), Version: strings.Clone(e.Attribute(events.ExtResourceVersion)),
		Observed: e.Time(), Durable: durable, Inferred: e.Attribute(events.ExtInferred) != "",
	}
}
