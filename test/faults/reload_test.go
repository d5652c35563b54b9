//go:build unix

package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestReloads changes the configuration 200 times under load (25 times with the
// race detector): routes are added, changed, removed and put back at random,
// and the file is bad at times. Two bridges share the number, as each waits for
// its file to be looked at. CRBRIDGE_RELOADS is another number,
// CRBRIDGE_FAULTS_SEED repeats a run's choices.
func TestReloads(t *testing.T) {
	t.Parallel() // it waits, most of the time
	reloads, flags := 200, []string(nil)
	if raceEnabled {
		reloads, flags = 25, []string{"-race"}
	}
	const bridges = 2
	binary, each := build(t, flags...), (number(t, "CRBRIDGE_RELOADS", reloads)+bridges-1)/bridges
	seed := uint64(number(t, "CRBRIDGE_FAULTS_SEED", rand.IntN(1_000_000)))
	for n := range uint64(bridges) {
		t.Run(fmt.Sprint("seed ", seed+n), func(t *testing.T) {
			t.Parallel() // it waits, most of the time
			dir := filepath.Join(t.ArtifactDir(), fmt.Sprint(n))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			report, err := Run(t.Context(), Options{
				Bridge: binary, Faults: each, Kinds: []string{"reload"}, Seed: seed + n, Dir: dir, Progress: progress(t),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(report)
			if len(report.Violations) > 0 {
				t.Errorf("violations\n%s", report.Logs)
			}
		})
	}
}
