package embedded

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/pkg/settings/settingstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are those of a server that has the address and directory to itself.
func options(t *testing.T) Options {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return Options{
		Dir: filepath.Join(t.TempDir(), "a", "b"), Address: listener.Addr().String(), MaxBytes: 16 << 20,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, o Options, more ...natsgo.Option) (*natsgo.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := natsgo.Connect("nats://"+o.Address, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestItKeepsWhatItTook(t *testing.T) {
	o := options(t)
	s := start(t, o)
	_, js := connect(t, o)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "k8s.one", bytes.Repeat([]byte{'x'}, MaxPayload-1024)); err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	s = start(t, o)
	defer stop(t, s)
	_, js = connect(t, o)
	stream, err := js.Stream(t.Context(), "K8S")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("it has %d messages", n)
	}
}

func TestWhatKeepsItFromStarting(t *testing.T) {
	for _, test := range []struct {
		why    string
		change func(*testing.T, *Options)
		want   string
	}{
		{"another server has the directory", func(t *testing.T, o *Options) {
			other := options(t)
			other.Dir = o.Dir
			s := start(t, other)
			t.Cleanup(func() { stop(t, s) })
		}, "is in use by another bridge, or by this one with its settings of before"},
		{"another process has the address", func(t *testing.T, o *Options) {
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", o.Address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { listener.Close() })
		}, "address already in use"},
		{"a file in the directory's place", func(_ *testing.T, o *Options) { o.Dir = "/dev/null/x" }, "dir: mkdir /dev/null: not a directory"},
		{"no port", func(_ *testing.T, o *Options) { o.Address = "127.0.0.1:nats" }, `address: "nats" is no port`},
		{"no port at all", func(_ *testing.T, o *Options) { o.Address = "127.0.0.1" }, "missing port in address"},
		{"a port that would be another one", func(_ *testing.T, o *Options) { o.Address = "127.0.0.1:0" }, `"0" is no port`},
	} {
		t.Run(test.why, func(t *testing.T) {
			o := options(t)
			test.change(t, &o)
			s, err := Start(t.Context(), o)
			if err == nil {
				stop(t, s)
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("it says\n%v, want\n%s", err, test.want)
			}
		})
	}
}

// TestTheDirectoryIsLetGo: what kept a server from starting must not keep the
// next one from it.
func TestTheDirectoryIsLetGo(t *testing.T) {
	o := options(t)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", o.Address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), o); err == nil {
		t.Fatal("it started")
	}
	listener.Close()
	stop(t, start(t, o))
}

func TestItLetsInWhoKnows(t *testing.T) {
	for _, test := range []struct {
		why    string
		change func(*Options)
		in     natsgo.Option
	}{
		{"a password", func(o *Options) { o.User, o.Password = "me", "secret" }, natsgo.UserInfo("me", "secret")},
		{"a token", func(o *Options) { o.Token = "secret" }, natsgo.Token("secret")},
	} {
		t.Run(test.why, func(t *testing.T) {
			var log settingstest.LogBook
			o := options(t)
			o.Logger = log.Logger(slog.LevelDebug)
			test.change(&o)
			s := start(t, o)
			defer stop(t, s)
			connect(t, o, test.in)
			for _, wrong := range []natsgo.Option{natsgo.UserInfo("me", "wrong"), natsgo.Token("wrong"), natsgo.Name("nobody")} {
				nc, err := natsgo.Connect("nats://"+o.Address, wrong)
				if !errors.Is(err, natsgo.ErrAuthorization) {
					t.Errorf("connecting returned %v", err)
				}
				nc.Close()
			}
			if strings.Contains(log.String(), "secret") {
				t.Errorf("the log has the secret:\n%s", log.String())
			}
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if s, err := Start(ctx, options(t)); err == nil {
		stop(t, s) // it was ready at once
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
