//go:build unix

package e2e_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/poll"
	"github.com/crbridge/crbridge/test/process"
)

// bridge is a running bridge.
type bridge struct {
	*process.Process
	server, health string // base URLs
	config         string // path of its configuration
}

// patience is how long a test waits for something that should happen at once.
// It is long because the machines that run tests are slow at times.
const patience = 60 * time.Second

// config is a bridge's configuration file; tests write what matters to them.
type config struct {
	kubeconfig string
	body       string // routes and sinks
	env        []string
	binary     string // another than the one under test
}

// startBridge runs the bridge until the test ends.
func startBridge(t *testing.T, c config) *bridge {
	t.Helper()
	b := newBridge(t, c)
	if err := b.Start(t.Context()); err != nil {
		t.Fatalf("starting the bridge: %v", err)
	}
	return b
}

func newBridge(t *testing.T, c config) *bridge {
	t.Helper()
	server, health := freeAddress(t), freeAddress(t)
	path := filepath.Join(t.TempDir(), "config.yaml")
	content := fmt.Sprintf("cluster: test\nhealth: {address: %q}\nserver: {address: %q}\n%s", health, server, c.body)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bridge{server: "http://" + server, health: "http://" + health, config: path}
	b.Process = process.New(process.Command{
		Name: "bridge", Path: cmp.Or(c.binary, bridgePath),
		Args:    []string{"run", "--config", path, "--kubeconfig", c.kubeconfig},
		Env:     c.env,
		LogFile: filepath.Join(t.ArtifactDir(), "bridge.log"),
		Ready: func(ctx context.Context) error {
			_, _, err := get(ctx, b.health+"/healthz")
			return err
		},
	})
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			t.Logf("the bridge's log ends:\n%s", b.LogTail())
		}
	})
	return b
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := controlplane.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func get(ctx context.Context, url string) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), err
}

// status is what the contract says of /api/status.
type status struct {
	Cluster       string
	Role          string
	Leader        string
	CRDError      string
	Configuration struct {
		LoadedAt, Error string
		RestartNeeded   []string
	}
	Flows []flowStatus
	Sinks []struct {
		Name, Type, LastError, Batches string
		Notes                          []string
		Connected                      bool
	}
}

type flowStatus struct {
	CRD, Route, Sink, Version, State, Reason, LastError string
	Objects, Delivered, Pending                         int
	LagSeconds                                          float64
	Since                                               time.Time
	Fenced                                              bool
}

func (b *bridge) status(t *testing.T) status {
	t.Helper()
	_, body, err := get(t.Context(), b.server+"/api/status")
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	var s status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("status: %v in %s", err, body)
	}
	return s
}

// flow is the status of the flow of that CRD and route; its sink is "main".
func (b *bridge) flow(t *testing.T, crd, route string) flowStatus {
	t.Helper()
	for _, f := range b.status(t).Flows {
		if f.CRD == crd && f.Route == route {
			return f
		}
	}
	return flowStatus{CRD: crd, Route: route, State: "none"}
}

// waitState waits until the flow is in the state, and returns it.
func (b *bridge) waitState(t *testing.T, crd, route, state string) flowStatus {
	t.Helper()
	var f flowStatus
	eventually(t, func() error {
		if f = b.flow(t, crd, route); f.State != state {
			return fmt.Errorf("%s on %s is %s (%s), not %s", crd, route, f.State, f.Reason, state)
		}
		return nil
	})
	return f
}

// waitReady waits until /readyz has that status and says all of that.
func (b *bridge) waitReady(t *testing.T, want int, says ...string) {
	t.Helper()
	eventually(t, func() error {
		status, body, err := get(t.Context(), b.health+"/readyz")
		if err != nil {
			return err
		}
		for _, text := range says {
			if !strings.Contains(body, text) {
				return fmt.Errorf("readyz does not say %q: %s", text, body)
			}
		}
		if status != want {
			return fmt.Errorf("readyz is %d, not %d: %s", status, want, body)
		}
		return nil
	})
}

// metrics is a scrape of the bridge.
func (b *bridge) metrics(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	_, body, err := get(t.Context(), b.server+"/metrics")
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	return families
}

// gauge is the value of a metric that has no labels.
func (b *bridge) gauge(t *testing.T, name string) float64 {
	t.Helper()
	family := b.metrics(t)[name]
	if family == nil || len(family.Metric) != 1 {
		t.Fatalf("metric %s: %v", name, family)
	}
	return family.Metric[0].GetGauge().GetValue()
}

// seriesOf are the names of the series that have the CRD for a label.
func (b *bridge) seriesOf(t *testing.T, crd string) []string {
	t.Helper()
	var names []string
	for name, family := range b.metrics(t) {
		for _, m := range family.Metric {
			for _, label := range m.Label {
				if label.GetName() == "crd" && label.GetValue() == crd {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// log is all that the bridge has logged.
func (b *bridge) log(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(b.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// eventually waits until the condition holds, and fails the test with what it
// said last if it does not within the test's patience.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	poll.Eventually(t, patience, condition)
}
