package status

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// guardedPaths are those that are not for everybody in a browser.
var guardedPaths = []string{"/", "/events", "/live/status", "/live/events", "/api/status", "/metrics", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/other"}

// TestNamesOfThisMachine shows that a name which somebody else's DNS server can
// have lead to loopback reads nothing there, and that all others read.
func TestNamesOfThisMachine(t *testing.T) {
	const here, pod = "127.0.0.1:8080", "10.244.0.9:8080"
	for _, row := range []struct {
		why, local, host string
		allowed          bool
	}{
		{"a forwarded port", here, "localhost:8080", true},
		{"another local port than the bridge's", here, "localhost:18080", true},
		{"by its address", here, "127.0.0.1:8080", true},
		{"by another address of loopback", here, "127.9.8.7:8080", true},
		{"by IPv6", "[::1]:8080", "[::1]:8080", true},
		{"on port 80, which browsers leave out", here, "localhost", true},
		{"the same by IPv6", "[::1]:80", "[::1]", true},
		{"a name below localhost, of several bridges", here, "bridge.localhost:8080", true},
		{"as somebody types it", here, "LocalHost.:8080", true},
		{"DNS rebinding", here, "rebound.example.com:8080", false},
		{"the same by IPv6", "[::1]:8080", "rebound.example.com:8080", false},
		{"the same on a socket for both", "[::ffff:127.0.0.1]:8080", "rebound.example.com:8080", false},
		{"a name that looks like one of this machine", here, "localhost.example.com:8080", false},
		{"another that does", here, "notlocalhost:8080", false},
		{"an address that is another name in DNS", here, "127.0.0.1.example.com:8080", false},
		{"an address of a network, which may be somebody else's", here, "10.244.0.9:8080", false},
		{"all addresses", here, "0.0.0.0:8080", false},
		{"no name", here, "", false},
		{"Prometheus, by the pod's address", pod, "10.244.0.9:8080", true},
		{"Prometheus, by the service's name", pod, "crbridge.crbridge-system.svc:8080", true},
		{"an ingress", pod, "bridge.example.com", true},
	} {
		t.Run(row.why, func(t *testing.T) {
			for _, path := range guardedPaths {
				got, body := askFrom(t, row.local, row.host, http.MethodGet, path, nil)
				if refused := got == http.StatusMisdirectedRequest; refused == row.allowed {
					t.Errorf("%s: %d %s", path, got, body)
				} else if refused && !strings.Contains(body, "ask for http://localhost:PORT/") {
					t.Errorf("%s: it does not say what to do: %s", path, body)
				}
			}
			for _, path := range []string{"/healthz", "/readyz", styleAsset.path} { // they tell nothing
				if got, body := askFrom(t, row.local, row.host, http.MethodGet, path, nil); got != http.StatusOK {
					t.Errorf("%s: %d %s", path, got, body)
				}
			}
		})
	}
}

// TestOtherSites shows that pages of other sites can lead to a page of the
// bridge, and have a browser fetch nothing.
func TestOtherSites(t *testing.T) {
	own := []string{"/", "/events"}
	for _, row := range []struct {
		why     string
		method  string
		headers map[string]string
		allowed []string // paths; nil is all
	}{
		{"a program", "GET", nil, nil},
		{"a person who types the address", "GET", map[string]string{"Site": "none", "Mode": "navigate", "Dest": "document"}, nil},
		{"the page's own script", "GET", map[string]string{"Site": "same-origin", "Mode": "cors", "Dest": "empty"}, nil},
		{"a link on the page", "GET", map[string]string{"Site": "same-origin", "Mode": "navigate", "Dest": "document"}, nil},
		{"a link elsewhere", "GET", map[string]string{"Site": "cross-site", "Mode": "navigate", "Dest": "document"}, own},
		{"a link on another port of localhost", "GET", map[string]string{"Site": "same-site", "Mode": "navigate", "Dest": "document"}, own},
		{"fetch elsewhere", "GET", map[string]string{"Site": "cross-site", "Mode": "no-cors", "Dest": "empty"}, []string{}},
		{"fetch on another port of localhost", "GET", map[string]string{"Site": "same-site", "Mode": "cors", "Dest": "empty"}, []string{}},
		{"EventSource elsewhere", "GET", map[string]string{"Site": "cross-site", "Mode": "cors", "Dest": "empty"}, []string{}},
		{"a picture", "GET", map[string]string{"Site": "cross-site", "Mode": "no-cors", "Dest": "image"}, []string{}},
		{"a script", "GET", map[string]string{"Site": "cross-site", "Mode": "no-cors", "Dest": "script"}, []string{}},
		{"a frame", "GET", map[string]string{"Site": "cross-site", "Mode": "navigate", "Dest": "iframe"}, []string{}},
		{"a form that is sent", "POST", map[string]string{"Site": "cross-site", "Mode": "navigate", "Dest": "document"}, []string{}},
		{"what there may be some day", "GET", map[string]string{"Site": "new", "Mode": "cors", "Dest": "empty"}, []string{}},
	} {
		t.Run(row.why, func(t *testing.T) {
			for _, path := range guardedPaths {
				got, body := askFrom(t, "127.0.0.1:8080", "localhost:8080", row.method, path, row.headers)
				refused := got == http.StatusForbidden && strings.Contains(body, "a page of another site")
				allowed := row.allowed == nil
				for _, p := range row.allowed {
					allowed = allowed || p == path
				}
				if refused == allowed {
					t.Errorf("%s: %d %s", path, got, body)
				}
			}
		})
	}
}

// askFrom asks the server as a browser does, over a connection to that address.
func askFrom(t *testing.T, local, host, method, path string, fetch map[string]string) (status int, body string) {
	t.Helper()
	address, err := net.ResolveTCPAddr("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(address)))
	cancel() // what does not end by itself does so at once
	r := httptest.NewRequestWithContext(ctx, method, path, nil)
	r.Host, r.RemoteAddr = host, local
	for name, value := range fetch {
		r.Header.Set("Sec-Fetch-"+name, value)
	}
	answer := httptest.NewRecorder()
	testBridge().Server().ServeHTTP(answer, r)
	return answer.Code, answer.Body.String()
}
