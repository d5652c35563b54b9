//go:build linux

package node

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Shared is one node for all tests of a test binary, started by the first that
// asks for it. The zero value may be used; Run closes it.
type Shared struct {
	Options Options // to be set before the first Get; progress goes to stderr by default

	interrupted context.Context // Run's, which ends a start

	once sync.Once
	mu   sync.Mutex // guards node and err
	node *Node
	err  error
}

// Get returns the node. If it cannot be started, each test that asks for it
// fails.
func (s *Shared) Get(t testing.TB) *Node {
	t.Helper()
	s.once.Do(func() {
		opts := s.Options
		if opts.Progress == nil {
			opts.Progress = os.Stderr
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if s.interrupted != nil {
			defer context.AfterFunc(s.interrupted, cancel)()
		}
		node, err := Start(ctx, opts)
		s.mu.Lock()
		s.node, s.err = node, err
		s.mu.Unlock()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		t.Fatalf("%v", s.err)
	}
	if s.node == nil {
		t.Fatal("node: its start was given up by another test, or it is closed")
	}
	return s.node
}

// Close closes the node, if it was started. No test may use it any more.
func (s *Shared) Close() error {
	s.once.Do(func() {}) // which waits for a start
	s.mu.Lock()
	node := s.node
	s.node = nil
	s.mu.Unlock()
	if node == nil {
		return nil
	}
	return node.Close()
}

// Run runs the tests, closes the node and returns the exit code. It does so too
// when SIGINT or SIGTERM ends the tests early. When tests have failed it leaves
// the logs of the node and its pods, and says where.
func (s *Shared) Run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s.interrupted = ctx
	ended := make(chan int, 1)
	go func() { ended <- m.Run() }()
	code := 1
	select {
	case code = <-ended:
		if code != 0 {
			s.keepLogs()
		}
	case <-ctx.Done():
		// Tests go on and fail, and who reads what they print may be gone.
		signal.Ignore(syscall.SIGPIPE)
		fmt.Fprintln(os.Stderr, "node: interrupted")
	}
	if err := s.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "closing the node:", err)
		code = max(code, 1)
	}
	return code
}

func (s *Shared) keepLogs() {
	s.mu.Lock()
	node := s.node
	s.mu.Unlock()
	if node == nil || s.Options.LogDir != "" {
		return
	}
	kept, err := os.MkdirTemp("", "crbridge-logs-")
	if err == nil {
		kept = filepath.Join(kept, "logs")
		err = os.Rename(node.LogDir(), kept)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node: its logs are not kept:", err)
		return
	}
	fmt.Fprintln(os.Stderr, "node: its logs are kept in", kept)
}

// ForTest starts a node for one test and closes it when the test ends. If it
// cannot be started the test fails. The logs are the test's artifacts (go test
// -artifacts).
func ForTest(t testing.TB, opts Options) *Node {
	t.Helper()
	if opts.LogDir == "" {
		opts.LogDir = t.ArtifactDir()
	}
	if opts.Progress == nil {
		opts.Progress = os.Stderr
	}
	n, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("closing the node: %v", err)
		}
	})
	return n
}
