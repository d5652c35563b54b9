package flow

import (
	"slices"
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
// costs a flow one atomic load for each batch. The zero value may be used, and
// nil is one that nobody looks through.
type Tap struct {
	mu      sync.Mutex // for writers of viewers
	viewers atomic.Pointer[[]*Viewer]
}

// viewed is how many deliveries a viewer is behind before it misses some.
const viewed = 256

// Viewer is one who looks on.
type Viewer struct {
	tap   *Tap
	wants func(*Delivery) bool
	// news holds a token while there is something to take.
	news chan struct{}

	mu     sync.Mutex
	kept   []Delivery // at most viewed, as a ring once it is full
	next   int        // where the oldest is then
	missed int
}

// View begins to look on at the deliveries that wants lets through, until
// Close. It is called by flows while they deliver: it must be quick.
func (t *Tap) View(wants func(*Delivery) bool) *Viewer {
	v := &Viewer{tap: t, wants: wants, news: make(chan struct{}, 1)}
	t.change(func(all []*Viewer) []*Viewer { return append(all, v) })
	return v
}

func (t *Tap) change(change func([]*Viewer) []*Viewer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*Viewer
	if now := t.viewers.Load(); now != nil {
		all = slices.Clone(*now)
	}
	if all = change(all); len(all) == 0 {
		t.viewers.Store(nil)
		return
	}
	t.viewers.Store(&all)
}

// Close ends looking on. It may be called again.
func (v *Viewer) Close() {
	v.tap.change(func(all []*Viewer) []*Viewer {
		return slices.DeleteFunc(all, func(other *Viewer) bool { return other == v })
	})
}

// News holds a token while there is something to take.
func (v *Viewer) News() <-chan struct{} { return v.news }

// Take is what was delivered since the last call, oldest first, and how many
// deliveries are not among it, as nobody took those before them in time.
func (v *Viewer) Take() (deliveries []Delivery, missed int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	deliveries = slices.Concat(v.kept[v.next:], v.kept[:v.next])
	missed = v.missed
	v.kept, v.next, v.missed = nil, 0, 0
	return deliveries, missed
}

func (v *Viewer) tell(d *Delivery) {
	if !v.wants(d) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.kept) < viewed {
		v.kept = append(v.kept, *d)
	} else {
		v.kept[v.next] = *d
		v.next = (v.next + 1) % viewed
		v.missed++
	}
	signal(v.news)
}

// watched are those who look on now; none most of the time.
func (t *Tap) watched() []*Viewer {
	if t == nil {
		return nil
	}
	if all := t.viewers.Load(); all != nil {
		return *all
	}
	return nil
}

// Watched tells whether anybody looks on.
func (t *Tap) Watched() bool { return len(t.watched()) > 0 }

// Show tells viewers of a delivery.
func (t *Tap) Show(d Delivery) {
	for _, v := range t.watched() {
		v.tell(&d)
	}
}

// deliveryOf is what those who look on are told of an event of the flow. It
// holds none of the event's memory.
func deliveryOf(id ID, e *events.Event, durable time.Time) Delivery {
	return Delivery{
		ID: id, Type: events.Type(e.Fields.Event), Object: strings.Clone(e.Subject()), Version: strings.Clone(e.Attribute(events.ExtResourceVersion)),
		Observed: e.Time(), Durable: durable, Inferred: e.Attribute(events.ExtInferred) != "",
	}
}
