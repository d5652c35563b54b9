package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crbridge/crbridge/pkg/config"
)

// TestPermissionsAreDocumented shows that docs/operations.md has what bridge
// permissions prints.
func TestPermissionsAreDocumented(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	const content = `cluster: demo
routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]
sinks: {main: {nats: {url: nats://127.0.0.1:4222, jetstream: {stream: K8S}}}}
`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	if err := run(t.Context(), []string{"permissions", "--config", path}, nil, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	documented, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(documented), "```text\n"+stdout.String()+"```\n") {
		t.Errorf("docs/operations.md does not have what bridge permissions prints:\n%s", &stdout)
	}
}

// TestDeployedGrace shows that deploy/ gives a pod the time that the bridge takes
// to end: for what its flows have, then for two servers and its sinks, and to say
// what went wrong with that.
func TestDeployedGrace(t *testing.T) {
	content, err := os.ReadFile("../../deploy/install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^ +terminationGracePeriodSeconds: ([0-9]+)$`).FindSubmatch(content)
	if found == nil {
		t.Fatal("deploy/install.yaml has no terminationGracePeriodSeconds")
	}
	given, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	// The manager waits a closeGrace longer than flows may take.
	if taken := grace + closeGrace + 3*closeGrace + lastWords; time.Duration(given)*time.Second <= taken {
		t.Errorf("%d s are given, and %v may be taken", given, taken)
	}
}

// TestKubeconfigOrder shows where the cluster's address comes from. (What a pod
// is given is tried before $KUBECONFIG; that needs a pod.)
func TestKubeconfigOrder(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		content := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":"https://%s"}}]}`, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flag, env := file("flag"), file("env")
	for _, row := range []struct {
		why, flag, env string
		host           string
		err            string
	}{
		{"the flag before the environment", flag, env, "https://flag", ""},
		{"the environment", "", env, "https://env", ""},
		{"a flag that names nothing is an error, whatever the environment has", filepath.Join(dir, "none"), env, "", "no such file"},
		{"nothing that is there", "", filepath.Join(dir, "none"), "", "no cluster to connect to"},
	} {
		t.Run(row.why, func(t *testing.T) {
			t.Setenv("KUBECONFIG", row.env)
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			c, err := connect(row.flag)
			switch {
			case row.err != "":
				if err == nil || !strings.Contains(err.Error(), row.err) || !errors.Is(err, errUsage) {
					t.Errorf("error %v, not a usage error with %q", err, row.err)
				}
			case err != nil:
				t.Error(err)
			case c.Config.Host != row.host:
				t.Errorf("connects to %s, not %s", c.Config.Host, row.host)
			}
		})
	}
}

// TestElectionNeedsANamespace shows that a Lease without a place is told before
// anything starts.
func TestElectionNeedsANamespace(t *testing.T) {
	for _, row := range []struct {
		why string
		c   config.LeaderElection
		err string
	}{
		{"without election there is no Lease", config.LeaderElection{}, ""},
		{"a place is given", config.LeaderElection{Enabled: true, Namespace: "n"}, ""},
		{"none is, and this is no pod", config.LeaderElection{Enabled: true}, `f.yaml: leaderElection.namespace: ""`},
	} {
		t.Run(row.why, func(t *testing.T) {
			err := checkElection(row.c, "f.yaml")
			if (err == nil) != (row.err == "") || (err != nil && !strings.HasPrefix(err.Error(), row.err)) {
				t.Errorf("error %v, not %q", err, row.err)
			}
		})
	}
}

// TestTokenIsReadAgain shows that the bridge uses what the kubelet has put into
// the file of its token a minute later. (The kubelet does so twelve minutes
// before the token of deploy/ ends.)
func TestTokenIsReadAgain(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"))
	}))
	defer server.Close()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("kubeconfig", fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":%q,"insecure-skip-tls-verify":true}}],"users":[{"name":"u","user":{"tokenFile":%q}}]}`, server.URL, write("token", "first")))
	synctest.Test(t, func(t *testing.T) {
		c, err := connect(path)
		if err != nil {
			t.Fatal(err)
		}
		base := baseTransport(c.HTTP.Transport)
		base.DisableKeepAlives = true // the clock stands while something waits for the network
		sent := func() string {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := c.HTTP.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			content, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
		if got := sent(); got != "Bearer first" {
			t.Errorf("sends %q", got)
		}
		write("token", "second")
		time.Sleep(time.Minute) // of the bubble's clock
		if got := sent(); got != "Bearer second" {
			t.Errorf("a minute later: sends %q", got)
		}
	})
}
