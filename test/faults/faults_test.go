//go:build unix

package faults

import (
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/crbridge/crbridge/test/servers"
)

// TestFaults breaks things 40 times; 25 times where the race detector runs. CRBRIDGE_FAULTS_SEED repeats a run's
// choices, CRBRIDGE_FAULTS is another number, CRBRIDGE_FAULTS_KINDS names
// the kinds to choose from, separated by commas.
func TestFaults(t *testing.T) {
	t.Parallel() // it waits, most of the time
	faults, flags := 40, []string(nil)
	if raceEnabled {
		faults, flags = 25, []string{"-race"} // the bridge is what the detector is for
	}
	holds(t, Options{Bridge: build(t, flags...), Faults: faults})
}

// TestFaultsOfCluster does so with a NATS cluster of three, whose nodes go and
// come; the same variables change it.
func TestFaultsOfCluster(t *testing.T) {
	t.Parallel() // it waits, most of the time
	if raceEnabled {
		t.Skip("not with the race detector: the bridge does nothing else there than with one server")
	}
	opts := Options{Bridge: build(t), Faults: 16, Nodes: 3, Kinds: []string{"failpoint", "bridge killed", "bridge replaced", "nats killed", "nats line", "nats late bytes"}}
	for _, f := range ofClusters {
		opts.Kinds = append(opts.Kinds, f.name)
	}
	holds(t, opts)
}

// holds runs the faults, and fails the test where a guarantee breaks.
func holds(t *testing.T, opts Options) {
	t.Helper()
	opts.Faults = number(t, "CRBRIDGE_FAULTS", opts.Faults)
	opts.Seed = uint64(number(t, "CRBRIDGE_FAULTS_SEED", rand.IntN(1_000_000)))
	opts.Dir, opts.Progress = t.ArtifactDir(), progress(t)
	if kinds := os.Getenv("CRBRIDGE_FAULTS_KINDS"); kinds != "" {
		opts.Kinds = strings.Split(kinds, ",")
	}
	t.Logf("seed %d", opts.Seed)
	report, err := Run(t.Context(), opts)
	if err != nil {
		t.Fatalf("seed %d: %v", opts.Seed, err)
	}
	t.Log(report)
	if len(report.Violations) > 0 {
		t.Errorf("seed %d: violations\n%s", opts.Seed, report.Logs)
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: not a number of 0 or more", variable, s)
	}
	return n
}

// build builds the bridge with its failpoints.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	path, err := servers.BuildBridge(t.Context(), t.TempDir(), progress(t), append([]string{"-tags=failpoints"}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// progress is the test's log, line by line.
func progress(t *testing.T) io.Writer { return logLines{t} }

type logLines struct{ t *testing.T }

func (l logLines) Write(p []byte) (int, error) {
	l.t.Helper()
	l.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}
