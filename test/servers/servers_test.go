//go:build unix

package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAssets(t *testing.T) {
	dir := t.TempDir()
	etcd := filepath.Join(dir, "etcd")
	if err := os.WriteFile(etcd, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(assetsEnv, dir)
	if path, err := Path(t.Context(), Etcd, nil); path != etcd || err != nil {
		t.Errorf("etcd: %q, %v; want the one in %s", path, err, assetsEnv)
	}
	_, err := Path(t.Context(), KubeAPIServer, nil)
	if want := assetsEnv + "=" + dir + ": no executable kube-apiserver in it"; err == nil || err.Error() != want {
		t.Errorf("kube-apiserver: %v, want %s", err, want)
	}
}

// TestBuiltOnce: two that ask for a server with an empty cache get the same
// one, which was built once; so does who asks later.
func TestBuiltOnce(t *testing.T) {
	for variable, value := range goDirectories(t) {
		t.Setenv(variable, value) // they are below what is moved now
	}
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache) // on Linux
	t.Setenv("HOME", cache)           // on macOS
	type result struct{ path, progress string }
	results := make(chan result)
	for range 2 {
		go func() {
			var progress strings.Builder
			path, err := Path(t.Context(), NATSServer, &progress)
			if err != nil {
				t.Error(err)
			}
			results <- result{path, progress.String()}
		}()
	}
	first, second := <-results, <-results
	if first.path != second.path || !isExecutable(first.path) || !strings.HasPrefix(first.path, cache) {
		t.Errorf("paths %q and %q", first.path, second.path)
	}
	both := first.progress + second.progress
	if strings.Count(both, "building (") != 1 || strings.Count(both, "built in") != 1 {
		t.Errorf("not built once:\n%s", both)
	}
	var progress strings.Builder
	third, err := Path(t.Context(), NATSServer, &progress)
	if err != nil || third != first.path || progress.Len() > 0 {
		t.Errorf("asked again: %q, %v, %s", third, err, progress.String())
	}
	if partial, _ := filepath.Glob(filepath.Join(filepath.Dir(third), "*.partial")); partial != nil {
		t.Errorf("left: %q", partial)
	}
}

func goDirectories(t *testing.T) map[string]string {
	t.Helper()
	directories := map[string]string{}
	for _, variable := range []string{"GOPATH", "GOCACHE", "GOMODCACHE"} {
		value, err := goOutput(t.Context(), ".", "env", variable)
		if err != nil {
			t.Fatal(err)
		}
		directories[variable] = value
	}
	return directories
}

func TestBuildOutput(t *testing.T) {
	output := &buildOutput{}
	for _, chunk := range []string{"go: downloading a v1\ngo: down", "loading b v2\nk8s.io/a", "pi/core/v1\nfmt\n# k8s.io/x\nx.go:1:2: undefined: y"} {
		if n, err := output.Write([]byte(chunk)); n != len(chunk) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got, want := output.summary(), "2 modules downloaded, 2 packages compiled"; got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	if got, want := output.tail(), "# k8s.io/x\nx.go:1:2: undefined: y"; got != want {
		t.Errorf("tail %q, want %q", got, want)
	}
}

// TestBuildFails: the error has the compiler's words.
func TestBuildFails(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":  "module example.com/broken\n\ngo 1.26.0\n",
		"main.go": "package main\n\nfunc main() { undefinedThing() }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := goBuild(t.Context(), goBuildOptions{name: "broken", dir: dir, env: buildEnv(), args: []string{"."}}, os.Stderr)
	if err == nil || !strings.Contains(err.Error(), "undefined: undefinedThing") {
		t.Errorf("got %v", err)
	}
}

func TestKubernetesVersion(t *testing.T) {
	got := fmt.Sprint(kubernetesVersion("v1.36.3"))
	for _, want := range []string{
		"k8s.io/component-base/version.gitVersion=v1.36.3",
		"k8s.io/component-base/version.gitMajor=1 ",
		"k8s.io/component-base/version.gitMinor=36 ",
		"k8s.io/client-go/pkg/version.gitVersion=v1.36.3",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
}
