package main

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// asProgram is set where this test binary is to be the bridge.
const asProgram = "CRBRIDGE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestLimitMemory(t *testing.T) {
	const before = 3 << 30
	fails := func(err error) memlimit.Provider { return func() (uint64, error) { return 0, err } }
	for _, row := range []struct {
		why       string
		environ   []string
		container memlimit.Provider
		limit     int64
		from      string
	}{
		{"nine tenths of a container", nil, memlimit.Limit(1000 << 20), 900 << 20, "0.9 of the container's limit"},
		{"the limit of deploy/", []string{"GOGC=50"}, memlimit.Limit(512 << 20), 483183820, "0.9 of the container's limit"},
		{"what the user says wins", []string{"GOMEMLIMIT=1GiB"}, memlimit.Limit(1000 << 20), before, "GOMEMLIMIT"},
		{"also that there is to be none", []string{"GOMEMLIMIT=off"}, memlimit.Limit(1000 << 20), before, "GOMEMLIMIT"},
		{"an empty variable says nothing", []string{"GOMEMLIMIT="}, memlimit.Limit(1000 << 20), 900 << 20, "0.9 of the container's limit"},
		{"a variable of a similar name", []string{"GOMEMLIMIT2=1GiB"}, memlimit.Limit(1000 << 20), 900 << 20, "0.9 of the container's limit"},
		{"a container without a limit", nil, fails(memlimit.ErrNoLimit), before, "there is no limit"},
		{"a process that is in none", nil, fails(memlimit.ErrNoCgroup), before, "there is no limit"},
		{"a system that knows none", nil, fails(memlimit.ErrCgroupsNotSupported), before, "there is no limit"},
		{"files that cannot be understood", nil, fails(errors.New("bad memory.max")), before, "the container's limit is not known: bad memory.max"},
		{"a limit that nothing could run in", nil, memlimit.Limit(0), before, "there is no limit"},
		{"a limit that Go has no number for", nil, memlimit.Limit(math.MaxUint64), before, "there is no limit"},
	} {
		t.Run(row.why, func(t *testing.T) {
			original := debug.SetMemoryLimit(before)
			defer debug.SetMemoryLimit(original)
			if from := limitMemory(row.environ, row.container); from != row.from {
				t.Errorf("from %q, not %q", from, row.from)
			}
			if limit := debug.SetMemoryLimit(-1); limit != row.limit {
				t.Errorf("the limit is %d, not %d", limit, row.limit)
			}
		})
	}
}

func TestProcessorsFrom(t *testing.T) {
	for _, row := range []struct {
		why         string
		environ     []string
		used, there int
		from        string
	}{
		{"all that are there", nil, 8, 8, "the machine's CPUs"},
		{"fewer, by a limit", nil, 2, 8, "the container's CPU limit"},
		{"the user says how many", []string{"GOMAXPROCS=4"}, 4, 8, "GOMAXPROCS"},
		{"no number of processors", []string{"GOMAXPROCS=0"}, 8, 8, "the machine's CPUs"},
		{"no number at all", []string{"GOMAXPROCS=all"}, 8, 8, "the machine's CPUs"},
	} {
		t.Run(row.why, func(t *testing.T) {
			if from := processorsFrom(row.environ, row.used, row.there); from != row.from {
				t.Errorf("from %q, not %q", from, row.from)
			}
		})
	}
}

// TestGoHeedsTheCPULimit shows that nothing in the module has Go overlook the
// container's CPU limit: an older version of the language would.
func TestGoHeedsTheCPULimit(t *testing.T) {
	info, is := debug.ReadBuildInfo()
	if !is {
		t.Fatal("no build information")
	}
	for _, setting := range info.Settings {
		if setting.Key == "DefaultGODEBUG" && strings.Contains(setting.Value, "maxprocs=0") {
			t.Errorf("%s is %s", setting.Key, setting.Value)
		}
	}
}

// TestResourcesAreTold runs the bridge as far as it comes without a cluster.
func TestResourcesAreTold(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	const content = `cluster: demo
routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]
sinks: {main: {nats: {url: nats://127.0.0.1:4222, jetstream: {stream: K8S}}}}
`
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bridge := exec.CommandContext(t.Context(), program, "run", "--config", path, "--kubeconfig", filepath.Join(dir, "none"))
	bridge.Env = append(os.Environ(), asProgram+"=1", "GOMEMLIMIT=123MiB", "GOMAXPROCS=3")
	output, err := bridge.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("without a cluster the bridge ends with %v, not with status 2", err)
	}
	const told = `level=INFO msg=resources processors=3 processorsFrom=GOMAXPROCS memoryLimit=123MiB memoryLimitFrom=GOMEMLIMIT`
	if !strings.Contains(string(output), told) {
		t.Errorf("the bridge does not say %q:\n%s", told, output)
	}
}
