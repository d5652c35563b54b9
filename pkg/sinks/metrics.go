package sinks

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what sinks count, each under its own name.
type Metrics struct {
	suppressed, unheard *prometheus.CounterVec
	unheardLast         *prometheus.GaugeVec

	mu       sync.Mutex
	counting map[series]int // how many sinks that are open count in it
}

// series is that of a metric for the sinks of a name, and of the one that says
// when it grew last, if any does.
type series struct {
	metric *prometheus.CounterVec
	last   *prometheus.GaugeVec
	sink   string
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registerer prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{counting: map[series]int{}, suppressed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bridge_duplicates_suppressed_total",
		Help: "Events that were about to be sent again and were found to be stored.",
	}, []string{"sink"}), unheard: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bridge_events_unheard_total",
		Help: "Events published to core NATS while nobody subscribed to their subject.",
	}, []string{"sink"}), unheardLast: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bridge_events_unheard_last_timestamp_seconds",
		Help: "When an event was last published to core NATS while nobody subscribed to its subject. There is no series where that never was.",
	}, []string{"sink"})}
	for _, c := range []prometheus.Collector{m.suppressed, m.unheard, m.unheardLast} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Suppressed counts the events that the sink had already when they were to be
// sent again. A nil Metrics counts nothing.
func (m *Metrics) Suppressed(sink string) *Counter {
	if m == nil {
		return nil
	}
	return m.counter(series{metric: m.suppressed, sink: sink})
}

// Unheard counts the events for which nobody was there. A nil Metrics counts
// nothing.
func (m *Metrics) Unheard(sink string) *Counter {
	if m == nil {
		return nil
	}
	return m.counter(series{m.unheard, m.unheardLast, sink})
}

func (m *Metrics) counter(of series) *Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counting[of]++
	return &Counter{metrics: m, of: of, events: of.metric.WithLabelValues(of.sink)}
}

// Counter is what one sink counts, from when it is opened until it is closed.
// The series is there from the start, with 0: of one that begins with more,
// Prometheus sees no increase. When a sink takes the place of another of its
// name that counts the same, the series goes on; when no sink counts in it any
// more, it is deleted. A nil Counter counts nothing.
type Counter struct {
	metrics *Metrics
	of      series
	events  prometheus.Counter
	closed  sync.Once
}

// Add counts that many events. After Close it counts nothing that anybody sees.
func (c *Counter) Add(events int) {
	if c == nil {
		return
	}
	c.events.Add(float64(events))
	if events == 0 || c.of.last == nil {
		return
	}
	c.metrics.mu.Lock()
	defer c.metrics.mu.Unlock()
	if c.metrics.counting[c.of] > 0 {
		c.of.last.WithLabelValues(c.of.sink).SetToCurrentTime()
	}
}

// Close says that the sink is closed. It may be called again.
func (c *Counter) Close() {
	if c == nil {
		return
	}
	c.closed.Do(func() {
		c.metrics.mu.Lock()
		defer c.metrics.mu.Unlock()
		if c.metrics.counting[c.of]--; c.metrics.counting[c.of] == 0 {
			delete(c.metrics.counting, c.of)
			c.of.metric.DeleteLabelValues(c.of.sink)
			if c.of.last != nil {
				c.of.last.DeleteLabelValues(c.of.sink)
			}
		}
	})
}
