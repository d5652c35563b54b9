package flow

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crbridge/crbridge/pkg/events"
)

// Why a complete list was compared with the ledger.
const (
	resyncExpired   = "expired"
	resyncRecreated = "recreated"
	resyncRequested = "requested"
	resyncSelection = "selection"
	resyncLost      = "lost"
)

// resyncReasons are all of them.
func resyncReasons() []string {
	return []string{resyncExpired, resyncRecreated, resyncRequested, resyncSelection, resyncLost}
}

var flowLabels = []string{"crd", "route", "sink"}

// Metrics are the series of all flows. A flow's own are deleted with it.
type Metrics struct {
	delivered *prometheus.CounterVec
	pending   *prometheus.GaugeVec
	lag       *prometheus.HistogramVec
	starts    *prometheus.CounterVec
	resyncs   *prometheus.CounterVec
	retries   *prometheus.CounterVec
	oversize  *prometheus.CounterVec
	when      *prometheus.CounterVec
}

// NewMetrics makes the series and registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		delivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_events_delivered_total", Help: "Events that are durable in the sink.",
		}, append([]string{"type"}, flowLabels...)),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "bridge_events_pending", Help: "Events that are made and not yet durable in the sink.",
		}, flowLabels),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "bridge_delivery_lag_seconds",
			Help:    "Time from when a change was observed to when its event was durable in the sink.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10), // 1 ms to 4.4 minutes
		}, flowLabels),
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_flow_starts_total", Help: "How often a flow began to follow its CRD's objects.",
		}, flowLabels),
		resyncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_resyncs_total",
			Help: "Complete lists that were compared with the ledger, by why: expired (the API server no longer had the history), recreated (the CRD is another), requested (by bridge resync), selection (the route selects otherwise), lost (the sink no longer has all that the ledger is made of).",
		}, append([]string{"reason"}, flowLabels...)),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_delivery_retries_total", Help: "Deliveries that a sink did not take and that were tried again.",
		}, []string{"sink"}),
		oversize: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_events_oversize_total", Help: "Events whose data was cut to the object's metadata, or less, as the sink does not take larger ones.",
		}, flowLabels),
		when: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_when_errors_total", Help: "Events for which the route's expression failed, and that were sent all the same.",
		}, flowLabels),
	}
	registry.MustRegister(m.delivered, m.pending, m.lag, m.starts, m.resyncs, m.retries, m.oversize, m.when)
	return m
}

// series are one flow's, looked up once for each run.
type series struct {
	delivered  map[events.Type]prometheus.Counter
	pending    prometheus.Gauge
	lag        prometheus.Observer
	starts     prometheus.Counter
	expired    prometheus.Counter
	recreated  prometheus.Counter
	requested  prometheus.Counter
	reselected prometheus.Counter
	lost       prometheus.Counter
	retries    prometheus.Counter
	oversize   prometheus.Counter
	whenErrors prometheus.Counter
}

func (m *Metrics) of(id ID) series {
	resync := func(reason string) prometheus.Counter {
		return m.resyncs.WithLabelValues(reason, id.CRD, id.Route, id.Sink)
	}
	s := series{
		delivered:  map[events.Type]prometheus.Counter{},
		pending:    m.pending.WithLabelValues(id.CRD, id.Route, id.Sink),
		lag:        m.lag.WithLabelValues(id.CRD, id.Route, id.Sink),
		starts:     m.starts.WithLabelValues(id.CRD, id.Route, id.Sink),
		expired:    resync(resyncExpired),
		recreated:  resync(resyncRecreated),
		requested:  resync(resyncRequested),
		reselected: resync(resyncSelection),
		lost:       resync(resyncLost),
		retries:    m.retries.WithLabelValues(id.Sink),
		oversize:   m.oversize.WithLabelValues(id.CRD, id.Route, id.Sink),
		whenErrors: m.when.WithLabelValues(id.CRD, id.Route, id.Sink),
	}
	for _, t := range events.Types() {
		s.delivered[t] = m.delivered.WithLabelValues(string(t), id.CRD, id.Route, id.Sink)
	}
	return s
}

// forget deletes the flow's series, each by its labels: a search would look at
// those of all flows.
func (m *Metrics) forget(id ID) {
	m.pending.DeleteLabelValues(id.CRD, id.Route, id.Sink)
	m.lag.DeleteLabelValues(id.CRD, id.Route, id.Sink)
	m.starts.DeleteLabelValues(id.CRD, id.Route, id.Sink)
	m.oversize.DeleteLabelValues(id.CRD, id.Route, id.Sink)
	m.when.DeleteLabelValues(id.CRD, id.Route, id.Sink)
	for _, reason := range resyncReasons() {
		m.resyncs.DeleteLabelValues(reason, id.CRD, id.Route, id.Sink)
	}
	for _, t := range events.Types() {
		m.delivered.DeleteLabelValues(string(t), id.CRD, id.Route, id.Sink)
	}
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
