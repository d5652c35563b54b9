// Package natstest runs real nats-servers for tests: each as a process of its
// own, so that a test can kill it, and without a binary to build, as the test
// binary itself becomes the server when it is started as one.
//
// A package that uses it needs
//
//	func TestMain(m *testing.M) { natstest.Main(m) }
package natstest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
)

// environment tells a test binary that it is to be the server with the
// configuration file that is the variable's value.
const environment = "CRBRIDGE_NATSTEST_CONFIG"

// ready is what a server says on its standard output when it takes clients.
const ready = "ready"

// Main runs the tests, which must leave no goroutine behind, or the server if
// this process was started as one. It does not return.
func Main(m *testing.M) {
	config := os.Getenv(environment)
	if config == "" {
		code := m.Run()
		if err := goleak.Find(NotOurs()); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}
	if err := serve(config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(config string) error {
	go func() {
		// The test holds the other end: its end is ours.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		return err
	}
	s, err := server.NewServer(options)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start() // it also handles SIGHUP (reload) and SIGTERM (stop, and exit)
	if !s.ReadyForConnections(30 * time.Second) {
		return fmt.Errorf("nats-server is not ready after 30 s: see log_file of %s", config)
	}
	fmt.Println(ready)
	s.WaitForShutdown()
	return nil
}

// Server is a nats-server on 127.0.0.1, with JetStream. It keeps its port and
// its storage from Stop or Kill to Start.
type Server struct {
	Address string // host and port
	config  string
	process *exec.Cmd // nil while it is not running
	stdin   io.Closer
}

// Start starts a server with more configuration added to that for the address
// and JetStream, in the language of nats-server's configuration files. It is
// stopped when the test ends.
func Start(t testing.TB, more string) *Server {
	t.Helper()
	s := New(t, more)
	s.Start(t)
	return s
}

// NotOurs excepts a goroutine that nats.go v1.55 leaves behind: one for each
// object that was put into an object store, where its clean-up is over before
// it has read which channel to wait for (jetstream/publish.go,
// resetPendingAcksOnReconnect).
func NotOurs() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect")
}

// New is a server that is not running yet.
func New(t testing.TB, more string) *Server {
	t.Helper()
	s := &Server{Address: freeAddress(t), config: filepath.Join(t.TempDir(), "nats.conf")}
	s.write(t, more)
	t.Cleanup(func() { s.Kill(t) })
	return s
}

// URL is where clients find the server.
func (s *Server) URL() string { return "nats://" + s.Address }

func (s *Server) write(t testing.TB, more string) {
	t.Helper()
	dir := filepath.Dir(s.config)
	text := fmt.Sprintf("listen: %q\nlog_file: %q\njetstream {store_dir: %q}\n%s\n",
		s.Address, filepath.Join(dir, "nats.log"), filepath.Join(dir, "jetstream"), more)
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Start starts the server and waits until it takes clients.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(self)
	process.Env = append(os.Environ(), environment+"="+s.config)
	process.Stderr = os.Stderr
	stdout, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if s.stdin, err = process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	s.process = process
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if strings.TrimSpace(line) != ready {
		s.Kill(t)
		log, _ := os.ReadFile(filepath.Join(filepath.Dir(s.config), "nats.log"))
		t.Fatalf("nats-server does not start: %v; its log:\n%s", err, log)
	}
}

// Kill ends the server at once.
func (s *Server) Kill(t testing.TB) { s.end(t, syscall.SIGKILL) }

// Stop has the server stop in order.
func (s *Server) Stop(t testing.TB) { s.end(t, syscall.SIGTERM) }

func (s *Server) end(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if s.process == nil {
		return
	}
	s.signal(t, signal)
	_ = s.process.Wait() // killed is what it should be
	_ = s.stdin.Close()
	s.process = nil
}

// Pause has the server do nothing until Resume; its connections stay. It
// returns when all its threads stand still.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(s.process.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("pausing nats-server: status %v, %v", status, err)
	}
}

// Resume ends a Pause.
func (s *Server) Resume(t testing.TB) { t.Helper(); s.signal(t, syscall.SIGCONT) }

// Save keeps what is in the storage now. What it returns puts it back. The
// server must not be running at either time.
func (s *Server) Save(t testing.TB) (restore func(t testing.TB)) {
	t.Helper()
	storage, saved := filepath.Join(filepath.Dir(s.config), "jetstream"), filepath.Join(t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(storage)); err != nil {
		t.Fatal(err)
	}
	return func(t testing.TB) {
		t.Helper()
		if err := os.RemoveAll(storage); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(storage, os.DirFS(saved)); err != nil {
			t.Fatal(err)
		}
	}
}

// Reload has the running server take other configuration. It does not wait
// until it has.
func (s *Server) Reload(t testing.TB, more string) {
	t.Helper()
	s.write(t, more)
	s.signal(t, syscall.SIGHUP)
}

func (s *Server) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := s.process.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// freeAddress is one that nobody listens on now.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
