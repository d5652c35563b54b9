//go:build release

// Package release_test looks at what users get: the image that `make
// image-local` has built, the module that they `go install`, and the notes of a
// release. `make test-release` runs it.
package release_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the top of the tree, seen from this package's folder.
const root = "../.."

// copyTree copies what git knows or would take up of the tree to a new folder,
// as it would be under the umask 077.
func copyTree(t *testing.T) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	output, err := list.Output()
	if err != nil {
		t.Fatalf("%v: %v", list, err)
	}
	dir := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimRight(string(output), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, info.Mode().Perm()&0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
