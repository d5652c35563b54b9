package nats

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/nats/embedded"
)

// healthEvery is how often the embedded server is asked whether it still stores
// what it gets.
const healthEvery = 5 * time.Second

// host runs the embedded server. The goroutine that keeps the sink's connection
// owns it.
type host struct {
	options embedded.Options
	auth    Auth
	tls     settings.TLS

	server atomic.Pointer[embedded.Server] // nil while it is not running
	known  [sha256.Size]byte               // stands for what the files had when it was started
}

func newHost(o *Options, log *slog.Logger) *host {
	e := o.Embedded
	if !e.loopback() && o.TLS.CertFile == "" {
		log.Warn("the embedded NATS server is reached from outside of the machine without TLS: passwords and events can be read on the way; name a tls.certFile", "address", e.Address)
	}
	return &host{
		options: embedded.Options{Dir: e.Dir, Address: e.Address, MaxBytes: e.MaxBytes, Logger: log},
		auth:    o.Auth, tls: o.TLS,
	}
}

// ready has the server run, with what the files of secrets and certificates
// have now. It is started anew where they have changed, which ends all
// connections of clients, and where it does not store any more.
func (h *host) ready(ctx context.Context) (*embedded.Server, error) {
	o, known, err := h.now()
	if err != nil {
		return nil, err
	}
	if s := h.server.Load(); s != nil {
		if known == h.known && s.Healthy() {
			return s, nil
		}
		if err := h.stop(); err != nil {
			return nil, err
		}
	}
	s, err := embedded.Start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("the embedded server does not start: %w", err)
	}
	h.known = known
	h.server.Store(s)
	return s, nil
}

// now are the options with what the files have, and what stands for that.
func (h *host) now() (o embedded.Options, known [sha256.Size]byte, err error) {
	o = h.options
	for _, secret := range []struct {
		key, file string
		into      *string
	}{
		{"userFile", h.auth.UserFile, &o.User},
		{"passwordFile", h.auth.PasswordFile, &o.Password},
		{"tokenFile", h.auth.TokenFile, &o.Token},
	} {
		if secret.file == "" {
			continue
		}
		content, err := settings.ReadSecret(secret.key, secret.file)
		if err != nil {
			return o, known, err
		}
		*secret.into = string(content)
	}
	var certificate [][]byte
	if h.tls.CertFile != "" {
		c, err := h.tls.Config()
		if err != nil {
			return o, known, err
		}
		o.TLS = &tls.Config{Certificates: c.Certificates, MinVersion: cmp.Or(c.MinVersion, tls.VersionTLS12)}
		certificate = c.Certificates[0].Certificate
	}
	return o, sha256.Sum256(fmt.Appendf(nil, "%q %q %q %x", o.User, o.Password, o.Token, certificate)), nil
}

// stop ends the server, if it runs.
func (h *host) stop() error {
	s := h.server.Swap(nil)
	if s == nil {
		return nil
	}
	return s.Stop()
}

// watch calls when a server that runs does not store any more, until ctx is done.
func (h *host) watch(ctx context.Context, unwell func()) {
	for sinks.Sleep(ctx, healthEvery) {
		if s := h.server.Load(); s != nil && !s.Healthy() {
			unwell()
		}
	}
}

// address is where clients find the server.
func (h *host) address() string { return "embedded, " + h.options.Address }
