package sinks

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what all sinks tell of themselves, each under its own name.
type Metrics struct {
	connected  *prometheus.GaugeVec
	suppressed *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registerer prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bridge_sink_connected",
		Help: "Whether the sink is connected: 1 if it is, else 0.",
	}, []string{"sink"}), suppressed: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bridge_duplicates_suppressed_total",
		Help: "Events that were about to be sent again and were found to be stored.",
	}, []string{"sink"})}
	for _, c := range []prometheus.Collector{m.connected, m.suppressed} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Suppressed says that the sink had that many of the events already that were
// to be sent again. A nil Metrics says nothing.
func (m *Metrics) Suppressed(sink string, events int) {
	if m != nil && events > 0 {
		m.suppressed.WithLabelValues(sink).Add(float64(events))
	}
}

// Connected says whether the sink of that name is connected. A nil Metrics
// says nothing.
func (m *Metrics) Connected(sink string, connected bool) {
	if m == nil {
		return
	}
	value := 0.0
	if connected {
		value = 1
	}
	m.connected.WithLabelValues(sink).Set(value)
}
