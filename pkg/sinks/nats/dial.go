package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/pkg/settings"
)

// dialer makes connections.
type dialer struct {
	account
	name string
	urls []string
	auth Auth
	tls  settings.TLS
	// optional tells whether the server need not let the bridge hear a subject.
	optional func(subject string) bool
	// discovered are the servers that the last session has told of, besides
	// those in urls.
	discovered []server
	host       *host // nil where others run the server
}

// server is one that can be tried.
type server struct {
	url string
	// certificate is what the server's certificate has to be for; empty means
	// the URL's host.
	certificate string
}

func newDialer(o *Options) dialer {
	return dialer{account: newAccount(o), name: o.Name, urls: o.URLs, auth: o.Auth, tls: o.TLS, optional: func(string) bool { return false }}
}

// hear takes note of the servers that a session has told of. It is all that
// there are now: what an earlier one had told of may be gone.
func (d *dialer) hear(ses *session) {
	if d.host != nil {
		return
	}
	heard := []server{ses.server} // the others are those besides it
	for _, told := range ses.nc.DiscoveredServers() {
		next := server{url: told}
		if u, err := url.Parse(told); err == nil && net.ParseIP(u.Hostname()) != nil {
			next.certificate = ses.server.named()
		}
		heard = append(heard, next)
	}
	d.discovered = slices.DeleteFunc(heard, func(s server) bool {
		return slices.ContainsFunc(d.urls, func(u string) bool { return hostPort(u) == hostPort(s.url) })
	})
}

// named is what the server's certificate has to be for.
func (s server) named() string {
	if u, err := url.Parse(s.url); err == nil && s.certificate == "" {
		return u.Hostname()
	}
	return s.certificate
}

// servers are those to try, one after the other: first those that are
// configured. Neither the first of many bridges' nor a node's should be the one
// that all try first.
func (d *dialer) servers() []server {
	all := make([]server, 0, len(d.urls)+len(d.discovered))
	for _, u := range d.urls {
		all = append(all, server{url: u})
	}
	all = append(all, d.discovered...)
	for _, part := range [][]server{all[:len(d.urls)], all[len(d.urls):]} {
		rand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
	return all
}

// dial connects to the first server that lets it. ctx ends the attempt at the
// latest when the server in turn has had its connectTimeout.
func (d *dialer) dial(ctx context.Context, p *problems) (*session, error) {
	o := natsgo.GetDefaultOptions()
	o.Name = "crbridge sink " + d.name
	o.AllowReconnect = false
	o.ReconnectBufSize = -1 // nothing is kept for a later connection
	o.Timeout = connectTimeout
	o.FlusherTimeout = writeTimeout
	o.PingInterval, o.MaxPingsOut = pingInterval, pingsOut
	o.InboxPrefix = strings.TrimSuffix(d.inbox, ".")
	o.NoEcho = true // what comes on control subjects is others'
	wipe, err := d.auth.apply(&o)
	if err != nil {
		return nil, err
	}
	defer wipe()
	if o.TLSConfig, err = d.tls.Config(); err != nil {
		return nil, err
	}
	all := d.servers()
	if d.host != nil {
		s, err := d.host.ready(ctx)
		if err != nil {
			return nil, err
		}
		o.InProcessServer, o.TLSConfig = s, nil // TLS is for those who come over the network
		all = []server{{}}
	}
	o.Secure = o.TLSConfig != nil
	failures := &failedDials{ctx: ctx}
	o.CustomDialer = failures
	var refused error
	for _, s := range all {
		ses, err := d.connect(p, o, s)
		if err == nil {
			return ses, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !errors.Is(err, errUnreachable) {
			refused = err
		}
	}
	if refused != nil {
		return nil, refused
	}
	return nil, failures.unreachable()
}

// errUnreachable stands for what failedDials knows.
var errUnreachable = errors.New("the server cannot be reached")

// refusal finds what nats-server says when it does not let a client in, such as
// "Authorization Violation" and "User Authentication Expired".
var refusal = regexp.MustCompile(`(?i)\b(authorization|authentication)\b`)

// connect tries one server.
func (d *dialer) connect(p *problems, o natsgo.Options, s server) (*session, error) {
	ses := &session{
		account: d.account, server: s, ended: make(chan struct{}), inboxDenied: make(chan struct{}), more: make(chan struct{}),
	}
	ses.denial.account = d.account
	ses.stream.turn = make(chan struct{}, 1)
	o.AsyncErrorCB = ses.serverSays(p, d.optional)
	o.ClosedCB = func(*natsgo.Conn) { close(ses.ended) }
	if s.url != "" {
		o.Servers = []string{s.url}
	}
	if s.certificate != "" && d.tls.ServerName == "" {
		if o.TLSConfig == nil {
			o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12} // if the server wants it
		}
		o.TLSConfig = o.TLSConfig.Clone()
		o.TLSConfig.ServerName = s.certificate
	}
	failures := o.CustomDialer.(*failedDials)
	before := failures.count()
	var err error
	ses.nc, err = o.Connect()
	switch {
	case err == nil:
		ses.since = time.Now()
		return ses, nil
	case errors.Is(err, natsgo.ErrNoServers), failures.count() > before:
		return nil, errUnreachable
	case refusal.MatchString(err.Error()):
		return nil, fmt.Errorf("the server refuses %s: %s", d.auth, words(err))
	}
	said := "connecting: " + words(err)
	if o.Secure && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		// In TLS 1.3 a client has shaken hands before the server looks at its
		// certificate; whether it then reads the reason before it writes into
		// a closed connection is chance.
		said += "; a server does this that does not accept the client's certificate"
	}
	return nil, errors.New(said)
}

// failedDials dials, and remembers for each server why it could not be
// reached: nats.go says only that none could be.
type failedDials struct {
	ctx context.Context // of the attempt to connect; net.Dialer's interface in nats.go has no other place for it

	mu  sync.Mutex
	why []string
}

// Dial implements nats.go's CustomDialer.
func (f *failedDials) Dial(network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	conn, err := dialer.DialContext(f.ctx, network, address)
	if err != nil {
		f.mu.Lock()
		f.why = append(f.why, words(err))
		f.mu.Unlock()
	}
	return conn, err
}

// count is how many servers could not be reached.
func (f *failedDials) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.why)
}

// unreachable is the same for the same failures, in whichever order they came.
func (f *failedDials) unreachable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.why) == 0 {
		return errors.New("no server can be reached")
	}
	slices.Sort(f.why)
	return errors.New("no server can be reached: " + strings.Join(slices.Compact(f.why), "; "))
}
