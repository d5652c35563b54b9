//go:build unix

package controlplane

import (
	"os"
	"sync"
	"testing"
)

// Shared is one control plane for all tests of a test binary, started by the
// first that asks for it. The zero value may be used; TestMain closes it:
//
//	var shared controlplane.Shared
//
//	func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }
//
//	func TestX(t *testing.T) { cp := shared.Get(t) … }
type Shared struct {
	Options Options // to be set before the first Get; progress goes to stderr by default

	once sync.Once
	cp   *ControlPlane
	err  error
}

// Get returns the control plane. If it cannot be started, each test that asks
// for it fails.
func (s *Shared) Get(t testing.TB) *ControlPlane {
	t.Helper()
	s.once.Do(func() {
		opts := s.Options
		if opts.Progress == nil {
			opts.Progress = os.Stderr
		}
		s.cp, s.err = Start(t.Context(), opts)
	})
	if s.err != nil {
		t.Fatalf("control plane: %v", s.err)
	}
	if s.cp == nil {
		t.Fatal("control plane: its start was given up by another test, or it is closed")
	}
	return s.cp
}

// Close closes the control plane, if it was started. No test may use it any
// more.
func (s *Shared) Close() error {
	s.once.Do(func() {})
	cp := s.cp
	s.cp = nil
	if cp == nil {
		return nil
	}
	return cp.Close()
}

// Run runs the tests, closes the control plane and returns the exit code.
func (s *Shared) Run(m *testing.M) int {
	code := m.Run()
	if err := s.Close(); err != nil {
		_, _ = os.Stderr.WriteString("closing the control plane: " + err.Error() + "\n")
		code = max(code, 1)
	}
	return code
}

// ForTest starts a control plane for one test, one that stops or breaks its
// servers, and closes it when the test ends. If it cannot be started the test
// fails. The logs are the test's artifacts (go test -artifacts).
func ForTest(t testing.TB, opts Options) *ControlPlane {
	t.Helper()
	if opts.LogDir == "" {
		opts.LogDir = t.ArtifactDir()
	}
	if opts.Progress == nil {
		opts.Progress = os.Stderr
	}
	cp, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("control plane: %v", err)
	}
	closeWith(t, cp.Close)
	return cp
}

// NATSForTest starts a nats-server for one test and closes it when the test
// ends. If it cannot be started the test fails. The log is the test's artifact
// (go test -artifacts).
func NATSForTest(t testing.TB, opts NATSOptions) *NATSServer {
	t.Helper()
	if opts.LogDir == "" {
		opts.LogDir = t.ArtifactDir()
	}
	if opts.Progress == nil {
		opts.Progress = os.Stderr
	}
	s, err := StartNATS(t.Context(), opts)
	if err != nil {
		t.Fatalf("NATS: %v", err)
	}
	closeWith(t, s.Close)
	return s
}

func closeWith(t testing.TB, closer func() error) {
	t.Cleanup(func() {
		if err := closer(); err != nil {
			t.Errorf("clean-up: %v", err)
		}
	})
}
