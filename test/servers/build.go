//go:build unix

package servers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// heartbeat is how often a running build says how far it is.
const heartbeat = 10 * time.Second

type goBuildOptions struct {
	name string // what is built, for people
	dir  string
	env  []string
	args []string
}

// goBuild runs go build and tells on progress how it goes. When ctx ends the
// build is interrupted and waited for.
func goBuild(ctx context.Context, opts goBuildOptions, progress io.Writer) error {
	output := &buildOutput{}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-v"}, opts.args...)...)
	cmd.Dir = opts.dir
	cmd.Env = opts.env
	cmd.Stdout, cmd.Stderr = output, output
	// In a group of its own the whole build, compilers included, can be
	// interrupted, and is not interrupted behind our back by Ctrl-C.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second

	began := time.Now()
	elapsed := func() time.Duration { return time.Since(began).Round(time.Second) }
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Fprintf(progress, "%s: %v, %s\n", opts.name, elapsed(), output.summary())
		case err := <-done:
			if ctx.Err() != nil {
				return fmt.Errorf("build given up after %v: %w", elapsed(), context.Cause(ctx))
			}
			if err != nil {
				return fmt.Errorf("go build in %s: %w\n%s", opts.dir, err, output.tail())
			}
			fmt.Fprintf(progress, "%s: built in %v\n", opts.name, elapsed())
			return nil
		}
	}
}

// tailLines is how many lines of a failed build's output its error shows.
const tailLines = 20

// buildOutput reads what go build -v prints: a line per module that is
// downloaded, a line per package that is compiled, and errors.
type buildOutput struct {
	mu         sync.Mutex
	line       []byte   // the unfinished last line
	last       []string // the last lines, for an error
	downloaded int      // modules
	compiled   int      // packages
}

func (o *buildOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.line = append(o.line, p...)
	for {
		line, rest, whole := bytes.Cut(o.line, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		o.add(string(line))
		o.line = rest
	}
}

func (o *buildOutput) add(line string) {
	switch {
	case strings.HasPrefix(line, "go: downloading "):
		o.downloaded++
		return
	case !strings.ContainsAny(line, " \t#"):
		o.compiled++
		return
	}
	o.last = append(o.last, line)
	o.last = o.last[max(0, len(o.last)-tailLines):]
}

func (o *buildOutput) summary() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.downloaded > 0 {
		return fmt.Sprintf("%d modules downloaded, %d packages compiled", o.downloaded, o.compiled)
	}
	return fmt.Sprintf("%d packages compiled", o.compiled)
}

func (o *buildOutput) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(append(o.last, string(o.line)), "\n")
}
