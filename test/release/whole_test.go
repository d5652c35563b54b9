//go:build release

package release_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleaseIsWhole has hack/release fail when half of it is made: what is
// there then is no folder that looks like a release.
func TestReleaseIsWhole(t *testing.T) {
	t.Parallel() // the tests beside it take long
	dir := copyTree(t)
	for name, content := range map[string]string{
		// The images are not what this is about; the binaries for macOS fail.
		"hack/image": `#!/bin/sh
mkdir -p "$OUT" && cd "$OUT" && touch "bridge-linux-$ARCH" "bridge-linux-$ARCH.cdx.json" "bridge-linux-$ARCH.tar"
`,
		"cmd/bridge/broken.go": "package main\n\nimport _ \"broken\"\n",
		"made/release/of":      "another version",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	release := exec.CommandContext(t.Context(), "hack/release")
	release.Dir = dir
	release.Env = append(os.Environ(), "OUT=made/release", "IMAGE=bridge", "VERSION=v0.0.0", "COMMIT=none", "SOURCE_DATE_EPOCH=0", "SNAPSHOT=1")
	output, err := release.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "darwin/amd64") {
		t.Fatalf("%v: it has not failed at the binaries for macOS:\n%s", err, output)
	}
	left, err := os.ReadDir(filepath.Join(dir, "made"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v: what is left of a release that has failed", left, err)
	}
}
