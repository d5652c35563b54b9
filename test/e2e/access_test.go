//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestAccess shows who may read where server.auth is kubernetes: those whom the
// API server knows by their token and lets get the path. The bridge has the
// rights that bridge rbac prints, and no more.
func TestAccess(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	client, err := kubernetes.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	account := func(name string, paths ...string) string {
		t.Helper()
		var rules []rbacv1.PolicyRule
		if len(paths) > 0 {
			rules = []rbacv1.PolicyRule{{NonResourceURLs: paths, Verbs: []string{"get"}}}
		}
		sa, err := w.cp.ServiceAccount(t.Context(), "access", name, rules)
		if err != nil {
			t.Fatal(err)
		}
		return sa.Config().BearerToken
	}
	nobody, scraper, operator := account("nobody"), account("scraper", "/metrics"), account("operator", "/", "/metrics", "/debug/pprof/*")
	bridges, err := w.cp.ServiceAccount(t.Context(), "access", "bridge", nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newBridge(t, config{kubeconfig: bridges.Kubeconfig, body: "routes:\n" + w.kind.route("test") + natsConfig(w.nats)})
	b.withAuth(t)
	printedRights(t, b.config, w.cp.AdminKubeconfig(), "access", "bridge").apply(t, client)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.waitReady(t, 200, "role: leader")

	ask := func(path string, as func(*http.Request)) (int, string, http.Header) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.server+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		as(r)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		content, err := io.ReadAll(io.LimitReader(answer.Body, 600)) // a stream does not end
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(content), answer.Header
	}
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	password := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("anybody", token) }
	}
	all := []string{"/", "/events", "/live/status", "/metrics", "/api/status", "/debug/pprof/cmdline"}
	for _, row := range []struct {
		why   string
		as    func(*http.Request)
		want  int
		paths []string
	}{
		{"no token", func(*http.Request) {}, 401, all},
		{"no token of this cluster", bearer("e30.e30.e30"), 401, all},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Digest "+operator) }, 401, all},
		{"a token and no right", bearer(nobody), 403, all},
		{"a right for another path", bearer(scraper), 403, []string{"/", "/events", "/live/status", "/api/status", "/debug/pprof/cmdline"}},
		{"the right", bearer(scraper), 200, []string{"/metrics"}},
		{"all the rights", bearer(operator), 200, all},
		{"the token as a password, for browsers", password(operator), 200, all},
		{"a password that is no token", password("secret"), 401, all},
		{"probes are open", func(*http.Request) {}, 200, []string{"/healthz", "/readyz"}},
		{"a path that there is not tells nothing", func(*http.Request) {}, 401, []string{"/other"}},
	} {
		for range 2 { // the second time it is remembered
			for _, path := range row.paths {
				status, body, header := ask(path, row.as)
				if status != row.want {
					t.Errorf("%s: %s: status %d, not %d: %s", row.why, path, status, row.want, body)
				}
				if challenged := strings.HasPrefix(header.Get("WWW-Authenticate"), "Basic "); challenged != (status == 401) {
					t.Errorf("%s: %s: status %d with WWW-Authenticate %q", row.why, path, status, header.Get("WWW-Authenticate"))
				}
			}
		}
	}
	if _, body, _ := ask("/metrics", bearer(nobody)); !strings.Contains(body, `system:serviceaccount:access:nobody may not get /metrics: grant it {nonResourceURLs: ["/metrics"], verbs: [get]}`) {
		t.Errorf("one who may not read is told %q", body)
	}
	// The page's style is the same for everybody.
	_, page, _ := ask("/", bearer(operator))
	_, style, _ := strings.Cut(page, `rel="stylesheet" href="`)
	if style, _, _ = strings.Cut(style, `"`); !strings.HasSuffix(style, ".css") {
		t.Fatalf("the page begins with %s", page)
	}
	if status, _, _ := ask(style, func(*http.Request) {}); status != 200 {
		t.Errorf("%s: status %d", style, status)
	}

	// A bridge that may not ask lets nobody in whom it does not remember.
	if err := bridges.SetClusterRules(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := client.RbacV1().ClusterRoleBindings().Delete(t.Context(), "crbridgebridge", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	late := account("late", "/metrics")
	eventually(t, func() error {
		if status, body, _ := ask("/metrics", bearer(late+"x")); status != 503 || !strings.Contains(body, "TokenReview") {
			return fmt.Errorf("status %d: %s", status, body)
		}
		return nil
	})
}

// withAuth has the bridge's file say that who reads needs a token.
func (b *bridge) withAuth(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.config, []byte(strings.Replace(string(content), "server: {", "server: {auth: kubernetes, ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}
