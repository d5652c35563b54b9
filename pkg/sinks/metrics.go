package sinks

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what sinks count, each under its own name.
type Metrics struct {
	suppressed, unheard *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registerer prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{suppressed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bridge_duplicates_suppressed_total",
		Help: "Events that were about to be sent again and were found to be stored.",
	}, []string{"sink"}), unheard: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bridge_events_unheard_total",
		Help: "Events published to core NATS while nobody subscribed to their subject.",
	}, []string{"sink"})}
	for _, c := range []prometheus.Collector{m.suppressed, m.unheard} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Suppressed says that the sink had that many of the events already that were
// to be sent again. A sink says 0 as it opens: of a series that begins with
// more, Prometheus sees no increase. A nil Metrics says nothing.
func (m *Metrics) Suppressed(sink string, events int) {
	if m != nil {
		m.suppressed.WithLabelValues(sink).Add(float64(events))
	}
}

// Unheard says that nobody was there for that many events, 0 as the sink opens.
// A nil Metrics says nothing.
func (m *Metrics) Unheard(sink string, events int) {
	if m != nil {
		m.unheard.WithLabelValues(sink).Add(float64(events))
	}
}

// Forget deletes the series of a sink that there is no more.
func (m *Metrics) Forget(sink string) {
	m.suppressed.DeleteLabelValues(sink)
	m.unheard.DeleteLabelValues(sink)
}
