//go:build unix

package faults

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestBugsAreCaught shows that the suite catches mistakes: each of the bugs,
// built into the bridge, breaks a guarantee, or has the bridge not come back.
// Some of them are tried, chosen at random; all where CRBRIDGE_BUGS is all,
// which takes minutes.
func TestBugsAreCaught(t *testing.T) {
	t.Parallel() // it waits, most of the time
	if raceEnabled {
		t.Skip("not with the race detector: it is the suite that is tried, not the bridge")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := Overlay(root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bridge := build(t, overlay)
	const some = 5
	chosen := rand.Perm(len(Bugs))
	if os.Getenv("CRBRIDGE_BUGS") != "all" {
		chosen = chosen[:some]
	}
	for _, i := range chosen {
		bug := Bugs[i]
		t.Run(bug.Name, func(t *testing.T) {
			t.Parallel() // they wait, most of the time
			const attempts = 3
			for attempt := range attempts {
				report, err := Run(t.Context(), Options{
					Bridge: bridge, Env: []string{bugVariable + "=" + bug.Name}, Faults: bug.Faults, Kinds: bug.Kinds,
					Seed: uint64(1000*i + attempt), Dir: t.TempDir(), Impatient: true,
				})
				switch {
				case err != nil:
					t.Logf("caught: %.300s", err)
					return
				case len(report.Violations) > 0:
					t.Logf("caught: %d violations, the first: %v", len(report.Violations), report.Violations[0])
					return
				}
			}
			t.Errorf("not caught: %s", bug.Why)
		})
	}
}
