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

// keptFor is how long the counters of a flow that rests are kept: longer than
// any rule or dashboard looks back.
const keptFor = 24 * time.Hour

// Metrics are the series of all flows. A flow's own end when it rests, and its
// counters go on from where they were if it comes back: where they began anew
// each time, those who look for an increase would see none in a CRD that comes
// and goes. They are kept for a day, so that there are as many as CRDs have gone
// in that time.
//
// Each flow has more than twenty, most of which are 0 for most flows. They are
// plain numbers, and made series when somebody reads them: as counters of the
// Prometheus library they took a tenth of what an idle flow takes.
type Metrics struct {
	mu      sync.Mutex
	flows   map[ID]*series
	resting map[ID]rested
	swept   time.Time // when those that had rested for too long were last let go
	sinks   []string  // that are configured

	retries *prometheus.CounterVec
}

// rested are the counters of a flow of which nobody is told for now.
type rested struct {
	*series
	since time.Time
}

// NewMetrics makes the series and registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		flows: map[ID]*series{}, resting: map[ID]rested{},
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
	lost       moment // of the last resync for that reason
	oversize   occurrences
	whenErrors occurrences
}

// moment is when something happened last, in milliseconds of Unix time; 0 for
// never.
type moment struct{ atomic.Int64 }

func (m *moment) now() { m.Store(time.Now().UnixMilli()) }

// occurrences are a counter, and when it was last added to. A rule that asks
// for the counter's increase sees nothing of what was counted before the first
// scrape; the moment it sees whenever that is.
type occurrences struct {
	count atomic.Uint64
	last  moment
}

func (o *occurrences) add() {
	o.last.now()
	o.count.Add(1)
}

// of are a flow's series. They are there from now on.
func (m *Metrics) of(id ID) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, known := m.flows[id]
	if known {
		return s
	}
	if kept, rests := m.resting[id]; rests {
		s = kept.series
		delete(m.resting, id)
	} else {
		s = &series{delivered: make([]atomic.Uint64, len(events.Types()))}
	}
	m.flows[id] = s
	return s
}

// deliveredOne counts an event of that type.
func (s *series) deliveredOne(t events.Type) {
	if n := slices.Index(events.Types(), t); n >= 0 {
		s.delivered[n].Add(1)
	}
}

// ledgerLost counts a resync because the sink no longer had all.
func (s *series) ledgerLost() {
	s.lost.now()
	s.resyncs[resyncLost].Add(1)
}

// rest ends the flow's series, and keeps its counters.
func (m *Metrics) rest(id ID, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, told := m.flows[id]; told {
		delete(m.flows, id)
		m.resting[id] = rested{s, now}
	}
	if now.Sub(m.swept) >= keptFor/24 { // not for each flow that rests
		m.swept = now
		maps.DeleteFunc(m.resting, func(_ ID, r rested) bool { return now.Sub(r.since) >= keptFor })
	}
}

// forget deletes the flow's series, and its counters.
func (m *Metrics) forget(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flows, id)
	delete(m.resting, id)
}

// Configured says which flows there may be from now on, and which sinks. A sink's
// series begin with 0, before anything leads there, and end when it is no longer
// configured. The counters of flows that rest and may not be any more are let
// go; the series of those that run end with Forget.
func (m *Metrics) Configured(wanted func(ID) bool, sinks []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.resting, func(id ID, _ rested) bool { return !wanted(id) })
	for _, sink := range m.sinks {
		if !slices.Contains(sinks, sink) {
			m.retries.DeleteLabelValues(sink)
		}
	}
	for _, sink := range sinks {
		m.retries.WithLabelValues(sink)
	}
	m.sinks = sinks
}

// retriesTo counts for all flows to the sink.
func (m *Metrics) retriesTo(sink string) prometheus.Counter { return m.retries.WithLabelValues(sink) }

var (
	deliveredDesc = flowDesc("bridge_events_delivered_total", "Events that are durable in the sink.", "type")
	pendingDesc   = flowDesc("bridge_events_pending", "Events that are made and not yet durable in the sink.")
	lagDesc       = flowDesc("bridge_delivery_lag_seconds", "Time from when a change was observed to when its event was durable in the sink.")
	startsDesc    = flowDesc("bridge_flow_starts_total", "How often a flow began to follow its CRD's objects.")
	resyncsDesc   = flowDesc("bridge_resyncs_total",
		"Complete lists that were compared with the ledger, by why: expired (the API server no longer had the history), recreated (the CRD is another), requested (by bridge resync), selection (the route selects otherwise), lost (the sink no longer has all that the ledger is made of).", "reason")
	oversizeDesc = flowDesc("bridge_events_oversize_total", "Events whose data was cut to the object's metadata, or less, as the sink does not take larger ones.")
	whenDesc     = flowDesc("bridge_when_errors_total", "Events for which the route's expression failed, and that were sent all the same.")

	lostLastDesc = flowDesc("bridge_ledger_lost_last_timestamp_seconds",
		"When it was last found that the sink no longer has all that the ledger is made of. There is no series where that never was.")
	oversizeLastDesc = flowDesc("bridge_events_oversize_last_timestamp_seconds",
		"When an event's data was last cut, as the sink does not take larger ones. There is no series where that never was.")
	whenLastDesc = flowDesc("bridge_when_errors_last_timestamp_seconds",
		"When the route's expression last failed for an event. There is no series where that never was.")
)

func flowDesc(name, help string, first ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append(first, "crd", "route", "sink"), nil)
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{deliveredDesc, pendingDesc, lagDesc, startsDesc, resyncsDesc, oversizeDesc, whenDesc, lostLastDesc, oversizeLastDesc, whenLastDesc} {
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
	tell(oversizeDesc, prometheus.CounterValue, float64(s.oversize.count.Load()))
	tell(whenDesc, prometheus.CounterValue, float64(s.whenErrors.count.Load()))
	last := func(d *prometheus.Desc, m *moment) {
		if at := m.Load(); at != 0 {
			tell(d, prometheus.GaugeValue, float64(at)/1000)
		}
	}
	last(lostLastDesc, &s.lost)
	last(oversizeLastDesc, &s.oversize.last)
	last(whenLastDesc, &s.whenErrors.last)
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
