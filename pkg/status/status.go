// Package status answers those who ask how the bridge is: probes, Prometheus,
// programs and people. It asks the parts and changes nothing.
package status

import (
	"context"
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
	// Tap is what the live view of events looks through.
	Tap *flow.Tap
	// Leader names the bridge that leads while this one stands by; empty where
	// that is not known. Nil where there is no election.
	Leader func() string
	// Access is who may read, of all but the probes and the page's script and
	// style; nil is everyone who reaches the address, over loopback by a name of
	// the machine itself, and of profiles everyone who does so over loopback.
	Access *Access

	history history
	cached  cached
	streams streams
}

// Run keeps what the page shows of the last minutes, until ctx is done.
func (b *Bridge) Run(ctx context.Context) { b.history.keep(ctx, b.Flows) }

// Document is the answer of /api/status.
type Document struct {
	Cluster string `json:"cluster"`
	Role    string `json:"role"` // leader or standby
	// Leader is the bridge that leads, where this one stands by and knows.
	Leader        string        `json:"leader,omitempty"`
	Configuration Configuration `json:"configuration"`
	// CRDError is why the bridge does not know the cluster's CRDs yet; left out
	// once it does.
	CRDError string `json:"crdError,omitempty"`
	Flows    []Flow `json:"flows"`
	Sinks    []Sink `json:"sinks"`
}

// Configuration says which configuration is in force, and why a newer one is not.
type Configuration struct {
	LoadedAt time.Time `json:"loadedAt"`
	// Error is what is wrong with the file as it is now; empty where it is in
	// force.
	Error string `json:"error"`
	// RestartNeeded are keys whose values in the file need a restart.
	RestartNeeded []string `json:"restartNeeded,omitempty"`
	// Warnings are what in it is allowed and probably not meant.
	Warnings []string `json:"warnings,omitempty"`
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
	// Since is when the flow came into its state, LastDelivered when it last
	// delivered an event; left out where it never did.
	Since         time.Time `json:"since,omitzero"`
	LastDelivered time.Time `json:"lastDelivered,omitzero"`

	missing *flow.Right
}

func (f *Flow) id() flow.ID { return flow.ID{CRD: f.CRD, Route: f.Route, Sink: f.Sink} }

// Sink is one place to which events go.
type Sink struct {
	Name      string   `json:"name"`
	Type      string   `json:"type"`
	Connected bool     `json:"connected"`
	LastError string   `json:"lastError"`
	Notes     []string `json:"notes"`
	// Batches says how events are written; left out where there is one way only.
	Batches string `json:"batches,omitempty"`
	// Server is where the sink is connected to, or was last.
	Server string `json:"server,omitempty"`
	// Stream is left out where there is none, or nothing is known of it yet.
	Stream *Stream `json:"stream,omitempty"`
}

// Stream is how a sink's stream was when it was last looked at. A limit that is
// left out is none.
type Stream struct {
	Name          string    `json:"name"`
	Storage       string    `json:"storage"`
	Replicas      int       `json:"replicas"`
	Messages      uint64    `json:"messages"`
	Bytes         uint64    `json:"bytes"`
	MaxAgeSeconds float64   `json:"maxAgeSeconds,omitempty"`
	MaxBytes      uint64    `json:"maxBytes,omitempty"`
	LookedAt      time.Time `json:"lookedAt"`

	all *sinks.Stream
}

// Document is how the bridge is now.
func (b *Bridge) Document() Document {
	d := Document{
		Cluster: b.Cluster, Role: b.role(),
		Configuration: b.Configuration(),
		Flows:         []Flow{}, Sinks: []Sink{},
	}
	if d.Role == "standby" && b.Leader != nil {
		d.Leader = b.Leader()
	}
	if err := b.CRDs(); err != nil {
		d.CRDError = err.Error()
	}
	for _, f := range b.Flows() {
		d.Flows = append(d.Flows, Flow{
			CRD: f.CRD, Route: f.Route, Sink: f.Sink, Version: f.Version, State: f.State, Reason: f.Reason,
			Objects: f.Objects, Delivered: f.Delivered, Pending: f.Pending, LagSeconds: f.Lag.Seconds(), Fenced: f.Fenced, LastError: f.LastError,
			Since: f.Since.UTC(), LastDelivered: f.LastDelivered.UTC(), missing: f.Missing,
		})
	}
	for name, sink := range b.Sinks() {
		s := sink.Status()
		d.Sinks = append(d.Sinks, Sink{
			Name: name, Type: s.Type, Connected: s.Connected, LastError: s.LastError, Notes: append([]string{}, s.Notes...), Batches: s.Batches,
			Server: s.Server, Stream: streamOf(s.Stream),
		})
	}
	slices.SortFunc(d.Sinks, func(a, b Sink) int { return strings.Compare(a.Name, b.Name) })
	return d
}

func streamOf(s *sinks.Stream) *Stream {
	if s == nil {
		return nil
	}
	return &Stream{
		Name: s.Name, Storage: s.Storage, Replicas: s.Replicas, Messages: s.Messages, Bytes: s.Bytes,
		MaxAgeSeconds: s.MaxAge.Seconds(), MaxBytes: s.MaxBytes, LookedAt: s.Looked.UTC(), all: s,
	}
}

// Health serves the probes: /healthz and /readyz.
func (b *Bridge) Health() http.Handler {
	mux := http.NewServeMux()
	b.health(mux)
	return mux
}

// Server serves everything: metrics, API, status page, profiles and the probes.
func (b *Bridge) Server() http.Handler {
	open, guarded := http.NewServeMux(), http.NewServeMux()
	b.health(open)
	assets(open)
	guarded.Handle("GET /metrics", promhttp.HandlerFor(b.Metrics, promhttp.HandlerOpts{}))
	guarded.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(b.Document()) // the reader has gone; there is nobody to tell
	})
	guarded.HandleFunc("GET /{$}", b.flowsPage)
	guarded.HandleFunc("GET /events", b.eventsPage)
	guarded.HandleFunc("GET /live/status", b.streams.limited(b.liveStatus))
	guarded.HandleFunc("GET /live/events", b.streams.limited(b.liveEvents))
	everyone := b.Access == nil
	profiles(guarded, everyone)
	var rest http.Handler = guarded
	if !everyone {
		rest = b.Access.guard(guarded)
	}
	open.Handle("/", forOwnPages(rest, everyone))
	return secured(open)
}

// secured has browsers keep what they get to themselves.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (b *Bridge) health(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", b.ready)
}

// ready answers 200 when the bridge knows the cluster's CRDs. A sink that is
// down is told, and is no reason to be unready: a restart would not mend it. It
// is open to everyone, so that it says what is well and what is not, and neither
// names nor errors: those are in the status.
func (b *Bridge) ready(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var answer strings.Builder
	fmt.Fprintln(&answer, "[+] configuration: loaded")
	status := http.StatusOK
	if b.CRDs() != nil {
		status = http.StatusServiceUnavailable
		fmt.Fprintln(&answer, "[-] CRD cache: not synced (status and log say why)")
	} else {
		fmt.Fprintln(&answer, "[+] CRD cache: synced")
	}
	fmt.Fprintf(&answer, "[+] role: %s\n", b.role())
	if well(b.Sinks()) {
		fmt.Fprintln(&answer, "[+] sinks: connected")
	} else {
		fmt.Fprintln(&answer, "[!] sinks: not all are connected and take events (status and log say why; does not count against readiness)")
	}
	w.WriteHeader(status)
	fmt.Fprint(w, answer.String())
}

func well(all map[string]sinks.Sink) bool {
	for _, sink := range all {
		if s := sink.Status(); !s.Connected || s.LastError != "" {
			return false
		}
	}
	return true
}

func (b *Bridge) role() string {
	if b.Leading() {
		return "leader"
	}
	return "standby"
}
