// Package embedded runs a nats-server with JetStream in this process, for those
// who have no NATS. What it acknowledges is on the disk.
package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
)

// Options say where a server keeps what it has, and whom it lets in.
type Options struct {
	// Dir keeps the streams. It is made where it is missing, and one server at
	// a time can use it.
	Dir string
	// Address is the host and port to listen at; no host means all addresses.
	Address string
	// MaxBytes is how large all streams may get together.
	MaxBytes int64
	// User and Password, or Token, are what clients have to know; empty means
	// that they need not know any.
	User, Password, Token string
	// TLS is what clients over the network have to use; nil means that they
	// need not.
	TLS *tls.Config
	// Logger gets what the server warns of.
	Logger *slog.Logger
}

const (
	// MaxPayload is how large a message may be. Objects of the API server have
	// 1.5 MiB at most by default (etcd's --max-request-bytes), and an event may
	// have an object twice.
	MaxPayload = 4 << 20
	// MaxConnections is how many clients there may be at a time.
	MaxConnections = 256
	// maxMemory is for streams and consumers that clients keep in memory.
	maxMemory = 64 << 20
	// startTimeout is for the streams to be read and the address to be taken.
	startTimeout = 30 * time.Second
	tlsTimeout   = 5 // seconds
)

// Server is a running server.
type Server struct {
	*server.Server
	lock *flock.Flock
}

// Start starts a server, and returns when clients can connect.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	host, text, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("address: %q is no port", text)
	}
	if host == "" {
		host = server.DEFAULT_HOST
	}
	lock, err := take(o.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	messages := &messages{log: o.Logger, fatal: make(chan struct{})}
	s, err := server.NewServer(&server.Options{
		ServerName: "crbridge", Host: host, Port: int(port), NoSigs: true,
		JetStream: true, StoreDir: o.Dir, JetStreamMaxStore: o.MaxBytes, JetStreamMaxMemory: maxMemory, SyncAlways: true,
		MaxConn: MaxConnections, MaxPayload: MaxPayload,
		Username: o.User, Password: o.Password, Authorization: o.Token,
		TLS: o.TLS != nil, TLSConfig: o.TLS, TLSTimeout: tlsTimeout,
	})
	if err != nil {
		return nil, err
	}
	s.SetLoggerV2(messages, false, false, false)
	s.Start()
	if err := ready(ctx, s, messages); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, err
	}
	return &Server{s, lock}, nil
}

// take makes a directory this process' own, as nats-server does not: two of them
// would destroy what the directory has.
func take(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
	switch ours, err := lock.TryLock(); {
	case err != nil:
		return nil, fmt.Errorf("dir: locking %s: %w", lock.Path(), err)
	case !ours:
		return nil, errors.Join(fmt.Errorf("dir: %s is in use by another bridge, or by this one with its settings of before", dir), lock.Close())
	}
	return lock, nil
}

// ready waits until clients can connect, or the server says why they never can.
func ready(ctx context.Context, s *server.Server, said *messages) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	const step = 50 * time.Millisecond
	for {
		if s.ReadyForConnections(step) {
			return nil
		}
		select {
		case <-said.fatal:
			return errors.New(said.why())
		case <-ctx.Done():
			return fmt.Errorf("not ready for clients: %w", context.Cause(ctx))
		default:
		}
	}
}

// Healthy tells whether the server still stores what it gets. One that could
// not write to its disk has given up, and takes nothing until it is started
// again.
func (s *Server) Healthy() bool { return s.Running() && s.JetStreamEnabled() }

// Stop ends the server, and returns when its streams are closed.
func (s *Server) Stop() error {
	s.Shutdown()
	s.WaitForShutdown()
	return s.lock.Close()
}

// messages are what the server says, in the bridge's log: it says much that
// only who runs servers wants to know.
type messages struct {
	log *slog.Logger

	mu    sync.Mutex
	last  string
	fatal chan struct{} // closed when the server has said that it cannot go on
}

// Noticef implements nats-server's Logger, as the others do.
func (m *messages) Noticef(format string, v ...any) { m.say(slog.LevelDebug, format, v...) }

// Warnf is what the operator should know.
func (m *messages) Warnf(format string, v ...any) { m.say(slog.LevelWarn, format, v...) }

// Errorf is what went wrong; most of it are clients.
func (m *messages) Errorf(format string, v ...any) { m.say(slog.LevelWarn, format, v...) }

// Debugf is not called.
func (m *messages) Debugf(string, ...any) {}

// Tracef is not called.
func (m *messages) Tracef(string, ...any) {}

// Fatalf is the server's last word; it expects the process to end, and does
// nothing more.
func (m *messages) Fatalf(format string, v ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == "" {
		m.last = strings.TrimSpace(fmt.Sprintf(format, v...))
		close(m.fatal)
	}
}

func (m *messages) why() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

func (m *messages) say(level slog.Level, format string, v ...any) {
	m.log.Log(context.Background(), level, "embedded NATS server", "says", strings.TrimSpace(fmt.Sprintf(format, v...)))
}
