//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/crbridge/crbridge/test/controlplane"
)

// reading is a request that is still being answered.
type reading struct {
	ended chan struct{}
	err   error // why there was none; once it has ended
	mu    sync.Mutex
	got   bytes.Buffer
}

// read asks for a path that takes long, and returns when the answer has begun.
func (b *bridge) read(t *testing.T, path, token string) *reading {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.server+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	reading := &reading{ended: make(chan struct{})}
	begun := make(chan error, 1)
	go func() {
		defer close(reading.ended)
		answer, err := http.DefaultClient.Do(r)
		if err == nil {
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %s", answer.Status)
			}
		}
		reading.err = err
		begun <- err
		if err == nil {
			_, _ = io.Copy(reading, answer.Body)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-reading.ended
	})
	if strings.HasPrefix(path, "/live/") { // a profile's answer begins with its end
		if err := <-begun; err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return reading
}

func (r *reading) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.Write(b)
}

func (r *reading) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got.Len()
}

// TestAccessIsTakenAway shows that a page that is live, and a profile that is
// being taken, end within the minute when the right to them is gone, and another
// reader's page does not.
func TestAccessIsTakenAway(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	account := func(name string, rules ...rbacv1.PolicyRule) *controlplane.ServiceAccount {
		t.Helper()
		sa, err := w.cp.ServiceAccount(t.Context(), "lasting", name, rules)
		if err != nil {
			t.Fatal(err)
		}
		return sa
	}
	rule := rbacv1.PolicyRule{NonResourceURLs: []string{"/", "/debug/pprof/*"}, Verbs: []string{"get"}}
	gone, demoted, stays := account("gone", rule), account("demoted", rule), account("stays", rule)
	b := newBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + w.kind.route("test") + natsConfig(w.nats)})
	b.withAuth(t)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	readings := map[string]*reading{
		"the page of one whose account is deleted":   b.read(t, "/live/status", gone.Config().BearerToken),
		"the events of one whose account is deleted": b.read(t, "/live/events", gone.Config().BearerToken),
		"the page of one whose right is taken away":  b.read(t, "/live/status", demoted.Config().BearerToken),
		"the profile of one whose right is gone":     b.read(t, "/debug/pprof/profile?seconds=600", demoted.Config().BearerToken),
	}
	other := b.read(t, "/live/status", stays.Config().BearerToken)
	client, err := kubernetes.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().ServiceAccounts(gone.Namespace).Delete(t.Context(), gone.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := demoted.SetClusterRules(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	// A minute, the ten seconds that the API server itself remembers tokens for,
	// and what a loaded machine takes.
	late := time.After(time.Until(began.Add(100 * time.Second)))
	for what, r := range readings {
		select {
		case <-r.ended:
			lasted := time.Since(began).Round(time.Second)
			if r.err != nil || r.size() == 0 || lasted < 30*time.Second {
				t.Errorf("%s: error %v, %d bytes, %v", what, r.err, r.size(), lasted)
			}
			t.Logf("%s ended after %v", what, lasted)
		case <-late:
			t.Fatalf("%s goes on", what)
		}
	}
	was := other.size()
	eventually(t, func() error {
		if other.size() == was {
			return fmt.Errorf("nothing more than %d bytes came for the one who may read", was)
		}
		return nil
	})
}

// TestTokensThatCannotBeChecked shows, with an API server that cannot ask its
// webhook, that this is said, and is no refusal; and that those who try tokens
// make little work for it, and keep out nobody who was let in before.
func TestTokensThatCannotBeChecked(t *testing.T) {
	t.Parallel() // it waits, most of the time
	hook := filepath.Join(t.TempDir(), "webhook")
	if err := os.WriteFile(hook, []byte(`{apiVersion: v1, kind: Config, current-context: hook,
  clusters: [{name: hook, cluster: {server: "https://127.0.0.1:1/"}}], users: [{name: hook}],
  contexts: [{name: hook, context: {cluster: hook, user: hook}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cp := controlplane.ForTest(t, controlplane.Options{APIServerFlags: []string{
		"--authentication-token-webhook-config-file=" + hook, "--authentication-token-webhook-version=v1",
	}})
	reader, err := cp.ServiceAccount(t.Context(), "access", "reader", []rbacv1.PolicyRule{{NonResourceURLs: []string{"/"}, Verbs: []string{"get"}}})
	if err != nil {
		t.Fatal(err)
	}
	b := newBridge(t, config{kubeconfig: cp.AdminKubeconfig(), body: "routes: [{name: test, crds: ['*.example.com'], sinks: [main]}]\nsinks: {main: {stdout: {}}}\n"})
	b.withAuth(t)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(token string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.server+"/api/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	reviews := func() float64 {
		t.Helper()
		n, err := cp.Metric(t.Context(), "apiserver_request_total", map[string]string{"resource": "tokenreviews", "verb": "POST"})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if status, body := ask(reader.Config().BearerToken); status != http.StatusOK {
		t.Fatalf("one whom the API server knows: %d %s", status, body)
	}
	before, began := reviews(), time.Now()
	const tried = 2000
	for n := range tried {
		if status, body := ask(fmt.Sprint("token", n)); status != http.StatusServiceUnavailable || strings.Contains(body, "127.0.0.1") {
			t.Fatalf("a token that cannot be checked: %d %s", status, body)
		}
		if n%100 == 0 {
			if status, body := ask(reader.Config().BearerToken); status != http.StatusOK {
				t.Fatalf("one who was let in before: %d %s", status, body)
			}
		}
	}
	asked, most := reviews()-before, 51+10*time.Since(began).Seconds()
	t.Logf("%d tokens, %.0f reviews in %v", tried, asked, time.Since(began))
	if asked < 10 || asked > most || most > tried {
		t.Errorf("%.0f reviews of %d tokens, where at most %.0f should be made", asked, tried, most)
	}
	b.logs(t, "connection refused")
	if lines := strings.Count(b.log(t), "who reads the status cannot be found out"); lines > 3 {
		t.Errorf("the log has %d lines of it:\n%s", lines, b.log(t))
	}
}
