package sinks

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what all sinks tell of themselves, each under its own name.
type Metrics struct {
	connected *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(registerer prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bridge_sink_connected",
		Help: "Whether the sink is connected: 1 if it is, else 0.",
	}, []string{"sink"})}
	if err := registerer.Register(m.connected); err != nil {
		return nil, err
	}
	return m, nil
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
