//go:build unix && node

package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestJavaScriptReaders shows that the JavaScript SDK and nats.js read the
// events, in both modes: in the example. It needs Node and the example's
// packages; make test-readers installs these.
func TestJavaScriptReaders(t *testing.T) {
	t.Parallel() // it waits, most of the time
	folder := filepath.Join("..", "..", "examples", "javascript")
	if _, err := os.Stat(filepath.Join(folder, "node_modules")); err != nil {
		t.Fatalf("%v: run make test-readers", err)
	}
	for _, mode := range []string{"binary", "structured"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel() // it waits, most of the time
			newReadings(t, mode).follow(t, func(args ...string) *exec.Cmd {
				return exec.CommandContext(t.Context(), "node", append([]string{filepath.Join(folder, "subscriber.js")}, args...)...)
			})
		})
	}
}
