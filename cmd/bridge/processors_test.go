package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProcessorsFor(t *testing.T) {
	for _, row := range []struct {
		why     string
		current int
		used    float64
		most    int
		next    int
	}{
		{"nothing to do takes one, by and by", 8, 0, 8, 4},
		{"an odd number is halved upwards", 3, 0, 8, 2},
		{"no fewer than one", 1, 0, 8, 1},
		{"one is enough for what takes less", 1, 0.9, 8, 1},
		{"what takes all of it may take more", 1, 0.91, 8, 2},
		{"threads in system calls come on top", 1, 1.5, 8, 2},
		{"two are kept where one would be at work nearly always", 2, 0.7, 8, 2},
		{"and given up where it would not", 2, 0.69, 8, 1},
		{"no more than there are", 4, 4, 6, 6},
		{"which may be all in use", 6, 6, 6, 6},
		{"a limit that was lowered is kept to while all are at work", 8, 8, 2, 2},
		{"and while some are", 8, 4, 2, 2},
		{"but one is below each limit", 2, 0, 2, 1},
		{"a limit of one", 1, 1, 1, 1},
		{"a process that did not run for a week", 4, 1e-9, 4, 2},
	} {
		t.Run(row.why, func(t *testing.T) {
			if next := processorsFor(row.current, row.used, row.most); next != row.next {
				t.Errorf("%d of %d processors, %g used: %d next, not %d", row.current, row.most, row.used, next, row.next)
			}
		})
	}
}

// TestProcessorsSettle shows that a constant load, from wherever it begins, changes
// the number of processors in one direction only, and that it ends with as many as
// it takes. A load is what it would take with one processor; with more it takes a
// third more, as was measured, or nothing more. It varies by an eighth either way,
// always so that it would undo the last change.
func TestProcessorsSettle(t *testing.T) {
	const varies = 0.124
	for _, most := range []int{1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 64, 100} {
		for i := range 500 {
			load := 1.2 * float64(most) * float64(i) / 500
			for _, price := range []float64{1, 4.0 / 3} {
				for current := 1; current <= most; current++ {
					for _, first := range []float64{1 - varies, 1, 1 + varies} {
						if why := unsettled(current, most, load, price, first, varies); why != "" {
							t.Fatalf("from %d of %d processors, a load of %.2f, times %.2f with more than one, at first times %g: %s", current, most, load, price, first, why)
						}
					}
				}
			}
		}
	}
}

// unsettled says what is wrong with where a load leads to, if anything is.
func unsettled(current, most int, load, price, varied, varies float64) string {
	seen := []int{current}
	direction := 0
	for range 10 { // looks; 100 is halved, or 1 doubled, seven times
		takes := load * varied
		if current > 1 {
			takes *= price
		}
		next := processorsFor(current, min(takes, float64(current)), most)
		if next == current {
			break
		}
		seen = append(seen, next)
		if (next-current)*direction < 0 {
			return fmt.Sprintf("it goes to and fro: %v", seen)
		}
		direction, varied = 1, 1-varies
		if next < current {
			direction, varied = -1, 1+varies
		}
		current = next
	}
	takes := load
	if current > 1 {
		takes *= price
	}
	// What was varied last is an eighth off.
	if takes > (1+2*varies)*growAbove*float64(current) && current < most {
		return fmt.Sprintf("they are too few in the end: %v", seen)
	}
	if takes < (1-2*varies)*shrinkBelow*float64(current) && current > 1 {
		return fmt.Sprintf("they are too many in the end: %v", seen)
	}
	return ""
}

// machine is a machine, and Go's runtime on it, with a process whose load is to be
// had. It goes by the clock of a bubble.
type machine struct {
	mu       sync.Mutex
	cpus     int           // by the limit
	load     float64       // processors, if there were enough
	stopFor  time.Duration // from the next look on the process does not run
	fails    error
	number   int  // GOMAXPROCS
	follows  bool // the limit
	spent    time.Duration
	accounts time.Time // until when spent is
	changes  int       // for each of which the world was stopped
}

func newMachine(cpus int, load float64) *machine {
	return &machine{cpus: cpus, load: load, number: cpus, follows: true, accounts: time.Now()}
}

// account is called with mu held, before something changes.
func (m *machine) account() {
	m.spent += time.Duration(min(m.load, float64(m.number)) * float64(time.Since(m.accounts)))
	m.accounts = time.Now()
}

// becomes is what the machine becomes from now on.
func (m *machine) becomes(cpus int, load float64, stopFor time.Duration, fails error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.account()
	m.cpus, m.load, m.stopFor, m.fails = cpus, load, stopFor, fails
	if m.follows {
		m.number = cpus
	}
}

func (m *machine) now() (number int, follows bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.number, m.follows
}

func (m *machine) use(number int, follows bool) {
	m.account()
	if number != m.number {
		m.changes++
	}
	m.number, m.follows = number, follows
}

func (m *machine) cpuTime() (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.account()
	if stopFor := m.stopFor; stopFor > 0 {
		m.mu.Unlock()
		time.Sleep(stopFor)
		m.mu.Lock()
		m.stopFor, m.accounts = 0, time.Now()
	}
	return m.spent, m.fails
}

func (m *machine) govern(ctx context.Context, log *slog.Logger) {
	g := &governor{
		cpuTime:    m.cpuTime,
		processors: func() int { number, _ := m.now(); return number },
		set:        func(n int) { m.mu.Lock(); defer m.mu.Unlock(); m.use(n, false) },
		setDefault: func() { m.mu.Lock(); defer m.mu.Unlock(); m.use(m.cpus, true) },
		log:        log,
	}
	g.run(ctx)
}

// TestProcessorsFollowTheLoad has machines and loads change, and looks at how many
// processors are in use a while after.
func TestProcessorsFollowTheLoad(t *testing.T) {
	type change struct {
		cpus    int
		load    float64
		stopFor time.Duration
	}
	type phase struct {
		becomes change
		after   time.Duration
		number  int
		follows bool
	}
	const moment = governEvery / 10
	for _, row := range []struct {
		why    string
		cpus   int
		phases []phase
	}{
		{"a start has all, and what is idle has one", 8, []phase{
			{change{cpus: 8}, governEvery - moment, 8, true},
			{change{cpus: 8}, governEvery, 4, false},
			{change{cpus: 8}, governEvery, 2, false},
			{change{cpus: 8}, governEvery, 1, false},
			{change{cpus: 8}, time.Hour, 1, false},
		}},
		{"a start that takes all keeps all", 8, []phase{
			{change{cpus: 8, load: 8}, time.Hour, 8, true},
		}},
		{"a load that comes has more each second", 8, []phase{
			{change{cpus: 8}, time.Minute + moment, 1, false},
			{change{cpus: 8, load: 3}, governEvery, 1, false}, // it began a little after a look
			{change{cpus: 8, load: 3}, governEvery, 2, false},
			{change{cpus: 8, load: 3}, governEvery, 4, false},
			{change{cpus: 8, load: 3}, time.Hour, 4, false},
			{change{cpus: 8, load: 100}, governEvery, 8, true},
		}},
		{"Go follows a limit where all are in use", 4, []phase{
			{change{cpus: 4, load: 100}, time.Minute, 4, true},
			{change{cpus: 16, load: 100}, governEvery, 16, true},
			{change{cpus: 2, load: 100}, governEvery, 2, true},
		}},
		{"a limit that was raised is found by what grows", 2, []phase{
			{change{cpus: 2}, time.Hour, 1, false},
			{change{cpus: 16}, time.Hour, 1, false},
			{change{cpus: 16, load: 100}, governEvery, 2, false},
			{change{cpus: 16, load: 100}, 3 * governEvery, 16, true},
		}},
		{"a limit that was lowered is found by what grows", 16, []phase{
			{change{cpus: 16}, time.Hour, 1, false},
			{change{cpus: 3, load: 100}, governEvery, 2, false},
			{change{cpus: 3, load: 100}, time.Hour, 3, true},
		}},
		{"and within a minute by what does not", 16, []phase{
			{change{cpus: 16, load: 3}, time.Hour, 8, false},
			{change{cpus: 2, load: 3}, readLimitEvery + governEvery, 2, true},
		}},
		{"a machine of one", 1, []phase{
			{change{cpus: 1}, time.Hour, 1, true},
			{change{cpus: 1, load: 1}, time.Hour, 1, true},
		}},
		{"a process that was stopped has done nothing, and goes on", 4, []phase{
			{change{cpus: 4, load: 4}, time.Hour, 4, true},
			{change{cpus: 4, load: 4, stopFor: time.Hour}, time.Hour + governEvery, 2, false},
			{change{cpus: 4, load: 4}, governEvery, 4, true},
		}},
		{"and of the moment until the next tick nothing is said", 4, []phase{
			{change{cpus: 4, load: 4}, time.Hour, 4, true},
			{change{cpus: 4, load: 4, stopFor: time.Hour + governEvery - 2*moment}, time.Hour + 2*governEvery, 2, false},
			{change{cpus: 4, load: 4}, governEvery, 4, true},
		}},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(row.cpus, 0)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go m.govern(ctx, slog.New(slog.DiscardHandler))
				time.Sleep(moment / 2) // so that no phase begins together with a look
				for i, p := range row.phases {
					m.becomes(p.becomes.cpus, p.becomes.load, p.becomes.stopFor, nil)
					time.Sleep(p.after)
					if number, follows := m.now(); number != p.number || follows != p.follows {
						t.Errorf("phase %d: %d processors (Go follows the limit: %t), not %d (%t)", i, number, follows, p.number, p.follows)
					}
				}
				cancel()
				synctest.Wait()
				if number, follows := m.now(); number != m.cpus || !follows {
					t.Errorf("at the end: %d processors (Go follows the limit: %t), not %d", number, follows, m.cpus)
				}
			})
		})
	}
}

// TestProcessorsAreLeftAlone shows that the world is not stopped for nothing.
func TestProcessorsAreLeftAlone(t *testing.T) {
	for _, row := range []struct {
		why     string
		cpus    int
		load    float64
		changes int // in an hour, and at its end
	}{
		{"what is idle goes down", 8, 0, 3 + 1},
		{"what takes all has all", 8, 8, 0},
		{"the limit is looked for once a minute", 8, 1.5, 1 + 59*2 + 1},
		{"a machine of one", 1, 1, 0},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(row.cpus, row.load)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour-governEvery/2)
				defer cancel()
				m.govern(ctx, slog.New(slog.DiscardHandler))
				if m.changes != row.changes {
					t.Errorf("%d changes, not %d", m.changes, row.changes)
				}
			})
		})
	}
}

// TestProcessorsAreTold shows what is logged, of changes alone.
func TestProcessorsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var book logBook
		m := newMachine(4, 1.0/3)
		log := slog.New(slog.NewTextHandler(&book, &slog.HandlerOptions{Level: slog.LevelDebug}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		m.govern(ctx, log)
		told := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(strings.Join(book.lines(), "\n"), "")
		if diff := cmp.Diff(strings.Join([]string{
			`level=DEBUG msg="processors in use" from=4 to=2 used=0.33`,
			`level=DEBUG msg="processors in use" from=2 to=1 used=0.33`,
		}, "\n"), told); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
	})
}

// TestProcessorsWithoutCPUTime shows that Go is left alone where the system does not
// say what was used, or no longer does.
func TestProcessorsWithoutCPUTime(t *testing.T) {
	for _, after := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(4, 0)
			fail := func() { m.becomes(4, 0, 0, errors.ErrUnsupported) }
			if after == 0 {
				fail()
			} else {
				time.AfterFunc(after, fail)
			}
			began := time.Now()
			m.govern(t.Context(), slog.New(slog.DiscardHandler))
			if took := time.Since(began); took > after+governEvery {
				t.Errorf("it goes on for %v, not %v", took, after)
			}
			if number, follows := m.now(); number != m.cpus || !follows {
				t.Errorf("%d processors (Go follows the limit: %t), not %d", number, follows, m.cpus)
			}
		})
	}
}

// TestProcessCPUTime shows that the CPU time is that of all threads, and in seconds.
func TestProcessCPUTime(t *testing.T) {
	before, err := cpuTime()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("not on %s", runtime.GOOS)
	}
	if err != nil {
		t.Fatal(err)
	}
	const spends = 50 * time.Millisecond
	began, after := time.Now(), before
	for after-before < spends {
		if after, err = cpuTime(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took*time.Duration(runtime.NumCPU()) < spends {
		t.Errorf("%v of CPU time in %v", after-before, took)
	}
}

// TestProcessorsOfTheProcess shows that a bridge that has nothing to do comes to use
// one processor, and one that is told how many uses those.
func TestProcessorsOfTheProcess(t *testing.T) {
	if _, err := cpuTime(); err != nil {
		t.Skipf("not on %s: %v", runtime.GOOS, err)
	}
	given := startIdle(t, "GOMAXPROCS=3")
	given.waitForProcessors(t, "3")
	startIdle(t, "GOMAXPROCS=").waitForProcessors(t, "1")
	if now, err := given.processors(t); now != "3" { // it began before the other
		t.Errorf("%s processors where GOMAXPROCS is 3 (%v)", now, err)
	}
}

// idleBridge is a process that is the bridge, without a cluster or a sink to reach.
type idleBridge struct {
	address string // of its metrics
	log     *logBook
	ended   chan struct{}
}

// startIdle starts one, which has ended when the test has.
func startIdle(t *testing.T, environ string) *idleBridge {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &idleBridge{address: listener.Addr().String(), log: &logBook{}, ended: make(chan struct{})}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	// Nobody listens on port 1.
	dir := t.TempDir()
	for name, content := range map[string]string{
		"config.yaml": fmt.Sprintf(`cluster: demo
log: {level: debug}
health: {address: %q}
server: {address: %q}
routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]
sinks: {main: {nats: {url: nats://127.0.0.1:1, jetstream: {stream: K8S}}}}
`, b.address, b.address),
		"kubeconfig": `{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c"}}],"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bridge := exec.CommandContext(t.Context(), program, "run", "--config", filepath.Join(dir, "config.yaml"), "--kubeconfig", filepath.Join(dir, "kubeconfig"))
	bridge.Env = append(os.Environ(), asProgram+"=1", environ)
	bridge.Stderr = b.log
	if err := bridge.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		_ = bridge.Wait() // it is killed
	}()
	t.Cleanup(func() { <-b.ended }) // t.Context is done by then
	return b
}

// waitForProcessors waits until the bridge uses so many.
func (b *idleBridge) waitForProcessors(t *testing.T, want string) {
	t.Helper()
	patience := time.After(time.Minute)
	for {
		now, err := b.processors(t)
		if now == want {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-b.ended:
			t.Fatalf("the bridge has ended:\n%s", strings.Join(b.log.lines(), "\n"))
		case <-patience:
			t.Fatalf("%s processors, not %s (%v):\n%s", now, want, err, strings.Join(b.log.lines(), "\n"))
		}
	}
}

var gomaxprocs = regexp.MustCompile(`(?m)^go_sched_gomaxprocs_threads ([0-9]+)$`)

// processors is how many the bridge uses by its metrics, empty while it has none.
func (b *idleBridge) processors(t *testing.T) (string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+b.address+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	metrics, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	found := gomaxprocs.FindSubmatch(metrics)
	if found == nil {
		return "", fmt.Errorf("no such metric, with status %d", answer.StatusCode)
	}
	return string(found[1]), nil
}
