//go:build unix

// Package e2e_test runs the built bridge between a real API server and a real
// nats-server, and looks at it from outside only: at the messages in the
// stream, its status, its metrics, its log and its exit status.
package e2e_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/servers"
)

// shared is the control plane of the tests that leave it running. Each of
// them has CRDs of its own.
var shared controlplane.Shared

// bridgePath is the binary under test.
var bridgePath string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crbridge-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	var flags []string
	if raceEnabled {
		flags = append(flags, "-race") // go test -race: the bridge is what the detector is for
	}
	if bridgePath, err = servers.BuildBridge(context.Background(), dir, os.Stderr, flags...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return shared.Run(m)
}

// slow skips a test where the race detector runs, as what it shows takes long
// and is not about the order of things.
func slow(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("not with the race detector: it takes long, and is not about the order of things")
	}
}
