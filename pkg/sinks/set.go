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

var (
	connectedDesc = prometheus.NewDesc("bridge_sink_connected", "Whether the sink is connected: 1 if it is, else 0.", []string{"sink"}, nil)

	streamMessagesDesc = streamDesc("bridge_stream_messages", "Messages in the sink's stream.")
	streamBytesDesc    = streamDesc("bridge_stream_bytes", "Bytes in the sink's stream.")
	// discard is JetStream's word, as it is what the stream's owner sets.
	streamMaxMessagesDesc = streamDesc("bridge_stream_limit_messages",
		"How many messages the stream may hold, by what goes when it is full: old (the oldest) or new (it takes none). There is no series without a limit.", "discard")
	streamMaxBytesDesc = streamDesc("bridge_stream_limit_bytes",
		"How many bytes the stream may hold, by what goes when it is full: old (the oldest) or new (it takes none). There is no series without a limit.", "discard")
)

func streamDesc(name, help string, first ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append(first, "sink", "stream"), nil)
}

// Describe implements prometheus.Collector.
func (s *Set) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectedDesc, streamMessagesDesc, streamBytesDesc, streamMaxMessagesDesc, streamMaxBytesDesc} {
		descs <- d
	}
}

// Collect tells which sinks are connected, and how full their streams are.
func (s *Set) Collect(metrics chan<- prometheus.Metric) {
	for name, sink := range s.All() {
		status := sink.Status()
		value := 0.0
		if status.Connected {
			value = 1
		}
		metrics <- prometheus.MustNewConstMetric(connectedDesc, prometheus.GaugeValue, value, name)
		if stream := status.Stream; stream != nil && stream.Fresh() {
			stream.collect(name, metrics)
		}
	}
}

func (s *Stream) collect(sink string, metrics chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, value uint64, first ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), append(first, sink, s.Name)...)
	}
	tell(streamMessagesDesc, s.Messages)
	tell(streamBytesDesc, s.Bytes)
	discard := "old"
	if s.DiscardsNew {
		discard = "new"
	}
	if s.MaxMessages > 0 {
		tell(streamMaxMessagesDesc, s.MaxMessages, discard)
	}
	if s.MaxBytes > 0 {
		tell(streamMaxBytesDesc, s.MaxBytes, discard)
	}
}
