//go:build unix && docs

package docs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crbridge/crbridge/test/servers"
)

// patience is how long a command may take to print what is waited for, or to
// end. The longest is `make demo`, which builds.
const patience = 5 * time.Minute

// TestCommands runs what the documents say, in their order, each document in a
// world of its own.
func TestCommands(t *testing.T) {
	bridge, err := servers.BuildBridge(t.Context(), t.TempDir(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range documents(t) {
		runs := false
		for _, r := range table {
			runs = runs || r.document == document && r.not == ""
		}
		if !runs {
			continue
		}
		t.Run(document, func(t *testing.T) {
			w := newWorld(t, document, bridge)
			for _, b := range blocks(t, document) {
				r := table[rowOf(b)]
				if r.not != "" {
					continue
				}
				if !t.Run(b.begins(), func(t *testing.T) { w.try(t, b, r) }) {
					return // what follows stands on it
				}
			}
			w.end(t)
		})
	}
}

// try runs a block as its row says.
func (w *world) try(t *testing.T, b block, r row) {
	scripts := []string{b.commands}
	if r.each {
		scripts = nil
		for line := range strings.Lines(b.commands) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				scripts = append(scripts, line)
			}
		}
	}
	if r.orders != 0 {
		defer w.change(t, r.orders)()
	}
	var printed strings.Builder
	for _, script := range scripts {
		c := w.start(t, b, r, script)
		if r.until == "" || r.endless != "" && !regexp.MustCompile(r.endless).MatchString(script) {
			c.ended(t, nil)
		} else {
			c.prints(t, regexp.MustCompile(r.until))
			if r.stays {
				w.running = append(w.running, c)
			} else {
				c.interrupt(t, r)
			}
		}
		printed.WriteString(c.output.String())
	}
	shown := ""
	if r.shows {
		shown = b.shown
	}
	for _, line := range missing(shown, printed.String()) {
		t.Errorf("%s: the document shows this line, and nothing like it was printed:\n\t%s", b, line)
	}
	for _, pattern := range r.prints {
		if !regexp.MustCompile(pattern).MatchString(printed.String()) {
			t.Errorf("%s: nothing printed matches %s", b, pattern)
		}
	}
	if t.Failed() {
		t.Logf("%s printed:\n%s", b, printed.String())
	}
}

// end interrupts what was left running, the last first, as somebody does who
// has read a document to its end.
func (w *world) end(t *testing.T) {
	for _, c := range slices.Backward(w.running) {
		c.interrupt(t, row{})
	}
	w.running = nil
}

// command is a running script, in a process group of its own, as a terminal
// has it.
type command struct {
	block
	script string
	cmd    *exec.Cmd
	output *output
	exited chan struct{}
	err    error // once exited is closed
}

func (w *world) start(t *testing.T, b block, r row, script string) *command {
	t.Helper()
	c := &command{block: b, script: script, output: newOutput(), exited: make(chan struct{})}
	c.cmd = exec.Command("bash", "-euo", "pipefail", "-c", w.replace(script))
	c.cmd.Dir, c.cmd.Env = w.clone, slices.Concat(w.env, w.own)
	if r.outside { // the demo, which gives its bridge addresses of its own
		c.cmd.Dir, c.cmd.Env = filepath.Dir(w.clone), w.env
	}
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.WaitDelay = 10 * time.Second
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
	}()
	// Of the whole test of the document: the block may leave it running.
	w.t.Cleanup(func() {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.exited
	})
	return c
}

// prints waits for a line.
func (c *command) prints(t *testing.T, line *regexp.Regexp) {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := c.output.changed()
		if line.MatchString(c.output.String()) {
			return
		}
		select {
		case <-changed:
		case <-c.exited:
			if !line.MatchString(c.output.String()) {
				t.Fatalf("%s: ended (%v) and has not printed %s\n%s\n%s", c.block, c.err, line, c.script, c.output)
			}
			return
		case <-deadline:
			t.Fatalf("%s: has not printed %s in %v\n%s\n%s", c.block, line, patience, c.script, c.output)
		}
	}
}

// ended waits for the end, which has to be as the shell's status says.
func (c *command) ended(t *testing.T, accept func(error) bool) {
	t.Helper()
	select {
	case <-c.exited:
	case <-time.After(patience):
		t.Fatalf("%s: has not ended in %v\n%s\n%s", c.block, patience, c.script, c.output)
	}
	if c.err != nil && (accept == nil || !accept(c.err)) {
		t.Fatalf("%s: %v\n%s\n%s", c.block, c.err, c.script, c.output)
	}
}

// interrupt is Ctrl-C, after which everything ends well.
func (c *command) interrupt(t *testing.T, r row) {
	t.Helper()
	if err := syscall.Kill(-c.cmd.Process.Pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	c.ended(t, func(err error) bool {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || !r.interrupted {
			return false
		}
		status, ok := exit.Sys().(syscall.WaitStatus)
		return exit.ExitCode() == 1 || exit.ExitCode() == 130 || ok && status.Signaled() && status.Signal() == syscall.SIGINT
	})
}

// output is what a command has printed so far.
type output struct {
	mu      sync.Mutex
	buffer  bytes.Buffer
	written chan struct{} // closed at the next write
}

func newOutput() *output { return &output{written: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.written)
	o.written = make(chan struct{})
	return o.buffer.Write(p)
}

func (o *output) changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String()
}

// answers returns nil where a URL answers with 200 and that text.
func answers(ctx context.Context, url, text string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	content, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || !strings.Contains(string(content), text) {
		return fmt.Errorf("%s does not say %s, but: %s %s", url, text, response.Status, content)
	}
	return nil
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
