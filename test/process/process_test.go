//go:build unix

package process_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/test/process"
)

// parentEnv makes the test binary the parent of TestDiesWithParent: it starts a
// child, prints its pid and hangs.
const parentEnv = "CRBRIDGE_TEST_PARENT_LOG"

func TestMain(m *testing.M) {
	if log := os.Getenv(parentEnv); log != "" {
		p := process.New(process.Command{Name: "child", Path: "sleep", Args: []string{"600"}, LogFile: log})
		if err := p.Start(context.Background()); err != nil {
			panic(err)
		}
		fmt.Println(p.PID())
		<-p.Exited()
		return
	}
	goleak.VerifyTestMain(m)
}

// shell returns a process that runs a shell script.
func shell(t *testing.T, script string) *process.Process {
	t.Helper()
	return shellReady(t, script, nil)
}

func shellReady(t *testing.T, script string, ready func(context.Context) error) *process.Process {
	t.Helper()
	p := process.New(process.Command{
		Name:    "script",
		Path:    "sh",
		Args:    []string{"-c", script},
		LogFile: filepath.Join(t.TempDir(), "script.log"),
		Ready:   ready,
	})
	t.Cleanup(p.Kill)
	return p
}

// logged waits until the process has printed the text.
func logged(t *testing.T, p *process.Process, text string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(p.LogTail(), text) {
		if time.Now().After(deadline) {
			t.Fatalf("%q was not printed:\n%s", text, p.LogTail())
		}
		time.Sleep(time.Millisecond)
	}
}

func start(t *testing.T, p *process.Process) int {
	t.Helper()
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p.PID()
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestStopAndStartAgain(t *testing.T) {
	p := shell(t, `trap 'echo bye; exit 3' TERM; echo "up $$"; while :; do sleep 0.01; done`)
	first := start(t, p)
	logged(t, p, "up")
	if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("second start: %v, want: already running", err)
	}
	exited := p.Exited()
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-exited:
	default:
		t.Error("Exited is not closed after Stop")
	}
	if alive(first) || p.PID() != 0 {
		t.Errorf("after Stop: process alive=%t, PID()=%d", alive(first), p.PID())
	}
	if p.ExitCode() != 3 {
		t.Errorf("exit code %d, want the script's 3", p.ExitCode())
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("Stop of what is stopped: %v", err)
	}

	second := start(t, p)
	logged(t, p, "up")
	if second == first {
		t.Errorf("same pid %d after a new start", second)
	}
	if strings.Contains(p.LogTail(), "bye") {
		t.Errorf("the tail of the second run has lines of the first:\n%s", p.LogTail())
	}
	log, err := os.ReadFile(p.LogFile())
	if err != nil || strings.Count(string(log), "up") != 2 {
		t.Errorf("the log should have both runs: %v\n%s", err, log)
	}

	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if alive(second) || p.PID() == 0 {
		t.Errorf("after Restart: old process alive=%t, PID()=%d", alive(second), p.PID())
	}
	third := p.PID()
	p.Kill()
	if alive(third) || p.ExitCode() != -1 {
		t.Errorf("after Kill: process alive=%t, exit code %d", alive(third), p.ExitCode())
	}
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	p := shell(t, `trap '' TERM; echo deaf; while :; do sleep 0.01; done`)
	pid := start(t, p)
	logged(t, p, "deaf")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := p.Stop(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "deaf") {
		t.Errorf("Stop: %v, want the deadline and the log's tail", err)
	}
	if alive(pid) {
		t.Error("still alive")
	}
}

func TestStartFails(t *testing.T) {
	never := func(context.Context) error { return errors.New("still warming up") }
	for _, test := range []struct {
		name, script string
		ready        func(context.Context) error
		want         []string
	}{
		{"ends before it is ready", "echo no such flag; exit 7", never, []string{"exit status 7", "no such flag"}},
		{"is never ready", "echo waiting; exec sleep 600", never, []string{"deadline", "still warming up", "waiting"}},
		// Another server on the port answers for one that could not bind it.
		{"another process is ready in its place", "exit 1", func(context.Context) error {
			time.Sleep(500 * time.Millisecond)
			return nil
		}, []string{"exit status 1", "nothing in its log"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := shellReady(t, test.script, test.ready)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := p.Start(ctx)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error has no %q: %v", want, err)
				}
			}
			if p.PID() != 0 {
				t.Error("left running")
			}
		})
	}
	missing := process.New(process.Command{Name: "none", Path: "/does/not/exist", LogFile: filepath.Join(t.TempDir(), "log")})
	if err := missing.Start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing executable: %v", err)
	}
}

func TestPauseAndResume(t *testing.T) {
	p := shell(t, `i=0; while :; do i=$((i+1)); echo $i; sleep 0.001; done`)
	if err := p.Pause(t.Context()); !errors.Is(err, process.ErrNotRunning) {
		t.Errorf("Pause before the start: %v", err)
	}
	start(t, p)
	logged(t, p, "2")
	for range 3 { // the second pause must not see the first one's status
		if err := p.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := p.LogTail()
		time.Sleep(30 * time.Millisecond) // absence of output has no condition to wait for
		if after := p.LogTail(); after != before {
			t.Fatalf("a paused process went on:\n%s\nthen\n%s", before, after)
		}
		if err := p.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for p.LogTail() == before {
			if time.Now().After(deadline) {
				t.Fatal("a resumed process did not go on")
			}
			time.Sleep(time.Millisecond)
		}
	}
	for name, end := range map[string]func() error{
		"Stop": func() error { return p.Stop(t.Context()) },
		"Kill": func() error { p.Kill(); return nil },
	} {
		if p.PID() == 0 {
			start(t, p)
		}
		if err := p.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil || p.PID() != 0 {
			t.Errorf("%s of a paused process: %v, PID()=%d", name, err, p.PID())
		}
	}
}

func TestTee(t *testing.T) {
	var copied strings.Builder
	p := process.New(process.Command{
		Name: "script", Path: "sh", Args: []string{"-c", "echo out; echo err >&2"},
		LogFile: filepath.Join(t.TempDir(), "log"), Tee: &copied,
		Ready: func(context.Context) error { return errors.New("not yet") },
	})
	if err := p.Start(t.Context()); err == nil {
		t.Fatal("no error from a process that ended")
	}
	if got := copied.String(); got != "out\nerr\n" {
		t.Errorf("copied %q", got)
	}
}

func TestDiesWithParent(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux kills the children of a killed process")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+filepath.Join(t.TempDir(), "child.log"))
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !alive(child) {
		t.Fatal("the child is not running")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // "signal: killed"
	deadline := time.Now().Add(10 * time.Second)
	for running(t, child) {
		if time.Now().After(deadline) {
			t.Fatal("the child outlived its parent")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// running reports whether an orphan runs; one that nobody has reaped does not.
func running(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}
