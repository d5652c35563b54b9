//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/crbridge/crbridge/test/servers"
)

// runEnv makes the test binary the demo. Its value is passed on to all that the
// demo starts, by which the tests find what it has left behind.
const runEnv = "CRBRIDGE_TEST_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(runEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// play is a running demo.
type play struct {
	cmd    *exec.Cmd
	mark   string
	lines  *bufio.Reader
	stderr bytes.Buffer
}

func start(t *testing.T, args ...string) *play {
	t.Helper()
	p := &play{cmd: exec.Command(os.Args[0], args...), mark: fmt.Sprintf("%s=%s-%d", runEnv, t.Name(), os.Getpid())}
	p.cmd.Env = append(os.Environ(), p.mark, "TMPDIR="+t.TempDir())
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// until returns what the demo prints up to the first line that matches.
func (p *play) until(t *testing.T, pattern string) string {
	t.Helper()
	var printed strings.Builder
	for {
		line, err := p.lines.ReadString('\n')
		printed.WriteString(line)
		if err != nil {
			t.Fatalf("no line like %q: %v\n%s%s", pattern, err, printed.String(), p.stderr.String())
		}
		if regexp.MustCompile(pattern).MatchString(line) {
			return printed.String()
		}
	}
}

// end waits for the demo's end, checks that nothing is left of it, and returns
// what it still printed.
func (p *play) end(t *testing.T, wantStatus int) string {
	t.Helper()
	rest, err := io.ReadAll(p.lines)
	if err != nil {
		t.Fatal(err)
	}
	err = p.cmd.Wait()
	if status := p.cmd.ProcessState.ExitCode(); status != wantStatus {
		t.Errorf("ended with %v, want exit status %d\n%s%s", err, wantStatus, rest, p.stderr.String())
	}
	if left := p.left(t); len(left) > 0 {
		t.Errorf("processes left behind: %q", left)
	}
	return string(rest)
}

// left returns the command lines of the processes that the demo has started,
// directly or not, and that are still there.
func (p *play) left(t *testing.T) []string {
	t.Helper()
	if runtime.GOOS != "linux" {
		return nil // there is no /proc
	}
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, file := range environments {
		// One that cannot be read is another user's, or has just ended.
		environment, _ := os.ReadFile(file)
		if bytes.Contains(environment, []byte(p.mark)) {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			left = append(left, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return left
}

// build returns a bridge's path. The servers are built too, so that no test
// waits for them.
func build(t *testing.T) string {
	t.Helper()
	for _, server := range servers.All() {
		if _, err := servers.Path(t.Context(), server, os.Stderr); err != nil {
			t.Fatal(err)
		}
	}
	path, err := servers.BuildBridge(t.Context(), t.TempDir(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDemo(t *testing.T) {
	bridge := build(t)
	t.Run("ends by itself", func(t *testing.T) {
		p := start(t, "-duration=15s", "-crd-cycle=6s", "-bridge="+bridge)
		out := p.end(t, 0)
		for _, change := range []string{"existing", "created ", "updated ", "deleted "} {
			line := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d  ` + change + `  default/order-\d{4} +\d+  [A-Z][a-z]+: \d`)
			if !line.MatchString(out) {
				t.Errorf("no line about an order that was %s", change)
			}
		}
		if !regexp.MustCompile(`(?s)Deleting the CRD.*deleted.*Making the CRD again.*created`).MatchString(out) {
			t.Error("no CRD that goes, with its orders, and comes back")
		}
		if strings.Contains(out, "\x1b") {
			t.Error("colours in what is not a terminal")
		}
		if t.Failed() {
			t.Log(out, p.stderr.String())
		}
	})
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run("ends at "+sig.String(), func(t *testing.T) {
			p := start(t, "-bridge="+bridge)
			p.until(t, "created")
			if runtime.GOOS == "linux" && len(p.left(t)) < 5 {
				t.Errorf("the demo, etcd, kube-apiserver, nats-server and the bridge should run: %q", p.left(t))
			}
			if err := p.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if out := p.end(t, 0); !strings.Contains(out, "==> Stopping") {
				t.Errorf("not a word of its end:\n%s", out)
			}
		})
	}
	t.Run("tells that a server has died", func(t *testing.T) {
		p := start(t, "-bridge="+bridge)
		p.until(t, "created")
		if err := exec.Command("kill", "-KILL", childPID(t, p, "nats-server")).Run(); err != nil {
			t.Fatal(err)
		}
		p.end(t, 1)
		if got := p.stderr.String(); !strings.Contains(got, "demo: nats-server ended unexpectedly") {
			t.Errorf("stderr: %s", got)
		}
	})
}

// childPID returns the id of the process that the demo runs from an executable
// of that name.
func childPID(t *testing.T, p *play, name string) string {
	t.Helper()
	out, err := exec.Command("ps", "-A", "-o", "ppid=,pid=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	child := regexp.MustCompile(fmt.Sprintf(`(?m)^ *%d +(\d+) \S*/%s `, p.cmd.Process.Pid, regexp.QuoteMeta(name)))
	match := child.FindSubmatch(out)
	if match == nil {
		t.Fatalf("no child %s of %d in\n%s", name, p.cmd.Process.Pid, out)
	}
	return string(match[1])
}

// TestBridgeThatFails: the demo says what has happened, shows the log's end and
// leaves nothing but the logs.
func TestBridgeThatFails(t *testing.T) {
	bridge := filepath.Join(t.TempDir(), "bridge")
	script := "#!/bin/sh\necho 'level=WARN msg=careful'; echo 'level=INFO msg=fine'; echo 'cannot go on' >&2; exit 7\n"
	if err := os.WriteFile(bridge, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	p := start(t, "-bridge="+bridge)
	out := p.end(t, 1)
	for _, want := range []string{"bridge: ended before it was ready: exit status 7", "| cannot go on"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("stderr has no %q:\n%s", want, p.stderr.String())
		}
	}
	if !strings.Contains(out, "bridge: level=WARN msg=careful") || strings.Contains(out, "msg=fine") {
		t.Errorf("the bridge's warnings, and only they, should be shown:\n%s", out)
	}
}

func TestUsage(t *testing.T) {
	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"-h"}, 0, "-crd-cycle"},
		{[]string{"-speed=9"}, 2, "not defined: -speed"},
		{[]string{"fast"}, 2, `unexpected argument "fast"`},
		{[]string{"-duration=-1s"}, 2, "cannot be negative"},
	} {
		var stdout, stderr strings.Builder
		if status := demo(t.Context(), test.args, &stdout, &stderr); status != test.status {
			t.Errorf("%q: exit status %d, want %d", test.args, status, test.status)
		}
		if !strings.Contains(stderr.String(), test.stderr) || stdout.Len() > 0 {
			t.Errorf("%q: stderr %q, want %q in it; stdout %q", test.args, stderr.String(), test.stderr, stdout.String())
		}
	}
}

// TestInterruptedEarly: being asked to end before anything runs is no failure.
func TestInterruptedEarly(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, interrupt := context.WithCancelCause(t.Context())
	interrupt(errors.New("interrupt signal received"))
	if err := run(ctx, options{}, newScreen(io.Discard)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
