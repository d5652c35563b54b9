// Package status answers those who ask how the bridge is: probes, Prometheus,
// programs and people. It asks the parts and changes nothing.
package status

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Bridge is what is asked.
type Bridge struct {
	Cluster string
	// Configuration says which configuration is in force.
	Configuration func() Configuration
	Metrics       prometheus.Gatherer
	Sinks         func() map[string]sinks.Sink
	// Flows says how each flow is, Leading whether this bridge runs them.
	Flows   func() []flow.Status
	Leading func() bool
	// CRDs says why the bridge does not know the cluster's CRDs yet; nil once it does.
	CRDs func() error
}

// Document is the answer of /api/status.
type Document struct {
	Cluster       string        `json:"cluster"`
	Role          string        `json:"role"` // leader or standby
	Configuration Configuration `json:"configuration"`
	Flows         []Flow        `json:"flows"`
	Sinks         []Sink        `json:"sinks"`
}

// Configuration says which configuration is in force, and why a newer one is not.
type Configuration struct {
	LoadedAt time.Time `json:"loadedAt"`
	// Error is what is wrong with the file as it is now; empty where it is in
	// force.
	Error string `json:"error"`
	// RestartNeeded are keys whose values in the file need a restart.
	RestartNeeded []string `json:"restartNeeded,omitempty"`
}

// Flow is one CRD on one route to one sink.
type Flow struct {
	CRD        string     `json:"crd"`
	Route      string     `json:"route"`
	Sink       string     `json:"sink"`
	Version    string     `json:"version"`
	State      flow.State `json:"state"`
	Reason     string     `json:"reason"`
	Objects    int        `json:"objects"`
	Delivered  uint64     `json:"delivered"`
	Pending    int        `json:"pending"`
	LagSeconds float64    `json:"lagSeconds"`
	Fenced     bool       `json:"fenced"`
	LastError  string     `json:"lastError"`
}

// Sink is one place to which events go.
type Sink struct {
	Name      string   `json:"name"`
	Type      string   `json:"type"`
	Connected bool     `json:"connected"`
	LastError string   `json:"lastError"`
	Notes     []string `json:"notes"`
	// Batches says how events are written; left out where there is one way only.
	Batches string `json:"batches,omitempty"`
}

// Document is how the bridge is now.
func (b *Bridge) Document() Document {
	d := Document{
		Cluster: b.Cluster, Role: "standby",
		Configuration: b.Configuration(),
		Flows:         []Flow{}, Sinks: []Sink{},
	}
	if b.Leading() {
		d.Role = "leader"
	}
	for _, f := range b.Flows() {
		d.Flows = append(d.Flows, Flow{
			CRD: f.CRD, Route: f.Route, Sink: f.Sink, Version: f.Version, State: f.State, Reason: f.Reason,
			Objects: f.Objects, Delivered: f.Delivered, Pending: f.Pending, LagSeconds: f.Lag.Seconds(), Fenced: f.Fenced, LastError: f.LastError,
		})
	}
	for name, sink := range b.Sinks() {
		s := sink.Status()
		d.Sinks = append(d.Sinks, Sink{Name: name, Type: s.Type, Connected: s.Connected, LastError: s.LastError, Notes: append([]string{}, s.Notes...), Batches: s.Batches})
	}
	slices.SortFunc(d.Sinks, func(a, b Sink) int { return strings.Compare(a.Name, b.Name) })
	return d
}

// Health serves the probes: /healthz and /readyz.
func (b *Bridge) Health() http.Handler {
	mux := http.NewServeMux()
	b.health(mux)
	return mux
}

// Server serves everything: metrics, API, status page, profiles and the probes.
func (b *Bridge) Server() http.Handler {
	mux := http.NewServeMux()
	b.health(mux)
	mux.Handle("GET /metrics", promhttp.HandlerFor(b.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(b.Document()) // the reader has gone; there is nobody to tell
	})
	mux.HandleFunc("GET /{$}", b.page)
	profiles(mux)
	return mux
}

func (b *Bridge) health(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", b.ready)
}

// ready answers 200 when the bridge knows the cluster's CRDs. A sink that is
// down is told, and is no reason to be unready: a restart would not mend it.
func (b *Bridge) ready(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var answer strings.Builder
	fmt.Fprintln(&answer, "[+] configuration: loaded")
	status := http.StatusOK
	if err := b.CRDs(); err != nil {
		status = http.StatusServiceUnavailable
		fmt.Fprintf(&answer, "[-] CRD cache: %v\n", err)
	} else {
		fmt.Fprintln(&answer, "[+] CRD cache: synced")
	}
	d := b.Document()
	fmt.Fprintf(&answer, "[+] role: %s\n", d.Role)
	for _, s := range d.Sinks {
		switch {
		case s.Connected && s.LastError == "":
			fmt.Fprintf(&answer, "[+] sink %s: connected\n", s.Name)
		case s.LastError == "":
			fmt.Fprintf(&answer, "[!] sink %s: not connected yet (does not count against readiness)\n", s.Name)
		default:
			fmt.Fprintf(&answer, "[!] %s (does not count against readiness)\n", s.LastError)
		}
	}
	w.WriteHeader(status)
	fmt.Fprint(w, answer.String())
}
