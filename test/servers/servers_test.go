//go:build unix

package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	if partial := filepath.Join(filepath.Dir(third), "partial"); exists(partial) {
		t.Errorf("%s is left", partial)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestPaths: several are asked for at once, of which one is in the cache, and one
// is named twice.
func TestPaths(t *testing.T) {
	cached, err := Path(t.Context(), NATSServer, nil)
	if err != nil {
		t.Fatal(err)
	}
	etcd := filepath.Join(t.TempDir(), "etcd")
	if err := os.WriteFile(etcd, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(assetsEnv, filepath.Dir(etcd))
	paths, err := Paths(t.Context(), nil, Etcd, NATSServer, Etcd)
	if diff := cmp.Diff([]string{etcd, cached, etcd}, paths); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := Paths(t.Context(), nil, NATSServer, "apiserver"); err == nil || err.Error() != `unknown server "apiserver"` {
		t.Errorf("a name that there is not: %v", err)
	}
}

func TestExecutable(t *testing.T) {
	for _, row := range []struct{ why, pkg, want string }{
		{"a command of a module", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"},
		{"the module itself, of a later major version", "go.etcd.io/etcd/server/v3", "server"},
		{"a name that begins as a version does", "example.com/cmd/v2ray", "v2ray"},
	} {
		if got := executable(row.pkg); got != row.want {
			t.Errorf("%s: %s, not %s", row.why, got, row.want)
		}
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

// TestVersionsInCommon: what several modules compile, and takes minutes to, is of
// the same versions in them, down to what it is made of. Where it is not, go get in
// the one what the other has; otherwise `make e2e` compiles it once more.
func TestVersionsInCommon(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		why, pkg string
		modules  []string // seen from this folder
	}{
		{"the bridge, the tests and Helm talk to API servers", "k8s.io/client-go/kubernetes", []string{"../..", "..", "helm"}},
		{"the tests talk to etcd", "go.etcd.io/etcd/client/v3", []string{"etcd", ".."}},
	} {
		var first []string
		for i, module := range row.modules {
			out, err := goOutput(t.Context(), module, "list", "-mod=readonly", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}", row.pkg)
			if err != nil {
				t.Fatal(err)
			}
			versions := strings.Split(out, "\n")
			slices.Sort(versions)
			if versions = slices.Compact(versions); i == 0 {
				first = versions
			}
			if diff := cmp.Diff(first, versions); diff != "" {
				t.Errorf("%s: %s in %s (-%s +%s):\n%s", row.why, row.pkg, module, row.modules[0], module, diff)
			}
		}
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
