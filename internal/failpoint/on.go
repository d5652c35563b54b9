//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Variable is the environment variable that says what happens where:
// "<point>=<n>:<action>", joined by commas. The action is done when the point
// is passed for the n-th time: kill ends the process as SIGKILL does, and a
// duration holds up the goroutine for so long.
const Variable = "BRIDGE_FAILPOINTS"

// VariableOfBounds is the environment variable that says by how much Bound
// divides.
const VariableOfBounds = "BRIDGE_BOUNDS"

// Bound is a number from which on something is much, or rather a fraction of it:
// so that what takes much also happens where there is little.
func Bound(n int) int {
	by, err := strconv.Atoi(os.Getenv(VariableOfBounds))
	if err != nil || by < 1 {
		return n
	}
	return max(1, n/by)
}

type action struct {
	at   int
	kill bool
	wait time.Duration
}

var (
	mu      sync.Mutex
	passed  = map[Point]int{}
	actions = parse(os.Getenv(Variable))
)

func parse(spec string) map[Point]action {
	all := map[Point]action{}
	if spec == "" {
		return all
	}
	for one := range strings.SplitSeq(spec, ",") {
		point, what, _ := strings.Cut(one, "=")
		count, do, _ := strings.Cut(what, ":")
		a := action{kill: do == "kill"}
		var err error
		if a.at, err = strconv.Atoi(count); err != nil {
			panic(fmt.Sprintf("%s: %q: %v", Variable, one, err))
		}
		if !a.kill {
			if a.wait, err = time.ParseDuration(do); err != nil {
				panic(fmt.Sprintf("%s: %q: %v", Variable, one, err))
			}
		}
		all[Point(point)] = a
	}
	return all
}

// Here does what the environment says is to happen at the point.
func Here(p Point) {
	mu.Lock()
	passed[p]++
	a, set := actions[p]
	due := set && passed[p] == a.at
	mu.Unlock()
	if !due {
		return
	}
	fmt.Fprintln(os.Stderr, "failpoint:", p)
	if a.kill {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {} // the signal is on its way
	}
	time.Sleep(a.wait) //nolint:forbidigo // what it is for
}
