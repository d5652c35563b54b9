package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// TestMemoryIsGivenBack shows that the pages of the executable that only the start
// needed are given back when the flows have settled, and that the bridge goes on.
func TestMemoryIsGivenBack(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	most := 0
	eventually(t, func() error {
		now := fileMemory(t, b.PID())
		if most = max(most, now); now > most*3/4 {
			return fmt.Errorf("%d KiB of files are in memory, %d at most", now, most)
		}
		return nil
	})
	w.kind.add(t, "one", nil)
	w.expect(t, "created default/one")
}

// fileMemory is how much of files is in the memory of a process, in KiB.
func fileMemory(t *testing.T, pid int) (kib int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("RssFile:"))
	if _, err := fmt.Sscanf(string(rest), "%d kB", &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
