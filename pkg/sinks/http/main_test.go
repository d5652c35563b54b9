package http

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	nethttp "net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// receiver is an HTTP server that reads events with the CloudEvents SDK. It
// keeps its address and what it has taken from Kill to Start.
type receiver struct {
	address string
	tls     *tls.Config
	// answer decides on an event; nil takes all. It is not called for what is
	// no event.
	answer func(w nethttp.ResponseWriter, r *nethttp.Request, e *event.Event) (taken bool)

	mu      sync.Mutex
	stored  []event.Event
	asked   []request
	paused  chan struct{} // nil, or closed when the server goes on
	server  *nethttp.Server
	running sync.WaitGroup
}

// request is what the receiver has seen of one.
type request struct {
	at     time.Time
	method string
	header nethttp.Header
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	t.Cleanup(func() { r.kill() })
	return r
}

func (r *receiver) start(t *testing.T) {
	t.Helper()
	address := r.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	var listener net.Listener
	eventually(t, "the receiver can listen", func() (string, bool) {
		var err error
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err != nil {
			return err.Error(), false
		}
		return "", true
	})
	r.address = listener.Addr().String()
	if r.tls != nil {
		listener = tls.NewListener(listener, r.tls)
	}
	r.server = &nethttp.Server{
		Handler: nethttp.HandlerFunc(r.serve), ReadHeaderTimeout: patience,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	r.running.Go(func() { _ = r.server.Serve(listener) })
}

func (r *receiver) kill() {
	if r.server != nil {
		_ = r.server.Close()
		r.running.Wait()
		r.server = nil
	}
}

func (r *receiver) pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = make(chan struct{})
}

func (r *receiver) resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.paused)
	r.paused = nil
}

func (r *receiver) serve(w nethttp.ResponseWriter, req *nethttp.Request) {
	r.mu.Lock()
	paused := r.paused
	r.asked = append(r.asked, request{time.Now(), req.Method, req.Header.Clone()})
	r.mu.Unlock()
	if paused != nil {
		select {
		case <-paused:
		case <-req.Context().Done():
			return
		}
	}
	if req.Method == nethttp.MethodOptions {
		return
	}
	e, err := cehttp.NewEventFromHTTPRequest(req)
	if err == nil {
		err = e.Validate()
	}
	if err != nil {
		nethttp.Error(w, err.Error(), nethttp.StatusUnprocessableEntity)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answer != nil && !r.answer(w, req, e) {
		return
	}
	r.stored = append(r.stored, *e)
	w.WriteHeader(nethttp.StatusAccepted)
}

func (r *receiver) all() []event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]event.Event(nil), r.stored...)
}

// posts are the requests that were to bring an event.
func (r *receiver) posts() (all []request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.asked {
		if a.method == nethttp.MethodPost {
			all = append(all, a)
		}
	}
	return all
}

func (r *receiver) url() string {
	scheme := "http"
	if r.tls != nil {
		scheme = "https"
	}
	u := url.URL{Scheme: scheme, Host: r.address, Path: "/events"}
	return u.String()
}

func settingsFor(r *receiver) Settings {
	var s Settings
	s.SetDefaults()
	s.URL = r.url()
	return s
}

// open opens a sink that is closed when the test ends.
func open(t *testing.T, s Settings, log *slog.Logger) *Sink {
	t.Helper()
	sink, err := Open(s, sinks.Environment{Name: "main", Cluster: "demo", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := sink.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return sink
}

func change(t *testing.T, name string, version uint64) events.Event {
	t.Helper()
	e, err := events.New(
		events.Origin{Cluster: "demo", Group: "shop.example.com", Version: "v1", Kind: "Order", Resource: "orders", Namespaced: true, Route: "orders"}, nil,
		events.Change{
			Type: events.Updated, Namespace: "default", Name: name, UID: "uid-" + name, ResourceVersion: version, Observed: time.Unix(1, 0),
			Object: &object.Object{JSON: []byte(`{"spec":{"text":"é <b>&</b>"}}`)},
		})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func eventually(t *testing.T, what string, condition func() (string, bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		how, ok := condition()
		if ok {
			return
		}
		if !sinks.Sleep(ctx, 5*time.Millisecond) {
			t.Fatalf("after %v still not: %s: %s", patience, what, how)
		}
	}
}

// file is one with the content.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
