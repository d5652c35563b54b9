package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// fixedSink is a sink of which only the status is asked.
type fixedSink struct {
	sinks.Sink
	status sinks.Status
}

func (s fixedSink) Status() sinks.Status { return s.status }

func testBridge() *Bridge {
	return &Bridge{
		Cluster: "test", Configuration: func() Configuration { return Configuration{LoadedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} },
		Metrics: prometheus.NewRegistry(),
		Sinks: func() map[string]sinks.Sink {
			return map[string]sinks.Sink{
				"main":   fixedSink{status: sinks.Status{Type: "nats", Connected: true, Notes: []string{"<i>small</i>"}}},
				"backup": fixedSink{status: sinks.Status{Type: "nats", LastError: "sink backup: <b>no route</b>"}},
			}
		},
		Flows: func() []flow.Status {
			return []flow.Status{{
				ID: flow.ID{CRD: "widgets.example.com", Route: "r", Sink: "main"}, Version: "v1", State: flow.Blocked,
				Reason: "<script>alert(1)</script>", Objects: 3, Delivered: 12, Pending: 1, Lag: 1500 * time.Millisecond, LastError: "x",
			}}
		},
		Leading: func() bool { return true },
		CRDs:    func() error { return nil },
		Tap:     &flow.Tap{},
	}
}

func ask(h http.Handler, path string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer
}

// TestAPI pins the names and types of /api/status, which programs rely on.
func TestAPI(t *testing.T) {
	answer := ask(testBridge().Server(), "/api/status")
	var got, want any
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{
		"cluster": "test", "role": "leader",
		"configuration": {"loadedAt": "2026-01-02T03:04:05Z", "error": ""},
		"flows": [{"crd": "widgets.example.com", "route": "r", "sink": "main", "version": "v1", "state": "blocked",
			"reason": "<script>alert(1)</script>", "objects": 3, "delivered": 12, "pending": 1, "lagSeconds": 1.5, "fenced": false, "lastError": "x"}],
		"sinks": [{"name": "backup", "type": "nats", "connected": false, "lastError": "sink backup: <b>no route</b>", "notes": []},
			{"name": "main", "type": "nats", "connected": true, "lastError": "", "notes": ["<i>small</i>"]}]
	}`), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAPIWithoutFlows shows that lists are lists also when they are empty.
func TestAPIWithoutFlows(t *testing.T) {
	b := testBridge()
	b.Flows, b.Sinks = func() []flow.Status { return nil }, func() map[string]sinks.Sink { return nil }
	if body := ask(b.Server(), "/api/status").Body.String(); !strings.Contains(body, `"flows": []`) || !strings.Contains(body, `"sinks": []`) {
		t.Errorf("%s", body)
	}
}

// TestReady shows what the open probe says: what is well and what is not, and
// nothing of what a sink or the API server said, nor what they are called.
func TestReady(t *testing.T) {
	const (
		known   = "[+] CRD cache: synced\n"
		trouble = "[!] sinks: not all are connected and take events (status and log say why; does not count against readiness)\n"
	)
	for _, row := range []struct {
		why    string
		crds   error
		leads  bool
		sinks  []sinks.Status
		status int
		body   string
	}{
		{"all is well", nil, true, []sinks.Status{{Connected: true}, {Connected: true}}, 200, known + "[+] role: leader\n[+] sinks: connected\n"},
		{"there is no sink", nil, true, nil, 200, known + "[+] role: leader\n[+] sinks: connected\n"},
		{"a sink that is down does not count", nil, true, []sinks.Status{{Connected: true}, {LastError: "sink two: no route to 10.1.2.3"}}, 200, known + "[+] role: leader\n" + trouble},
		{"a sink that is not up yet", nil, true, []sinks.Status{{}}, 200, known + "[+] role: leader\n" + trouble},
		{"a sink that is up and in trouble", nil, true, []sinks.Status{{Connected: true, LastError: "sink one: the stream is full"}}, 200, known + "[+] role: leader\n" + trouble},
		{"a standby is ready", nil, false, []sinks.Status{{Connected: true}}, 200, known + "[+] role: standby\n[+] sinks: connected\n"},
		{"without CRDs there is nothing to do", errors.New("not synced, retrying: Get https://10.0.0.1: refused"), true, []sinks.Status{{Connected: true}}, 503,
			"[-] CRD cache: not synced (status and log say why)\n[+] role: leader\n[+] sinks: connected\n"},
	} {
		t.Run(row.why, func(t *testing.T) {
			b := testBridge()
			b.CRDs, b.Leading = func() error { return row.crds }, func() bool { return row.leads }
			b.Sinks = func() map[string]sinks.Sink {
				all := map[string]sinks.Sink{}
				for n, s := range row.sinks {
					all[fmt.Sprint("sink", n)] = fixedSink{status: s}
				}
				return all
			}
			b.Flows = func() []flow.Status {
				t.Error("a probe goes through all flows")
				return nil
			}
			for _, h := range []http.Handler{b.Health(), b.Server()} {
				answer := ask(h, "/readyz")
				if body := "[+] configuration: loaded\n" + row.body; answer.Code != row.status || answer.Body.String() != body {
					t.Errorf("%d %s, not %d %s", answer.Code, answer.Body, row.status, body)
				}
				if kind := answer.Header().Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
					t.Errorf("content type %q", kind)
				}
			}
		})
	}
}

// TestUnknownCRDs shows that those who may read are told why; of the page
// TestPageIsText does.
func TestUnknownCRDs(t *testing.T) {
	b := testBridge()
	b.CRDs = func() error { return errors.New("not synced, retrying: <b>forbidden</b>") }
	var d Document
	if err := json.Unmarshal(ask(b.Server(), "/api/status").Body.Bytes(), &d); err != nil || d.CRDError != b.CRDs().Error() {
		t.Errorf("the API says %q, and %v", d.CRDError, err)
	}
}

// TestPaths shows what is served where: the open health address tells nothing
// of what is bridged.
func TestPaths(t *testing.T) {
	b := testBridge()
	for _, row := range []struct {
		path           string
		health, server int
	}{
		{"/healthz", 200, 200},
		{"/readyz", 200, 200},
		{"/metrics", 404, 200},
		{"/api/status", 404, 200},
		{"/", 404, 200},
		{"/events", 404, 200},
		{"/debug/pprof/", 404, 403}, // what is asked here comes from 192.0.2.1
		{"/debug/pprof/heap", 404, 403},
		{"/other", 404, 404},
	} {
		if got := ask(b.Health(), row.path).Code; got != row.health {
			t.Errorf("%s at the health address: %d, not %d", row.path, got, row.health)
		}
		if got := ask(b.Server(), row.path).Code; got != row.server {
			t.Errorf("%s at the server address: %d, not %d", row.path, got, row.server)
		}
	}
}
