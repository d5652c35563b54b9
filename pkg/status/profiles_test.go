package status

import (
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWhoGetsProfiles goes through every path: one that is registered without
// the guard would be the hole.
func TestWhoGetsProfiles(t *testing.T) {
	for _, row := range []struct {
		why           string
		remote, local string
		status        int
	}{
		{"the machine itself, or a forwarded port", "127.0.0.1:40000", "127.0.0.1:8080", 200},
		{"the same by IPv6", "[::1]:40000", "[::1]:8080", 200},
		{"the same on a socket for both", "[::ffff:127.0.0.1]:40000", "[::ffff:127.0.0.1]:8080", 200},
		{"another pod", "10.244.0.7:40000", "10.244.0.9:8080", 403},
		{"another pod, through a mesh's proxy", "127.0.0.6:40000", "10.244.0.9:8080", 403},
		{"the machine, at an address that others reach too", "10.244.0.9:40000", "10.244.0.9:8080", 403},
		{"an address with a zone", "[fe80::1%eth0]:40000", "[fe80::2%eth0]:8080", 403},
		{"no address of this end", "127.0.0.1:40000", "", 403},
		{"no address of the other", "@", "127.0.0.1:8080", 403},
	} {
		t.Run(row.why, func(t *testing.T) {
			ctx := t.Context()
			if row.local != "" {
				local, err := net.ResolveTCPAddr("tcp", row.local)
				if err != nil {
					t.Fatal(err)
				}
				ctx = context.WithValue(ctx, http.LocalAddrContextKey, net.Addr(local))
			}
			ask := func(method, path string) int {
				r := httptest.NewRequestWithContext(ctx, method, path, nil)
				r.Host, r.RemoteAddr = "localhost:8080", row.remote
				answer := httptest.NewRecorder()
				testBridge().Server().ServeHTTP(answer, r)
				return answer.Code
			}
			for _, path := range []string{"", "heap", "goroutine", "allocs", "cmdline", "symbol"} {
				if got := ask(http.MethodGet, "/debug/pprof/"+path); got != row.status {
					t.Errorf("%q: %d, not %d", path, got, row.status)
				}
			}
			if got := ask(http.MethodPost, "/debug/pprof/symbol"); got != row.status {
				t.Errorf("symbols: %d, not %d", got, row.status)
			}
			if row.status != http.StatusForbidden {
				return // these take as long as they are told to
			}
			for _, path := range []string{"profile?seconds=1", "trace?seconds=1"} {
				if got := ask(http.MethodGet, "/debug/pprof/"+path); got != row.status {
					t.Errorf("%q: %d, not %d", path, got, row.status)
				}
			}
		})
	}
}

// TestProfiles reads profiles over a connection, as go tool pprof does.
func TestProfiles(t *testing.T) {
	server, health := httptest.NewServer(testBridge().Server()), httptest.NewServer(testBridge().Health())
	defer server.Close()
	defer health.Close()
	get := func(url string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	index, err := io.ReadAll(get(server.URL + "/debug/pprof/").Body)
	if err != nil || !strings.Contains(string(index), "heap?debug=1") {
		t.Errorf("error %v, and the index of profiles is %s", err, index)
	}
	heap := get(server.URL + "/debug/pprof/heap")
	unzipped, err := gzip.NewReader(heap.Body)
	if err != nil {
		t.Fatalf("the heap's profile, %s: %v", heap.Status, err)
	}
	if n, err := io.Copy(io.Discard, unzipped); err != nil || n == 0 {
		t.Errorf("the heap's profile has %d bytes, and error %v", n, err)
	}
	if got := get(health.URL + "/debug/pprof/heap").StatusCode; got != http.StatusNotFound {
		t.Errorf("at the health address: %d", got)
	}
}
