package sources

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// mostRequests lists and openings of watches are on their way at once: as many
	// as keep an API server busy, and no storm for one that has just come back.
	mostRequests = 16
	// requestTurn is how long one waits at most for its turn. What another waits
	// for (a webhook that does not convert, say) is not everybody's trouble.
	requestTurn = 2 * time.Second
	// listsBytes is about what the pages of all lists together have in memory,
	// unless there are so many that each has leastPage.
	listsBytes = 16 << 20
	leastPage  = 32 << 10
)

// Requests paces what all followers of a cluster ask its API server for: a
// thousand flows that start together take turns. The zero value is not ready.
type Requests struct {
	turns chan struct{}
	lists atomic.Int64 // that are under way
	// dedicated holds one for each watch with a connection of its own.
	dedicated chan struct{}
	// granted are the watches that were, over shared connections and their own.
	granted, grantedOwn atomic.Uint64
}

var (
	_ prometheus.Collector = (*Requests)(nil)

	watchesDesc = prometheus.NewDesc("bridge_watches_total",
		"Watches of objects that the API server granted, by their connection: shared with others, or their own.", []string{"connection"}, nil)
)

// Describe implements prometheus.Collector.
func (r *Requests) Describe(descs chan<- *prometheus.Desc) { descs <- watchesDesc }

// Collect implements prometheus.Collector.
func (r *Requests) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(watchesDesc, prometheus.CounterValue, float64(r.granted.Load()), "shared")
	metrics <- prometheus.MustNewConstMetric(watchesDesc, prometheus.CounterValue, float64(r.grantedOwn.Load()), "own")
}

// NewRequests is a pace of its own.
func NewRequests() *Requests {
	return &Requests{turns: make(chan struct{}, mostRequests), dedicated: make(chan struct{}, mostDedicated)}
}

// turn waits for a turn, and takes it until done is called. Where none has come
// after requestTurn, or ctx is done, it goes on without.
func (r *Requests) turn(ctx context.Context) (done func()) {
	select {
	case r.turns <- struct{}{}:
		return func() { <-r.turns }
	default:
	}
	patience := time.NewTimer(requestTurn)
	defer patience.Stop()
	select {
	case r.turns <- struct{}{}:
		return func() { <-r.turns }
	case <-patience.C:
	case <-ctx.Done():
	}
	return func() {}
}

// watch counts a watch that was granted.
func (r *Requests) watch(dedicated bool) {
	if dedicated {
		r.grantedOwn.Add(1)
		return
	}
	r.granted.Add(1)
}

// list counts a list in until done is called.
func (r *Requests) list() (done func()) {
	r.lists.Add(1)
	return func() { r.lists.Add(-1) }
}

// pageBytes is how much of a list should be in memory at once. It stays there
// while the handler blocks.
func (r *Requests) pageBytes() int64 {
	return max(leastPage, min(pageBytes, listsBytes/max(1, r.lists.Load())))
}
