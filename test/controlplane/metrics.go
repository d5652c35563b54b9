//go:build unix

package controlplane

import (
	"bytes"
	"context"
	"fmt"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metric returns the sum of a counter's or gauge's samples that have all the
// given labels, or of what a histogram's have seen, from the API server's
// /metrics. That there is no such metric is an error; that no sample has the
// labels is 0, because the API server shows most samples only once there is
// something to count.
//
// For example, the watches that are open on a resource:
//
//	cp.Metric(ctx, "apiserver_longrunning_requests", map[string]string{
//		"verb": "WATCH", "group": "shop.example.com", "resource": "orders",
//	})
func (cp *ControlPlane) Metric(ctx context.Context, name string, labels map[string]string) (float64, error) {
	body, err := cp.client.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("API server's metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("API server's metrics: %w", err)
	}
	family, ok := families[name]
	if !ok {
		return 0, fmt.Errorf("API server's metrics: no %s among them", name)
	}
	sum := 0.0
	for _, sample := range family.GetMetric() {
		if !hasLabels(sample, labels) {
			continue
		}
		switch family.GetType() {
		case dto.MetricType_COUNTER:
			sum += sample.GetCounter().GetValue()
		case dto.MetricType_GAUGE:
			sum += sample.GetGauge().GetValue()
		case dto.MetricType_HISTOGRAM:
			sum += sample.GetHistogram().GetSampleSum()
		default:
			return 0, fmt.Errorf("API server's metrics: %s is a %s, neither counter nor gauge nor histogram", name, family.GetType())
		}
	}
	return sum, nil
}

// CollectGarbage has the API server collect its garbage, and returns when it has.
func (cp *ControlPlane) CollectGarbage(ctx context.Context) error {
	if _, err := cp.client.RESTClient().Get().AbsPath("/debug/pprof/heap").Param("gc", "1").DoRaw(ctx); err != nil {
		return fmt.Errorf("API server's heap profile: %w", err)
	}
	return nil
}

func hasLabels(sample *dto.Metric, want map[string]string) bool {
	found := 0
	for _, label := range sample.GetLabel() {
		if value, ok := want[label.GetName()]; ok && value == label.GetValue() {
			found++
		}
	}
	return found == len(want)
}
