package flow

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
)

// item is one step of a flow: an event and what it means for the ledger, or,
// without an event, only how far the flow has come.
type item struct {
	event *events.Event
	size  int
	order uint64

	key     string // of the row that is durable once this item is; empty where there is none
	row     row
	gone    bool
	silent  bool // the row differs in nothing that has to be durable
	drained bool // the object's end was deduced from that of its CRD
	// until: where the API server was asked about the end, the version of its
	// answer; see held. raised is what journal.Row calls Listed.
	until  uint64
	raised uint64

	progress // that is durable once this item is
}

// reached is how far one watch has come.
type reached struct {
	watch    string // its namespace
	position uint64 // all that the API server has told up to here is durable
	listed   bool   // a complete list is
}

// progress is how far a flow has come, as far as that is not in its rows. What
// is zero says nothing.
type progress struct {
	reached
	also      []reached // of other watches
	resync    uint64    // the requested resync of that number is done
	selection string    // all is told of that the route selects so
}

// and joins two steps.
func (p progress) and(other progress) progress {
	p = p.come(other.reached)
	for _, r := range other.also {
		p = p.come(r)
	}
	p.resync = max(p.resync, other.resync)
	if other.selection != "" {
		p.selection = other.selection
	}
	return p
}

// come joins how far one watch has come. A step holds each watch once, so that
// it stays small however long it waits.
func (p progress) come(to reached) progress {
	if to == (reached{}) {
		return p
	}
	if p.reached == (reached{}) || p.watch == to.watch {
		p.reached = reached{to.watch, max(p.position, to.position), p.listed || to.listed}
		return p
	}
	for n := range p.also {
		if other := &p.also[n]; other.watch == to.watch {
			other.position, other.listed = max(other.position, to.position), other.listed || to.listed
			return p
		}
	}
	p.also = append(p.also, to)
	return p
}

// Memory bounds what the queues of all flows hold together. No flow waits for
// another's share: each may hold its part of the total, and at least one event.
type Memory struct {
	total  int64
	queues atomic.Int64
	held   atomic.Int64 // bytes
}

// NewMemory bounds queues to about total bytes of events.
func NewMemory(total int64) *Memory { return &Memory{total: total} }

const (
	// leastShare lets a flow among very many still fill a batch.
	leastShare = 64 << 10
	// mostShare is enough for the largest batch to gather while one is on its way.
	mostShare = 4 << 20
	// mostQueued bounds the items of one flow, whatever their size.
	mostQueued = 4096
)

// Held is about how many bytes of events all queues hold.
func (m *Memory) Held() int64 { return m.held.Load() }

// Limit is about how many bytes that may be: what was given, or where there
// are very many flows the least that each may have. One event larger than its
// flow's share may come on top for each flow.
func (m *Memory) Limit() int64 { return max(m.total, m.queues.Load()*leastShare) }

func (m *Memory) share() int {
	return int(min(max(m.total/max(m.queues.Load(), 1), leastShare), mostShare))
}

// queue is where items wait for delivery, in order, bounded by bytes and by
// count. What has been taken counts until it is released. One goroutine adds,
// one at a time takes.
type queue struct {
	memory *Memory

	mu     sync.Mutex
	items  []item
	taken  int // items out for delivery
	events int // of both
	bytes  int // of both
	orders uint64
	closed bool
	// taker takes, in a goroutine of its own while taking is set; nil: nobody
	// does yet.
	taker  func()
	taking bool
	// added and freed each hold a token for the one goroutine that waits for
	// them, which looks again when it gets it.
	added, freed chan struct{}
	// since is when the oldest event that is out for delivery was observed.
	since time.Time

	flood     flood
	gathering bool // the taker waits for more than there is
	full      bool // who adds waits for room
}

func newQueue(memory *Memory) *queue {
	memory.queues.Add(1)
	return &queue{memory: memory, added: make(chan struct{}, 1), freed: make(chan struct{}, 1)}
}

// discard ends the queue, with whatever is in it.
func (q *queue) discard() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.memory.held.Add(-int64(q.bytes))
	q.bytes = 0
	q.memory.queues.Add(-1)
}

// serve has taker called in a goroutine of its own, now and whenever there is
// something to take after it has gone to rest. What one call did happens before
// the next.
func (q *queue) serve(taker func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taker = taker
	q.call()
}

// call has what was added taken. The lock is held.
func (q *queue) call() {
	if q.taking {
		if !q.gathering || q.enough() {
			signal(q.added)
		}
		return
	}
	if q.taker != nil {
		q.taking = true
		go q.taker()
	}
}

// rest is for the taker, which has to return if it is so: there is nothing to
// take, and more may come.
func (q *queue) rest() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taking = len(q.items) > 0 || q.closed
	return !q.taking
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// room waits until an item of that size may be added.
func (q *queue) room(ctx context.Context, size int) error {
	for {
		q.mu.Lock()
		held := len(q.items) + q.taken
		free := held == 0 || (held < mostQueued && q.bytes+size <= q.memory.share())
		if q.full = !free; q.full && q.gathering {
			signal(q.added)
		}
		q.mu.Unlock()
		if free {
			return ctx.Err()
		}
		select {
		case <-q.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next is the order of the item that is added next.
func (q *queue) next() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.orders + 1
}

// add appends an item for which there was room.
func (q *queue) add(i item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.orders++
	q.items = append(q.items, i)
	q.bytes += i.size
	q.memory.held.Add(int64(i.size))
	if i.event != nil {
		q.events++
	}
	q.call()
}

// mark says how far the flow has come with all that was added so far. It
// needs no room: it rides on the last item that waits, where there is one.
func (q *queue) mark(p progress) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.items); n > 0 {
		q.items[n-1].progress = q.items[n-1].and(p)
		return
	}
	q.orders++
	q.items = append(q.items, item{progress: p, order: q.orders})
	q.call()
}

// enough tells whether no more is to gather. The lock is held.
func (q *queue) enough() bool {
	return len(q.items) >= gatherEvents || q.bytes >= gatherBytes || q.full || q.closed
}

// gather is how long the items that wait have to wait for more of them. The
// lock is held.
func (q *queue) gather(now time.Time) time.Duration {
	if q.enough() {
		return 0
	}
	return max(0, q.flood.wait(now))
}

// take waits for items and returns a batch of them, at most batchEvents and
// batchBytes; see gatherFor. It returns none when woken before there is one, and
// is no longer open once the queue is closed and empty, or ctx is done.
func (q *queue) take(ctx context.Context, wake <-chan time.Time) (batch []item, open bool) {
	var gathered <-chan time.Time
	for {
		q.mu.Lock()
		now := time.Now()
		wait := q.gather(now)
		q.gathering = wait > 0
		if n := len(q.items); n > 0 && wait == 0 {
			bytes, count := 0, 0
			for count < min(n, batchEvents) && (count == 0 || bytes+q.items[count].size <= batchBytes) {
				bytes += q.items[count].size
				count++
			}
			batch := q.items[:count:count]
			if q.items = q.items[count:]; len(q.items) == 0 {
				q.items = nil // lets go of the array
			}
			q.taken = count
			q.since = observed(batch)
			q.flood.took(count, now)
			q.mu.Unlock()
			return batch, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil, false
		}
		if gathered == nil && wait > 0 {
			gathered = time.After(wait)
		}
		select {
		case <-q.added:
		case <-gathered:
		case <-wake:
			return nil, true
		case <-ctx.Done():
			return nil, false
		}
	}
}

// release gives back the room of items that were taken, from the first on;
// rest are those that are still out.
func (q *queue) release(items, rest []item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n := range items {
		q.bytes -= items[n].size
		q.memory.held.Add(-int64(items[n].size))
		if items[n].event != nil {
			q.events--
		}
		items[n] = item{}
	}
	q.taken -= len(items)
	q.since = observed(rest)
	signal(q.freed)
}

// close says that nothing more is added. A taker that rests is called once
// more, and finds that out.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.call()
}

// waiting is how many events are not durable yet, and since when the oldest
// of them has been known.
func (q *queue) waiting() (count int, since time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if since = q.since; since.IsZero() {
		since = observed(q.items)
	}
	return q.events, since
}

// observed is when the first event among the items was.
func observed(items []item) time.Time {
	for n := range items {
		if items[n].event != nil {
			return items[n].event.Time()
		}
	}
	return time.Time{}
}
