//go:build release

package release_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// TestGoInstall serves this tree as a module proxy would, as the only version
// that there is, and installs the bridge from there. Go refuses that for a
// module that has replace directives, and leaves out of the module what is in
// folders with a go.mod of their own.
func TestGoInstall(t *testing.T) {
	t.Parallel() // go is at work, most of the time
	const path, version = "github.com/crbridge/crbridge", "v0.99.0"
	dir := t.TempDir()
	served := filepath.Join(dir, "proxy", path, "@v")
	if err := os.MkdirAll(served, 0o700); err != nil {
		t.Fatal(err)
	}
	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"list":            version + "\n",
		version + ".info": `{"Version": "` + version + `"}`,
		version + ".mod":  string(goMod),
	} {
		if err := os.WriteFile(filepath.Join(served, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	archive, err := os.Create(filepath.Join(served, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	if err := zip.CreateFromDir(archive, module.Version{Path: path, Version: version}, copyTree(t)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}

	var env struct{ GOMODCACHE, GOPROXY string }
	output, err := exec.CommandContext(t.Context(), "go", "env", "-json", "GOMODCACHE", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(output, &env); err != nil {
		t.Fatal(err)
	}
	// A module cache of its own, lest the version above be found on this machine
	// later; the other modules come from the machine's, where it has them.
	install := exec.CommandContext(t.Context(), "go", "install", path+"/cmd/bridge@latest")
	install.Dir = dir
	install.Env = append(os.Environ(),
		"GOPROXY=file://"+filepath.Join(dir, "proxy")+",file://"+filepath.Join(env.GOMODCACHE, "cache", "download")+","+env.GOPROXY,
		"GONOSUMDB="+path, "GOMODCACHE="+filepath.Join(dir, "modules"), "GOBIN="+filepath.Join(dir, "bin"), "GOWORK=off",
		// So that packages which were compiled for `make build` are used, and the
		// cache can be removed.
		"CGO_ENABLED=0", "GOFLAGS=-trimpath -modcacherw")
	if output, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", install, err, output)
	}
	output, err = exec.CommandContext(t.Context(), filepath.Join(dir, "bin", "bridge"), "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(output), "bridge "+version+" (commit unknown, go"; !strings.HasPrefix(got, want) {
		t.Errorf("bridge version: %q, want %q…", got, want)
	}
}
