//go:build linux && cluster

package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crbridge/crbridge/test/process"
)

// TestNamespaces: what runs inside is in the PID and mount namespaces of the
// isolated process, can be stopped as any other, and ends with it.
func TestNamespaces(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	outer := process.New(process.Command{
		Name: "outer", Path: "sh", LogFile: filepath.Join(dir, "outer.log"), Isolated: true,
		Args: []string{"-c", `mount -t tmpfs none /mnt && touch /mnt/inside "$0"; while :; do sleep 0.01; done`, ready},
		Ready: func(context.Context) error {
			_, err := os.Stat(ready)
			return err
		},
	})
	t.Cleanup(outer.Kill)
	inner := process.New(process.Command{
		Name: "inner", Path: "sh", LogFile: filepath.Join(dir, "inner.log"), Inside: outer,
		Args: []string{"-c", `trap 'echo bye; exit 3' TERM; kill -0 1 && ls /mnt; echo "up $$"; sleep 600 & while :; do sleep 0.01; done`},
	})
	if err := inner.Start(t.Context()); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("inside what does not run: %v", err)
	}
	start(t, outer)
	if _, err := os.Stat("/mnt/inside"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount is seen outside: %v", err)
	}

	pid := start(t, inner)
	logged(t, inner, "up")
	if tail := inner.LogTail(); !strings.Contains(tail, "inside") || strings.Contains(tail, fmt.Sprintf("up %d", pid)) {
		t.Errorf("not in the namespaces:\n%s", tail)
	}
	if err := inner.Stop(t.Context()); err != nil || inner.ExitCode() != 3 {
		t.Errorf("Stop: %v, exit code %d; want the script's 3", err, inner.ExitCode())
	}
	start(t, inner)
	logged(t, inner, "up")
	outer.Kill()
	select {
	case <-inner.Exited():
	case <-time.After(10 * time.Second):
		t.Error("it outlived process 1")
	}
}
