package status

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/pkg/flow"
)

// listener reads a stream of server-sent events.
type listener struct {
	t      *testing.T
	answer *http.Response
	lines  *bufio.Scanner
}

// listen opens a stream; the listener is nil where it is refused.
func listen(t *testing.T, url string) (*listener, int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.StatusCode != http.StatusOK {
		return nil, answer.StatusCode
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	return &listener{t: t, answer: answer, lines: lines}, answer.StatusCode
}

// next decodes the next message, and tells whether there was one.
func (l *listener) next(into any) bool {
	l.t.Helper()
	for l.lines.Scan() {
		if data, is := strings.CutPrefix(l.lines.Text(), "data: "); is {
			if err := json.Unmarshal([]byte(data), into); err != nil {
				l.t.Fatal(err)
			}
			return true
		}
	}
	return false
}

// flows is a bridge's flows that a test changes.
type flows struct {
	mu  sync.Mutex
	all []flow.Status
}

func (f *flows) set(all ...flow.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = all
}

func (f *flows) now() []flow.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]flow.Status(nil), f.all...)
}

func serve(t *testing.T, b *Bridge) string {
	t.Helper()
	server := httptest.NewServer(b.Server())
	t.Cleanup(func() {
		b.EndStreams()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return server.URL
}

// TestLiveStatus shows that a page gets all of what it shows, and then what
// changes: a flow that comes, one that is in trouble, and only what is asked for.
func TestLiveStatus(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("stream", func(t *testing.T) {
		b, f := testBridge(), &flows{}
		b.Flows = f.now
		a := flow.Status{ID: flow.ID{CRD: "a.example.com", Route: "r", Sink: "main"}, State: flow.Running, Fenced: true}
		other := flow.Status{ID: flow.ID{CRD: "b.example.com", Route: "other", Sink: "main"}, State: flow.Running, Fenced: true}
		f.set(a, other)
		l, _ := listen(t, serve(t, b)+"/live/status?route=r")
		var all view
		if !l.next(&all) || len(all.Lists["flows"]) != 1 || all.Rows["f:a.example.com|r|main"]["state"] != "running" || all.Rows["page"]["n:all"] != "2" {
			t.Fatalf("at first: %+v", all)
		}
		a.State, a.Reason = flow.Blocked, "no server can be reached"
		f.set(a, other)
		var change view
		if !l.next(&change) || len(change.Lists) != 0 {
			t.Fatalf("then: %+v", change)
		}
		row := change.Rows["f:a.example.com|r|main"]
		if row["state"] != "blocked" || row["reason"] != a.Reason || row["crd"] != "" || row["advice"] == "" {
			t.Errorf("the row is sent as %v", row)
		}
		if page := change.Rows["page"]; page["headline"] != "1 of 2 flows in trouble" || page["role"] != "" {
			t.Errorf("the page is sent as %v", page)
		}
	})
}

// TestLiveEvents shows that those who look get what is delivered, filtered.
func TestLiveEvents(t *testing.T) {
	b := testBridge()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("stream", func(t *testing.T) {
		l, _ := listen(t, serve(t, b)+"/live/events?q=orders+a-1")
		now := time.Now()
		for _, object := range []string{"shop/a-1", "shop/b-2"} {
			b.Tap.Show(flow.Delivery{ID: flow.ID{CRD: "orders.example.com", Route: "r", Sink: "s"}, Type: "deleted", Object: object, Inferred: true, Observed: now, Durable: now.Add(5 * time.Millisecond)})
		}
		var got struct {
			Events []liveEvent
			Missed int
		}
		if !l.next(&got) || len(got.Events) != 1 || got.Missed != 0 {
			t.Fatalf("%+v", got)
		}
		if e := got.Events[0]; e.Object != "shop/a-1" || e.Type != "deleted, inferred" || e.Lag != "5 ms" || e.CRD != "orders.example.com" {
			t.Errorf("%+v", e)
		}
	})
	if b.Tap.Watched() {
		t.Error("somebody still looks when all have gone")
	}
}

// TestLiveFromTheBeginning shows that nothing is missed that is delivered once a
// page has an answer, and says that it is live.
func TestLiveFromTheBeginning(t *testing.T) {
	b := testBridge()
	ctx, cancel := context.WithCancel(t.Context())
	w := &beginning{ResponseRecorder: httptest.NewRecorder(), begins: func() {
		if !b.Tap.Watched() {
			t.Error("the answer begins, and nobody looks on yet")
		}
		cancel()
	}}
	b.streams.limited(b.liveEvents)(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/live/events", nil))
	if w.Body.Len() == 0 {
		t.Error("there is no answer")
	}
}

// beginning tells of each write of an answer.
type beginning struct {
	*httptest.ResponseRecorder
	begins func()
}

func (w *beginning) Write(p []byte) (int, error) {
	w.begins()
	return w.ResponseRecorder.Write(p)
}

func (w *beginning) SetWriteDeadline(time.Time) error { return nil }

// TestLook shows what a page is told of at a time: the newest of what it looks
// for, and how much it was not told of.
func TestLook(t *testing.T) {
	for _, row := range []struct {
		why        string
		deliveries int
		text       string
		found      []int // by number, first and last
		missed     int
	}{
		{"nothing was delivered", 0, "", nil, 0},
		{"nothing that is looked for", 100, "something else", nil, 0},
		{"all of it", 50, "", []int{0, 49}, 0},
		{"as much as a person could read", 300, "", []int{250, 299}, 250},
		{"one in a hundred, in whatever case, of more than is taken in one go", 4000, "SHOP/7- Orders", []int{7, 3907}, 0},
		{"what was overwritten is looked for in vain", 5000, "shop/7-", []int{907, 4907}, 904},
	} {
		t.Run(row.why, func(t *testing.T) {
			tap := &flow.Tap{}
			v := tap.View()
			defer v.Close()
			for n := range row.deliveries {
				tap.Show(flow.Delivery{ID: flow.ID{CRD: "orders.example.com"}, Object: fmt.Sprintf("shop/%d-%d", n%100, n)})
			}
			found, missed := look(v, newTerms(row.text), make([]flow.Delivery, mostTaken))
			var got []int
			if len(found) > 0 {
				for _, d := range []flow.Delivery{found[0], found[len(found)-1]} {
					var n int
					if _, err := fmt.Sscanf(d.Object[strings.LastIndex(d.Object, "-")+1:], "%d", &n); err != nil {
						t.Fatal(err)
					}
					got = append(got, n)
				}
			}
			if diff := cmp.Diff(row.found, got); diff != "" || missed != row.missed || len(found) > mostEvents {
				t.Errorf("%d are found, %d missed, first and last (-want +got):\n%s", len(found), missed, diff)
			}
		})
	}
}

// TestStreamsAreBounded shows that there are only so many, that a place is free
// again when its page is closed, and that all end at once when the server does.
func TestStreamsAreBounded(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("streams", func(t *testing.T) {
		b := testBridge()
		url := serve(t, b)
		var open []*listener
		for range mostStreams {
			l, status := listen(t, url+"/live/status")
			if l == nil {
				t.Fatalf("stream %d: status %d", len(open), status)
			}
			open = append(open, l)
		}
		if _, status := listen(t, url+"/live/events"); status != http.StatusServiceUnavailable {
			t.Errorf("one too many: status %d", status)
		}
		if status := ask(b.Server(), "/").Code; status != http.StatusOK {
			t.Errorf("the page itself: status %d", status)
		}
		open[0].answer.Body.Close()
		for {
			if l, _ := listen(t, url+"/live/status"); l != nil {
				open[0] = l
				break
			}
		}
		began := time.Now()
		b.EndStreams()
		b.EndStreams()
		for _, l := range open {
			var v view
			for l.next(&v) {
				continue
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v until all had ended", took)
		}
		if _, status := listen(t, url+"/live/status"); status != http.StatusServiceUnavailable {
			t.Errorf("after the end: status %d", status)
		}
	})
}
