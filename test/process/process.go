//go:build unix

// Package process runs a server as a child process that a test can stop, kill,
// restart, pause and resume.
//
// Each operation waits until it has taken effect. A child does not outlive its
// parent: on Linux the kernel kills it when the parent dies, however that
// happens; elsewhere a parent that is killed leaves it behind.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout and stopTimeout bound Start and Stop where the caller's
	// context does not. kube-apiserver gives open requests a minute to end.
	startTimeout = 2 * time.Minute
	stopTimeout  = 90 * time.Second

	// pollInterval is how often readiness is asked for.
	pollInterval = 20 * time.Millisecond
)

// ErrNotRunning is returned by operations that need a running process.
var ErrNotRunning = errors.New("not running")

// Command says how a process is started, each time that it is.
type Command struct {
	Name string // for error messages
	Path string
	Args []string
	Env  []string // added to the environment of this process

	// Isolated gives the process PID and mount namespaces of its own, in which it
	// is process 1: when it ends, whatever runs in them ends too, and is gone
	// before it is. Inside runs the process in the namespaces of another, which
	// is Isolated and runs. Both need root, and Linux.
	Isolated bool
	Inside   *Process

	// LogFile gets what the process prints. It is appended to, so that it
	// holds all runs.
	LogFile string

	// Tee, if set, gets the same. The process blocks while a write does.
	Tee io.Writer

	// Ready returns nil once the process serves. It is called again and again
	// while a start waits; nil means that a process that runs is ready.
	Ready func(context.Context) error
}

// Process is a process that can be started again after it ended. Its methods
// may be called concurrently; those that change its state run one after the
// other.
type Process struct {
	command Command

	changing sync.Mutex // held by whoever starts, signals or stops

	mu  sync.Mutex // guards run
	run *run       // the latest; nil before the first start
}

// run is one life of a process.
type run struct {
	pid       int
	process   *os.Process
	logOffset int64         // where this run's output begins in the log file
	exited    chan struct{} // closed when the process is gone and reaped
	err       error         // how it ended; readable once exited is closed
}

// New returns a process that is not yet started.
func New(command Command) *Process { return &Process{command: command} }

// Start starts the process and waits until it is ready. If it ends before, or
// ctx does, nothing is left running, and the error has the ends of its log.
func (p *Process) Start(ctx context.Context) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	return p.start(ctx)
}

func (p *Process) start(ctx context.Context) error {
	if r := p.latest(); r != nil && !r.gone() {
		return fmt.Errorf("%s: already running with pid %d", p.command.Name, r.pid)
	}
	r, err := launch(p.command)
	if err != nil {
		return fmt.Errorf("%s: %w", p.command.Name, err)
	}
	p.mu.Lock()
	p.run = r
	p.mu.Unlock()
	if err := p.waitReady(ctx, r); err != nil {
		r.kill()
		return err
	}
	return nil
}

// Stop asks the process to end (SIGTERM) and waits until it is gone. If it has
// not ended when ctx has, it is killed, and Stop says so. A process that is not
// running is no error; a paused one is resumed.
func (p *Process) Stop(ctx context.Context) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	return p.stop(ctx)
}

func (p *Process) stop(ctx context.Context) error {
	r := p.latest()
	if r == nil || r.gone() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	r.signal(syscall.SIGTERM)
	r.signal(syscall.SIGCONT)
	select {
	case <-r.exited:
		return nil
	case <-ctx.Done():
		r.kill()
		return fmt.Errorf("%s: killed, because it had not ended after SIGTERM: %w\n%s",
			p.command.Name, context.Cause(ctx), logTail(p.command.LogFile, r.logOffset))
	}
}

// Kill ends the process at once (SIGKILL), paused or not, and waits until it is
// gone. A process that is not running is no error.
func (p *Process) Kill() {
	p.changing.Lock()
	defer p.changing.Unlock()
	if r := p.latest(); r != nil {
		r.kill()
	}
}

// Restart stops the process and starts it again. Between the two nobody else
// can start it.
func (p *Process) Restart(ctx context.Context) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	if err := p.stop(ctx); err != nil {
		return err
	}
	return p.start(ctx)
}

// Pause stops the process's execution (SIGSTOP). When it returns, no thread of
// the process runs any more (on Linux; elsewhere, soon).
func (p *Process) Pause(ctx context.Context) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	r := p.latest()
	if r == nil || r.gone() {
		return fmt.Errorf("pause %s: %w", p.command.Name, ErrNotRunning)
	}
	r.signal(syscall.SIGSTOP)
	for {
		stopped, err := isStopped(r.pid)
		if err != nil {
			return fmt.Errorf("pause %s: %w", p.command.Name, err)
		}
		if stopped {
			return nil
		}
		select {
		case <-r.exited:
			return fmt.Errorf("pause %s: %w", p.command.Name, ErrNotRunning)
		case <-ctx.Done():
			return fmt.Errorf("pause %s: %w", p.command.Name, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}

// Resume lets a paused process run on (SIGCONT) and waits until it is ready. If
// it does not become ready it is killed, as by Start.
func (p *Process) Resume(ctx context.Context) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	r := p.latest()
	if r == nil || r.gone() {
		return fmt.Errorf("resume %s: %w", p.command.Name, ErrNotRunning)
	}
	r.signal(syscall.SIGCONT)
	if err := p.waitReady(ctx, r); err != nil {
		r.kill()
		return err
	}
	return nil
}

// Signal sends a signal to the process and does not wait for its effect.
func (p *Process) Signal(sig os.Signal) error {
	p.changing.Lock()
	defer p.changing.Unlock()
	r := p.latest()
	if r == nil || r.gone() {
		return fmt.Errorf("signal %s: %w", p.command.Name, ErrNotRunning)
	}
	return r.process.Signal(sig)
}

// PID returns the process's id, or 0 when it is not running.
func (p *Process) PID() int {
	if r := p.latest(); r != nil && !r.gone() {
		return r.pid
	}
	return 0
}

// Exited returns a channel that is closed when the present run of the process,
// or if it is not running its last one, has ended, by itself or not. Before the
// first start it is nil.
func (p *Process) Exited() <-chan struct{} {
	if r := p.latest(); r != nil {
		return r.exited
	}
	return nil
}

// ExitCode returns the exit status of the last run: -1 if a signal ended it, if
// it is still running, or if there was none.
func (p *Process) ExitCode() int {
	r := p.latest()
	if r == nil || !r.gone() {
		return -1
	}
	if r.err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](r.err); ok {
		return exit.ExitCode()
	}
	return -1
}

// LogFile returns the path of the file that has what the process printed.
func (p *Process) LogFile() string { return p.command.LogFile }

// LogTail returns the first and the last lines that the latest run printed.
func (p *Process) LogTail() string {
	if r := p.latest(); r != nil {
		return logTail(p.command.LogFile, r.logOffset)
	}
	return ""
}

func (p *Process) latest() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

func (p *Process) waitReady(ctx context.Context, r *run) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := p.ready(ctx)
		if r.gone() { // what answered was another process then
			return p.endedEarly(r)
		}
		if err == nil {
			return nil
		}
		select {
		case <-r.exited:
			return p.endedEarly(r)
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready: %w: %w\n%s",
				p.command.Name, context.Cause(ctx), err, logTail(p.command.LogFile, r.logOffset))
		case <-time.After(pollInterval):
		}
	}
}

func (p *Process) ready(ctx context.Context) error {
	if p.command.Ready == nil {
		return nil
	}
	return p.command.Ready(ctx)
}

func (p *Process) endedEarly(r *run) error {
	how := "exit status 0"
	if r.err != nil {
		how = r.err.Error()
	}
	return fmt.Errorf("%s: ended before it was ready: %s\n%s", p.command.Name, how, logTail(p.command.LogFile, r.logOffset))
}

// launch starts the process and the goroutine that owns and reaps it.
func launch(command Command) (*run, error) {
	log, err := os.OpenFile(command.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	offset, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	cmd := exec.Command(command.Path, command.Args...)
	cmd.Env = append(os.Environ(), command.Env...)
	cmd.Stdout = log
	if command.Tee != nil {
		cmd.Stdout = io.MultiWriter(log, command.Tee)
	}
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = childAttributes(command.Isolated, command.Inside != nil)
	cmd.WaitDelay = 5 * time.Second // for a grandchild that holds the output open

	r := &run{logOffset: offset, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the thread ends that
		// started the child, so that thread is kept until the child is gone.
		runtime.LockOSThread()
		defer func() { _ = log.Close() }()
		err := command.enter()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			r.process, r.pid = cmd.Process, cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		r.err = cmd.Wait()
		close(r.exited)
		if command.Inside == nil {
			runtime.UnlockOSThread() // else it ends with the goroutine: it is no longer like the others
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return r, nil
}

// enter moves the calling thread into the namespaces that the process is to run
// in. The thread must be locked, and must not be used for anything else.
func (c *Command) enter() error {
	if c.Inside == nil {
		return nil
	}
	pid := c.Inside.PID()
	if pid == 0 {
		return fmt.Errorf("in the namespaces of %s: %w", c.Inside.command.Name, ErrNotRunning)
	}
	if err := enterNamespaces(pid); err != nil {
		return fmt.Errorf("in the namespaces of %s: %w", c.Inside.command.Name, err)
	}
	return nil
}

func (r *run) gone() bool {
	select {
	case <-r.exited:
		return true
	default:
		return false
	}
}

// signal ignores errors: that the process has just ended is the only one that
// os.Process.Signal knows here, and callers wait for exited.
func (r *run) signal(sig os.Signal) { _ = r.process.Signal(sig) }

func (r *run) kill() {
	r.signal(syscall.SIGKILL)
	<-r.exited
}
