package monitoring_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/crbridge/crbridge/test/monitoring"
)

// TestScrape: the moments that a target tells are as long ago by Prometheus'
// clock as scrapes have passed since, its labels are a pod's, and when it is
// away its series end.
func TestScrape(t *testing.T) {
	var happened time.Time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "it_last_timestamp_seconds{namespace=\"own\"} %f\n", float64(happened.UnixMicro())/1e6)
	}))
	t.Cleanup(server.Close)
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte("groups: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := monitoring.Pod("system", "crbridge-0", server.URL)
	p := monitoring.New(t, rules, target)
	ask := func(why, query string, want int) {
		t.Helper()
		if err := p.Scrape(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Query(t.Context(), query); err != nil || got != want {
			t.Errorf("%s: %s has %d series, want %d: %v", why, query, got, want, err)
		}
	}
	happened = time.Now().Add(-10 * time.Second)
	ask("nobody looked before", `abs(time() - it_last_timestamp_seconds - 10) < 5`, 1)
	if err := p.Pass(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	ask("an hour has passed that did not", `abs(time() - it_last_timestamp_seconds - 3640) < 5`, 1)
	happened = time.Now()
	ask("it happens now", `time() - it_last_timestamp_seconds == 0`, 1)
	if err := p.Pass(t.Context(), 10*time.Minute-monitoring.Interval); err != nil {
		t.Fatal(err)
	}
	ask("it is the same moment at each scrape", `time() - it_last_timestamp_seconds == 600`, 1)
	ask("a label of its own that the target has too", `{namespace="system",exported_namespace="own",pod="crbridge-0",job="crbridge"}`, 1)
	target.Away = true
	ask("it is away", `it_last_timestamp_seconds`, 0)
	ask("that is told", `up == 0`, 1)
	target.Away = false
	ask("it is back", `it_last_timestamp_seconds`, 1)
}
