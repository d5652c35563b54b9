//go:build unix

package faults

import (
	"math/rand/v2"
	"testing"
)

// TestReloads changes the configuration 200 times under load (25 times with the
// race detector): routes are added, changed, removed and put back at random,
// and the file is bad at times. CRBRIDGE_RELOADS is another number,
// CRBRIDGE_FAULTS_SEED repeats a run's choices.
func TestReloads(t *testing.T) {
	t.Parallel() // it waits, most of the time
	reloads, flags := 200, []string(nil)
	if raceEnabled {
		reloads, flags = 25, []string{"-race"}
	}
	opts := Options{
		Bridge: build(t, flags...), Faults: number(t, "CRBRIDGE_RELOADS", reloads), Kinds: []string{"reload"},
		Seed: uint64(number(t, "CRBRIDGE_FAULTS_SEED", rand.IntN(1_000_000))), Dir: t.ArtifactDir(), Progress: progress(t),
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
