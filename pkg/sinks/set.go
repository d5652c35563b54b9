package sinks

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Set is the sinks that there are, by name. It may be used concurrently.
type Set struct {
	sinks atomic.Pointer[map[string]Sink]
}

// NewSet is a set of these sinks.
func NewSet(sinks map[string]Sink) *Set {
	s := &Set{}
	s.Store(sinks)
	return s
}

// All are the sinks; the map must not be changed.
func (s *Set) All() map[string]Sink { return *s.sinks.Load() }

// Store makes these the sinks. The map must not be changed any more.
func (s *Set) Store(sinks map[string]Sink) { s.sinks.Store(&sinks) }

var connectedDesc = prometheus.NewDesc("bridge_sink_connected", "Whether the sink is connected: 1 if it is, else 0.", []string{"sink"}, nil)

// Describe implements prometheus.Collector.
func (s *Set) Describe(descs chan<- *prometheus.Desc) { descs <- connectedDesc }

// Collect tells which sinks are connected.
func (s *Set) Collect(metrics chan<- prometheus.Metric) {
	for name, sink := range s.All() {
		value := 0.0
		if sink.Status().Connected {
			value = 1
		}
		metrics <- prometheus.MustNewConstMetric(connectedDesc, prometheus.GaugeValue, value, name)
	}
}
