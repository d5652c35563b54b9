//go:build unix

package e2e_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// webhook takes events with the CloudEvents SDK. Told to be bad, it takes some,
// answers that it did not, and closes connections.
type webhook struct {
	url string

	mu     sync.Mutex
	bad    bool
	asked  int
	tokens map[string]int
	refuse string // the name of an object that it does not take
	taken  []event.Event
}

func newWebhook(t *testing.T) *webhook {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &webhook{url: "http://" + listener.Addr().String() + "/events?key=hunter2", tokens: map[string]int{}}
	server := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return h
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens[r.Header.Get("Authorization")]++
	if r.Method == http.MethodOptions {
		return
	}
	h.asked++
	e, err := cehttp.NewEventFromHTTPRequest(r)
	if err == nil {
		err = e.Validate()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if h.refuse != "" && strings.HasSuffix(e.Subject(), "/"+h.refuse) {
		http.Error(w, "too large for us", http.StatusRequestEntityTooLarge)
		return
	}
	if h.bad {
		switch h.asked % 8 {
		case 1: // taken, and the answer is lost
			h.taken = append(h.taken, *e)
			panic(http.ErrAbortHandler)
		case 3:
			panic(http.ErrAbortHandler)
		case 5:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case 7: // taken, whatever it says
			h.taken = append(h.taken, *e)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
	}
	h.taken = append(h.taken, *e)
	w.WriteHeader(http.StatusAccepted)
}

func (h *webhook) set(bad bool, refuse string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bad, h.refuse = bad, refuse
}

// told is what each event says that came for the first time, and how many came.
func (h *webhook) told(t *testing.T) (first []string, all int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	seen, last := map[string]bool{}, map[string]string{}
	for _, e := range h.taken {
		if seen[e.ID()] {
			continue
		}
		seen[e.ID()] = true
		sequence := fmt.Sprint(e.Extensions()["sequence"])
		if sequence < last[e.Subject()] {
			t.Errorf("%s: sequence %s comes first after %s", e.Subject(), sequence, last[e.Subject()])
		}
		last[e.Subject()] = sequence
		first = append(first, strings.Split(e.Type(), ".")[3]+" "+e.Subject())
	}
	return first, len(h.taken)
}

// TestHTTPSink shows events that are posted: in order, none missing, across
// answers that are lost, crashes of the bridge, and a receiver that refuses.
func TestHTTPSink(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"binary", "structured"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // it waits, most of the time
			w, h := newWorld(t), newWebhook(t)
			w.kind.create(t)
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte("first"), 0o600); err != nil {
				t.Fatal(err)
			}
			c := config{
				kubeconfig: w.cp.AdminKubeconfig(),
				body: fmt.Sprintf("state: {sink: main}\nroutes:\n  - {name: test, crds: [%s], sinks: [hook]}\n", w.kind.name) + natsConfig(w.nats) +
					fmt.Sprintf("  hook: {http: {url: %q, mode: %s, auth: {tokenFile: %q}}}\n", h.url, mode, token),
			}
			b := startBridge(t, c)
			b.waitState(t, w.kind.name, "test", "running")
			h.set(true, "")
			const objects, rounds = 4, 6
			for round := range rounds {
				for n := range objects {
					if name := fmt.Sprint("o", n); round == 0 {
						w.kind.add(t, name, nil)
					} else {
						w.kind.set(t, name, "size", round)
					}
				}
				if round%2 == 1 {
					b.Kill()
					b = startBridge(t, c)
				}
			}
			for n := range objects {
				w.kind.drop(t, fmt.Sprint("o", n))
			}
			eventually(t, func() error {
				ends := 0
				first, all := h.told(t)
				for _, what := range first {
					if strings.HasPrefix(what, "deleted ") {
						ends++
					}
				}
				if ends < objects {
					return fmt.Errorf("%d objects of %d have ended, of %d events: %v", ends, objects, all, first)
				}
				return nil
			})
			ended := map[string]bool{}
			first, all := h.told(t)
			for _, what := range first {
				kind, object, _ := strings.Cut(what, " ")
				if ended[object] {
					t.Errorf("%s after its end", what)
				}
				ended[object] = kind == "deleted"
			}
			if all <= len(first) {
				t.Errorf("none of %d events came twice, so nothing was lost on the way", all)
			}

			h.set(false, "huge")
			w.kind.add(t, "huge", nil)
			w.kind.add(t, "other", nil)
			eventually(t, func() error {
				f := b.flow(t, w.kind.name, "test")
				for _, want := range []string{"sink hook: event ", "default/huge is refused: ", "413 Request Entity Too Large: too large for us", "tried every 30s"} {
					if f.State != "blocked" || !strings.Contains(f.Reason, want) {
						return fmt.Errorf("%s, and the reason does not say %q: %s", f.State, want, f.Reason)
					}
				}
				return nil
			})
			h.set(false, "")
			if err := os.WriteFile(token, []byte("second"), 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error { // long before the 30 s are over
				if first, _ := h.told(t); first[len(first)-1] != "created default/other" {
					return fmt.Errorf("last came %s", first[len(first)-1])
				}
				return nil
			})
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.tokens) != 2 || h.tokens["Bearer first"] == 0 || h.tokens["Bearer second"] == 0 {
				t.Errorf("requests by token: %v", h.tokens)
			}
			for _, secret := range []string{"hunter2", "Bearer"} {
				if strings.Contains(b.log(t), secret) {
					t.Errorf("%q is in the log", secret)
				}
			}
		})
	}
}

// TestStdoutSink shows the first look: a line for each event.
func TestStdoutSink(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body:       "routes:\n" + w.kind.route("test") + "sinks: {main: {stdout: {}}}\n",
	})
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", map[string]any{"text": "two\nlines"})
	w.kind.set(t, "one", "size", 1)
	w.kind.drop(t, "one")
	eventually(t, func() error {
		var got []string
		for lines := bufio.NewScanner(strings.NewReader(b.log(t))); lines.Scan(); {
			if !strings.HasPrefix(lines.Text(), "{") {
				continue // the log's
			}
			var e event.Event
			if err := e.UnmarshalJSON(lines.Bytes()); err != nil {
				return fmt.Errorf("%w: %s", err, lines.Text())
			}
			if err := e.Validate(); err != nil {
				return err
			}
			got = append(got, strings.Split(e.Type(), ".")[3]+" "+e.Subject())
		}
		if want := "[created default/one updated default/one deleted default/one]"; fmt.Sprint(got) != want {
			return fmt.Errorf("the lines are %v, not %s", got, want)
		}
		return nil
	})
	// What reads the other end decides; the bridge ends all the same.
	begin := time.Now()
	if err := b.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > patience {
		t.Errorf("it took %v to end", took)
	}
}
