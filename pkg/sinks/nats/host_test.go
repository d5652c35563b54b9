package nats

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// embeddedSettings are those of a sink with a server of its own.
func embeddedSettings(t *testing.T) Settings {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var s Settings
	s.SetDefaults()
	s.Embedded, s.JetStream = &Embedded{}, &JetStream{}
	s.Embedded.SetDefaults()
	s.JetStream.SetDefaults()
	s.Embedded.Dir, s.Embedded.Address, s.JetStream.Stream = filepath.Join(t.TempDir(), "data"), listener.Addr().String(), "K8S"
	return s
}

// openSettings opens a sink as the bridge does.
func openSettings(t *testing.T, s Settings, env sinks.Environment) *Sink {
	t.Helper()
	env.Name, env.Cluster = "main", "demo"
	sink, err := s.Open(env)
	if err != nil {
		t.Fatal(err)
	}
	closeWhenDone(t, sink)
	return sink.(*Sink)
}

func closeWhenDone(t *testing.T, s sinks.Sink) {
	t.Helper()
	t.Cleanup(func() {
		if err := s.Close(closingContext(t)); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// TestEmbedded shows a server that is the sink's own: it is there for others,
// keeps what it has from one sink to the next, and is no one else's meanwhile.
func TestEmbedded(t *testing.T) {
	config := embeddedSettings(t)
	first := openSettings(t, config, sinks.Environment{})
	publish(t, first, change(t, "one", 1), change(t, "two", 1))
	nc := client(t, "nats://"+config.Embedded.Address)
	if got := storedIDs(t, streamsOf(t, nc)); strings.Join(got, " ") != id("one", 1)+" "+id("two", 1) {
		t.Errorf("stored are %v", got)
	}

	second := openSettings(t, config, sinks.Environment{})
	untilStatus(t, second, "the embedded server does not start: dir: "+config.Embedded.Dir+" is in use by another bridge, or by this one with its settings of before")
	guest := openSettings(t, config, sinks.Environment{Guest: true})
	eventually(t, "a command reaches it", func() (string, bool) {
		_, err := guest.Keeper().RequestResync(t.Context(), "orders")
		return fmt.Sprint(err), err == nil
	})
	if err := first.Close(closingContext(t)); err != nil {
		t.Fatal(err)
	}
	publish(t, second, change(t, "one", 2))
	eventually(t, "the subscriber is back", func() (string, bool) { return nc.Status().String(), nc.Flush() == nil })
	if got := storedIDs(t, streamsOf(t, nc)); len(got) != 3 || got[2] != id("one", 2) {
		t.Errorf("stored are %v", got)
	}
}

// TestEmbeddedTakesNewSecrets: a changed password is that of the server too, and
// nothing is lost meanwhile.
func TestEmbeddedTakesNewSecrets(t *testing.T) {
	config := embeddedSettings(t)
	password := file(t, "first")
	config.Auth = Auth{UserFile: file(t, "bridge"), PasswordFile: password}
	var log settingstest.LogBook
	s := openSettings(t, config, sinks.Environment{Logger: log.Logger(slog.LevelInfo)})
	in := func(password string) error {
		nc, err := natsgo.Connect("nats://"+config.Embedded.Address, natsgo.UserInfo("bridge", password))
		if err == nil {
			nc.Close()
		}
		return err
	}
	for version := 1; version <= 40; version++ {
		publish(t, s, change(t, "one", version))
		switch version {
		case 10:
			if err := in("first"); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(password, []byte("second"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.Reconnect()
		case 20: // files that are changed one after the other
			if err := os.Remove(password); err != nil {
				t.Fatal(err)
			}
			s.Reconnect()
			untilStatus(t, s, "passwordFile "+password+": no such file or directory")
			if err := os.WriteFile(password, []byte("third"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.Reconnect()
		}
	}
	for wrong, want := range map[string]error{"first": natsgo.ErrAuthorization, "second": natsgo.ErrAuthorization, "third": nil} {
		eventually(t, "the server knows its password", func() (string, bool) {
			err := in(wrong)
			return fmt.Sprintf("%s: %v", wrong, err), errors.Is(err, want)
		})
	}
	nc := client(t, "nats://"+config.Embedded.Address, natsgo.UserInfo("bridge", "third"))
	got := storedIDs(t, streamsOf(t, nc))
	for i, stored := range got {
		if stored != id("one", i+1) {
			t.Fatalf("event %d is %s", i, stored)
		}
	}
	if len(got) != 40 {
		t.Errorf("%d are stored", len(got))
	}
	for _, secret := range []string{"first", "second", "third"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q:\n%s", secret, log.String())
		}
	}
}

// TestEmbeddedTLS: who comes over the network has to use TLS, with the
// certificate that the files have now.
func TestEmbeddedTLS(t *testing.T) {
	authority := settingstest.NewAuthority(t, "ours")
	cert, key := authority.Issue(t, "bridge.internal")
	config := embeddedSettings(t)
	config.TLS = settings.TLS{CAFile: file(t, authority.PEM), CertFile: file(t, cert), KeyFile: file(t, key), ServerName: "bridge.internal"}
	publish(t, openSettings(t, config, sinks.Environment{}), change(t, "one", 1))
	if _, err := natsgo.Connect("nats://" + config.Embedded.Address); err == nil || !strings.Contains(err.Error(), "failed to verify certificate") {
		t.Errorf("a client that does not know the authority: %v", err)
	}
	guest := openSettings(t, config, sinks.Environment{Guest: true})
	eventually(t, "a command reaches it", func() (string, bool) {
		status := guest.Status()
		return status.LastError, status.Connected
	})
}

// TestEmbeddedIsFull: the limit holds, and says so.
func TestEmbeddedIsFull(t *testing.T) {
	config := embeddedSettings(t)
	config.Embedded.MaxBytes = fewestBytes
	s := openSettings(t, config, sinks.Environment{})
	publish(t, s, change(t, "one", 1))
	p := publisher(t, s)
	version := 1
	eventually(t, "it is full", func() (string, bool) {
		version++
		e := change(t, "one", version)
		e.Data = append(bytes.Repeat([]byte{' '}, 300<<10), '1')
		_, err := p.Publish(t.Context(), batchOf(e))
		if err == nil {
			return "taken", false
		}
		return err.Error(), strings.Contains(err.Error(), "insufficient resources (10023)")
	})
}

// TestEmbeddedThatGaveUp: a server that could not write, and so takes nothing
// any more, is started again.
func TestEmbeddedThatGaveUp(t *testing.T) {
	config := embeddedSettings(t)
	s := openSettings(t, config, sinks.Environment{})
	publish(t, s, change(t, "one", 1))
	before := s.host.server.Load()
	if err := before.DisableJetStream(); err != nil { // what nats-server does itself where its disk fails
		t.Fatal(err)
	}
	begin := time.Now()
	publish(t, s, change(t, "one", 2))
	if s.host.server.Load() == before {
		t.Error("it is the same server")
	}
	if got := storedIDs(t, streamsOf(t, client(t, "nats://"+config.Embedded.Address))); len(got) != 2 {
		t.Errorf("after %v stored are %v", time.Since(begin), got)
	}
}
