//go:build browser && unix

package browser_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/crbridge/crbridge/test/controlplane"
)

// answers are the statuses of what a browser asked for. The request and its
// answer are told by two of the browser's processes, in either order.
type answers struct {
	mu       sync.Mutex
	urls     map[network.RequestID]string
	statuses map[network.RequestID]int64
}

// answersOf follows what the tab asks for. What the answer to another site was
// the page itself is not told, but the browser knows.
func answersOf(tb *tab) *answers {
	tb.t.Helper()
	a := &answers{urls: map[network.RequestID]string{}, statuses: map[network.RequestID]int64{}}
	if err := chromedp.Listen(tb.ctx, func(event any) {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			a.urls[e.RequestID] = e.Request.URL
		case *network.EventResponseReceivedExtraInfo:
			a.statuses[e.RequestID] = e.StatusCode
		}
	}); err != nil {
		tb.t.Fatal(err)
	}
	call(tb, network.Enable, network.EnableParams{})
	return a
}

// status is that of an answer to a request for url; 0 if there is none yet.
func (a *answers) status(url string) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, requested := range a.urls {
		if status, answered := a.statuses[id]; requested == url && answered {
			return status
		}
	}
	return 0
}

// TestOtherSitesInABrowser opens a page of another site in the browser of an
// operator who reaches the bridge over loopback, and one whose name leads there:
// neither gets anything, a link to the page works, and so does each name of the
// machine itself.
func TestOtherSitesInABrowser(t *testing.T) {
	cp := shared.Get(t)
	b := startBridge(t, cp.AdminKubeconfig(), "routes:\n"+route("r", "orders."+group())+sinkTo(controlplane.NATSForTest(t, controlplane.NATSOptions{})))
	port := b.url[strings.LastIndex(b.url, ":")+1:]
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><a href="`+b.url+`/">the bridge</a>`)
		}
	}))
	t.Cleanup(other.Close)
	otherPort := other.URL[strings.LastIndex(other.URL, ":")+1:]

	tb := launch(t, light)
	tb.expected = b.url // what fails on the other site
	seen := answersOf(tb)
	tb.do(chromedp.Navigate("http://localhost:" + otherPort + "/")) // which is another site than 127.0.0.1
	for path, ask := range map[string]string{
		"/api/status":                    `fetch(%q, {mode: "no-cors"})`,
		"/metrics":                       `fetch(%q)`,
		"/live/status":                   `new Promise((_, no) => { const s = new EventSource(%q); s.onerror = () => { s.close(); no(); }; })`,
		"/debug/pprof/cmdline":           `new Promise((_, no) => { const i = new Image(); i.onerror = no; i.src = %q; })`,
		"/debug/pprof/trace?seconds=600": `new Promise((_, no) => { const s = document.createElement("script"); s.onerror = no; s.src = %q; document.body.append(s); })`,
	} {
		url := b.url + path
		get[bool](tb, fmt.Sprintf(ask, url)+`.then(() => true, () => false)`)
		eventually(t, func() error {
			if got := seen.status(url); got != http.StatusForbidden {
				return fmt.Errorf("%s: another site gets %d", path, got)
			}
			return nil
		})
	}
	if page, err := chromedp.RunResponse(tb.ctx, chromedp.Click(chromedp.CSS("a"))); err != nil || page.URL != b.url+"/" || page.Status != http.StatusOK {
		t.Fatalf("the link: error %v, and %+v", err, page)
	}
	tb.until(`document.getElementById("live").dataset.state === "on"`)

	const rebound = "rebound.example.com"
	tb = launch(t, light, chromedp.Flag("host-resolver-rules", "MAP "+rebound+" 127.0.0.1"))
	tb.expected = rebound
	for _, path := range []string{"/", "/api/status", "/metrics", "/debug/pprof/heap?debug=1"} { // as the name's own server
		url := "http://" + rebound + ":" + port + path
		answer, err := chromedp.Run(tb.ctx, chromedp.NavigateResponse(url))
		if err != nil || answer.Status != http.StatusMisdirectedRequest {
			t.Errorf("%s: error %v, and %+v", url, err, answer)
		}
		if says := get[string](tb, `document.body.innerText`); !strings.Contains(says, "ask for http://localhost:PORT/") {
			t.Errorf("%s says %s", url, says)
		}
	}
	for _, name := range []string{"localhost", "127.0.0.1", "bridge.localhost"} {
		tb.visit("http://" + name + ":" + port + "/")
	}
}
