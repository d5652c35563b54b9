//go:build unix

package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/crbridge/crbridge/test/process"
	"github.com/crbridge/crbridge/test/servers"
)

// NATSOptions change how a nats-server runs. The zero value is a good default.
type NATSOptions struct {
	// Config is added to the server's configuration file, for example an
	// authorization block; JetStream is added to its jetstream block, for
	// example "sync_interval: always".
	Config    string
	JetStream string

	// Cluster is added to the cluster block of a NATSCluster's nodes, for example
	// "no_advertise: true".
	Cluster string

	// StoreDir is where the streams are; Close leaves it alone. Default: a
	// directory that Close removes.
	StoreDir string

	// Port is the port for clients, Host the IP address. Default: a free one of
	// 127.0.0.1.
	Port int
	Host string

	// LogDir gets nats-server.log; it must exist, and Close leaves it alone.
	// Default: a directory that Close removes.
	LogDir string

	// Progress is told of a build of the server. Default: nothing is told.
	Progress io.Writer
}

// NATSServer is a nats-server with JetStream, a process on loopback. It keeps
// its port and its streams when it is stopped, killed or paused, and started
// again.
type NATSServer struct {
	*process.Process

	opts          NATSOptions
	dir, storeDir string
	port          int

	close    sync.Once
	closeErr error
}

// StartNATS starts a nats-server, having built it if need be, and returns when
// it accepts clients and JetStream is up, with its streams recovered. Ctx
// bounds the start only. The caller must Close what it gets.
func StartNATS(ctx context.Context, opts NATSOptions) (_ *NATSServer, err error) {
	path, err := servers.Path(ctx, servers.NATSServer, opts.Progress)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "crbridge-nats-")
	if err != nil {
		return nil, err
	}
	s := &NATSServer{dir: dir, storeDir: opts.StoreDir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.storeDir == "" {
		s.storeDir = filepath.Join(dir, "store")
	}
	if opts.LogDir == "" {
		opts.LogDir = dir
	}
	start := func(port int) error {
		s.port = port
		return s.start(ctx, path, opts)
	}
	if opts.Port != 0 {
		return s, start(opts.Port)
	}
	return s, onFreePort(ctx, start)
}

func (s *NATSServer) start(ctx context.Context, path string, opts NATSOptions) error {
	s.opts = opts
	if err := s.configure(opts.Config); err != nil {
		return err
	}
	s.Process = process.New(process.Command{
		Name:    "nats-server",
		Path:    path,
		Args:    []string{"--config", s.configFile()},
		LogFile: filepath.Join(opts.LogDir, "nats-server.log"),
		Ready:   s.ready,
	})
	return s.Start(ctx)
}

func (s *NATSServer) configFile() string { return filepath.Join(s.dir, "nats-server.conf") }

func (s *NATSServer) configure(more string) error {
	return os.WriteFile(s.configFile(), s.config(more), 0o600)
}

// Reload has the running server take another NATSOptions.Config, and returns
// when it has.
func (s *NATSServer) Reload(ctx context.Context, more string) error {
	loaded := func() (at time.Time, err error) {
		var answer struct {
			At time.Time `json:"config_load_time"`
		}
		err = s.ask(ctx, "/varz", &answer)
		return answer.At, err
	}
	before, err := loaded()
	if err != nil {
		return err
	}
	if err := s.configure(more); err != nil {
		return err
	}
	if err := s.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	for {
		at, err := loaded()
		if err == nil && at.After(before) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was not told by the server to be in force: %w; %w", s.configFile(), ctx.Err(), err)
		case <-time.After(reloadPoll):
		}
	}
}

// reloadPoll is how often a server is asked whether it has taken its
// configuration.
const reloadPoll = 20 * time.Millisecond

// config lets the server choose a port for its own HTTP endpoints, which it
// writes into a file in the server's directory.
func (s *NATSServer) config(more string) []byte {
	return fmt.Appendf(nil, `listen: %q
http: "127.0.0.1:-1"
ports_file_dir: %q
jetstream {
  store_dir: %q
  %s
}
%s
`, s.Address(), s.dir, s.storeDir, s.opts.JetStream, more)
}

// ready asks the server's health endpoint, which answers for JetStream too. Its
// address is in a file that is named after the process, so the answer is not
// that of another server on the port.
func (s *NATSServer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	pattern := filepath.Join(s.dir, fmt.Sprintf("*_%d.ports", s.PID()))
	files, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("%d files match %s", len(files), pattern)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	var ports struct {
		Monitoring []string `json:"monitoring"`
	}
	if err := json.Unmarshal(content, &ports); err != nil {
		return fmt.Errorf("%s: %w", files[0], err)
	}
	if len(ports.Monitoring) == 0 {
		return fmt.Errorf("%s: no monitoring address", files[0])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return getOK(ctx, client, strings.TrimSuffix(ports.Monitoring[0], "/")+"/healthz")
}

// URL returns the server's address for clients.
func (s *NATSServer) URL() string { return "nats://" + s.Address() }

// Address returns where the server takes clients, host:port.
func (s *NATSServer) Address() string {
	return net.JoinHostPort(cmp.Or(s.opts.Host, "127.0.0.1"), strconv.Itoa(s.port))
}

// StoreDir returns the directory that the streams are in.
func (s *NATSServer) StoreDir() string { return s.storeDir }

// Close kills the server, waits until it is gone and removes what is not the
// caller's. It may be called more than once.
func (s *NATSServer) Close() error {
	s.close.Do(func() {
		if s.Process != nil {
			s.Kill()
		}
		s.closeErr = os.RemoveAll(s.dir)
	})
	return s.closeErr
}
