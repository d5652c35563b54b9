package flow

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crbridge/crbridge/pkg/events"
)

// Why a complete list was compared with the ledger.
const (
	resyncExpired = iota
	resyncRecreated
	resyncRequested
	resyncSelection
	resyncLost
	resyncReasons
)

var resyncLabels = [resyncReasons]string{"expired", "recreated", "requested", "selection", "lost"}

// Metrics are the series of all flows. A flow's own end with Forget.
//
// Each flow has more than twenty, most of which are 0 for most flows. They are
// plain numbers, and made series when somebody reads them: as counters of the
// Prometheus library they took a tenth of what an idle flow takes.
type Metrics struct {
	mu    sync.Mutex
	flows map[ID]*series

	retries *prometheus.CounterVec
}

// NewMetrics makes the series and registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		flows: map[ID]*series{},
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_delivery_retries_total", Help: "Deliveries that a sink did not take and that were tried again.",
		}, []string{"sink"}),
	}
	registry.MustRegister(m, m.retries)
	return m
}

// series are one flow's.
type series struct {
	delivered  []atomic.Uint64 // of each type, in the order of events.Types
	pending    atomic.Int64
	lag        histogram
	starts     atomic.Uint64
	resyncs    [resyncReasons]atomic.Uint64
	oversize   atomic.Uint64
	whenErrors atomic.Uint64
	retries    prometheus.Counter // of all flows to the sink
}

// of are a flow's series. They are there from now on.
func (m *Metrics) of(id ID) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, known := m.flows[id]
	if !known {
		s = &series{delivered: make([]atomic.Uint64, len(events.Types())), retries: m.retries.WithLabelValues(id.Sink)}
		m.flows[id] = s
	}
	return s
}

// deliveredOne counts an event of that type.
func (s *series) deliveredOne(t events.Type) {
	if n := slices.Index(events.Types(), t); n >= 0 {
		s.delivered[n].Add(1)
	}
}

// forget deletes the flow's series, and those of its sink with the last flow
// that leads there.
func (m *Metrics) forget(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flows, id)
	for other := range m.flows {
		if other.Sink == id.Sink {
			return
		}
	}
	m.retries.DeleteLabelValues(id.Sink)
}

var (
	deliveredDesc = flowDesc("bridge_events_delivered_total", "Events that are durable in the sink.", "type")
	pendingDesc   = flowDesc("bridge_events_pending", "Events that are made and not yet durable in the sink.")
	lagDesc       = flowDesc("bridge_delivery_lag_seconds", "Time from when a change was observed to when its event was durable in the sink.")
	startsDesc    = flowDesc("bridge_flow_starts_total", "How often a flow began to follow its CRD's objects.")
	resyncsDesc   = flowDesc("bridge_resyncs_total",
		"Complete lists that were compared with the ledger, by why: expired (the API server no longer had the history), recreated (the CRD is another), requested (by bridge resync), selection (the route selects otherwise), lost (the sink no longer has all that the ledger is made of).", "reason")
	oversizeDesc = flowDesc("bridge_events_oversize_total", "Events whose data was cut to the object's metadata, or less, as the sink does not take larger ones.")
	whenDesc     = flowDesc("bridge_when_errors_total", "Events for which the route's expression failed, and that were sent all the same.")
)

func flowDesc(name, help string, first ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append(first, "crd", "route", "sink"), nil)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{deliveredDesc, pendingDesc, lagDesc, startsDesc, resyncsDesc, oversizeDesc, whenDesc} {
		descs <- d
	}
}

// Collect tells the flows' series as they are.
func (m *Metrics) Collect(metrics chan<- prometheus.Metric) {
	m.mu.Lock()
	flows := maps.Clone(m.flows)
	m.mu.Unlock()
	for id, s := range flows {
		s.collect(id, metrics)
	}
}

func (s *series) collect(id ID, metrics chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, first ...string) {
		metrics <- prometheus.MustNewConstMetric(d, kind, value, append(first, id.CRD, id.Route, id.Sink)...)
	}
	for n, t := range events.Types() {
		tell(deliveredDesc, prometheus.CounterValue, float64(s.delivered[n].Load()), string(t))
	}
	tell(pendingDesc, prometheus.GaugeValue, float64(s.pending.Load()))
	count, sum, buckets := s.lag.read()
	metrics <- prometheus.MustNewConstHistogram(lagDesc, count, sum, buckets, id.CRD, id.Route, id.Sink)
	tell(startsDesc, prometheus.CounterValue, float64(s.starts.Load()))
	for why := range s.resyncs {
		tell(resyncsDesc, prometheus.CounterValue, float64(s.resyncs[why].Load()), resyncLabels[why])
	}
	tell(oversizeDesc, prometheus.CounterValue, float64(s.oversize.Load()))
	tell(whenDesc, prometheus.CounterValue, float64(s.whenErrors.Load()))
}

// lagBounds are upper bounds of the histogram's buckets: 1 ms to 4.4 minutes.
var lagBounds = prometheus.ExponentialBuckets(0.001, 4, 10)

// histogram counts durations. One goroutine at a time observes.
type histogram struct {
	counts [11]atomic.Uint64 // of each bucket, the last one without a bound
	sum    atomic.Uint64     // bits of a float64, in seconds
}

func (h *histogram) observe(d time.Duration) {
	seconds := d.Seconds()
	n := 0
	for n < len(lagBounds) && seconds > lagBounds[n] {
		n++
	}
	h.sum.Store(math.Float64bits(math.Float64frombits(h.sum.Load()) + seconds))
	h.counts[n].Add(1)
}

// read is what was observed, as Prometheus has it: each bucket with those below.
func (h *histogram) read() (count uint64, sum float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(lagBounds))
	for n, bound := range lagBounds {
		count += h.counts[n].Load()
		buckets[bound] = count
	}
	return count + h.counts[len(lagBounds)].Load(), math.Float64frombits(h.sum.Load()), buckets
}

var (
	queueBytesDesc = prometheus.NewDesc("bridge_queue_bytes",
		"Bytes of events that wait in the queues of all flows, or are on their way.", nil, nil)
	queueLimitDesc = prometheus.NewDesc("bridge_queue_limit_bytes",
		"What bridge_queue_bytes may be; for each flow one event that is larger than its share may come on top.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *Memory) Describe(descs chan<- *prometheus.Desc) {
	descs <- queueBytesDesc
	descs <- queueLimitDesc
}

// Collect tells how much the queues hold.
func (m *Memory) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(queueBytesDesc, prometheus.GaugeValue, float64(m.Held()))
	metrics <- prometheus.MustNewConstMetric(queueLimitDesc, prometheus.GaugeValue, float64(m.Limit()))
}
