package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// connectTimeout is for one server: to be reached, and to have shaken hands.
	connectTimeout = 5 * time.Second
	// pingInterval and pingsOut bound how long a server that went without a
	// word is taken for alive: 20 s to 30 s.
	pingInterval = 10 * time.Second
	pingsOut     = 2
	// writeTimeout bounds how long a server may leave bytes unread.
	writeTimeout = 10 * time.Second
	// inboxRetry is how long a connection is kept on which the server lets no
	// answers in. Only a new one can subscribe to them again.
	inboxRetry = 30 * time.Second
)

// session is one connection to a server, from the handshake to its end. A
// connection that ends is not mended, a new session takes its place: so bytes
// of one never get into the next, secrets and authorities are read anew, and
// every failure of a handshake is seen. (nats.go's own reconnect keeps the
// public nkey and the CA pool of the first connection, says nothing of a
// failed TLS handshake, and gives up after the second refusal.)
type session struct {
	account
	nc     *natsgo.Conn
	js     jetstream.JetStream // nil for core NATS
	ended  chan struct{}       // closed when the connection is closed and its last callback has run
	since  time.Time
	denial denials
	stream streamState
	shelf  shelf

	inboxDenied chan struct{} // closed when the server refuses the subscription to answers

	mu     sync.Mutex
	reason error         // the last that the server said
	heard  error         // the last of what nats.go has told, reason or not
	more   chan struct{} // closed and replaced when heard is another
}

// heardAll waits until all is heard that the server has said up to now: nats.go
// tells of it later than of messages.
func (ses *session) heardAll(ctx context.Context) error {
	for {
		ses.mu.Lock()
		heard, more := ses.heard, ses.more
		ses.mu.Unlock()
		if last := ses.nc.LastError(); last == heard { //nolint:errorlint // this one, and not one like it
			return nil
		}
		select {
		case <-more:
		case <-ses.ended:
			return errors.New(ses.whyEnded())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// dialer makes connections.
type dialer struct {
	account
	name string
	urls []string
	auth Auth
	tls  settings.TLS
	// optional tells whether the server need not let the bridge hear a subject.
	optional func(subject string) bool
	// discovered are the servers that the last session heard of.
	discovered []string
	host       *host // nil where others run the server
}

func newDialer(o *Options) dialer {
	return dialer{account: newAccount(o), name: o.Name, urls: o.URLs, auth: o.Auth, tls: o.TLS, optional: func(string) bool { return false }}
}

// connectedTo names the server of a session for people.
func (d *dialer) connectedTo(ses *session) string {
	if d.host != nil {
		return d.host.address()
	}
	return ses.nc.ConnectedAddr()
}

// keepConnected has one session after the other until ctx is done.
func (s *Sink) keepConnected(ctx context.Context) {
	defer s.problems.Closed()
	defer func() {
		if s.host != nil {
			if err := s.host.stop(); err != nil {
				s.log.Warn("the embedded NATS server did not stop as it should", "error", err)
			}
		}
	}()
	for attempt := 0; ; attempt++ {
		if attempt > 0 && !s.pause(ctx, sinks.Backoff(attempt)) {
			return
		}
		ses, err := s.dialer.dial(ctx, s.problems)
		if ctx.Err() != nil {
			if err == nil {
				ses.close()
			}
			return
		}
		if err != nil {
			s.problems.Disconnect(err.Error())
			continue
		}
		if s.jetstream != nil {
			// None of it can be wrong.
			ses.js, _ = jetstream.NewWithAPIPrefix(ses.nc, ses.api, jetstream.WithPublishAsyncTimeout(ackTimeout),
				jetstream.WithPublishAsyncMaxPending(maxPending))
		}
		s.problems.connect(s.dialer.connectedTo(ses))
		s.listen(ses)
		s.current.Store(ses)
		s.hints.give(nil) // a request may have been made meanwhile
		mended := ses.wait(ctx, s.anew)
		s.current.Store(nil)
		s.dialer.discovered = ses.nc.DiscoveredServers()
		ses.close()
		if ctx.Err() != nil {
			return
		}
		if !mended {
			s.problems.Disconnect(ses.whyEnded())
		}
		if time.Since(ses.since) > sinks.LongestBackoff || mended {
			attempt = 0 // it worked for a while; otherwise go on slowing down
		}
	}
}

// pause waits before the next attempt to connect. It is cut short where secrets
// have changed, and tells whether ctx let it.
func (s *Sink) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.anew:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// wait returns when the session has ended or is of no more use. mended tells
// that it is the bridge which wants a new one.
func (ses *session) wait(ctx context.Context, anew <-chan struct{}) (mended bool) {
	select {
	case <-ses.ended:
	case <-ctx.Done():
	case <-anew:
		return true
	case <-ses.inboxDenied:
		ctx, cancel := context.WithTimeout(ctx, inboxRetry)
		defer cancel()
		select {
		case <-ses.ended:
		case <-ctx.Done():
			return true
		}
	}
	return false
}

func (ses *session) close() {
	ses.nc.Close()
	<-ses.ended
}

// whyEnded is in words that do not differ from time to time.
func (ses *session) whyEnded() string {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	err := ses.reason
	if err == nil {
		err = ses.nc.LastError()
	}
	if err == nil || errors.Is(err, io.EOF) {
		return "the server closed the connection"
	}
	return "the connection ended: " + words(err)
}

// refusal finds what nats-server says when it does not let a client in, such as
// "Authorization Violation" and "User Authentication Expired".
var refusal = regexp.MustCompile(`(?i)\b(authorization|authentication)\b`)

// dial connects to the first server that lets it. ctx ends the attempt at the
// latest when the server in turn has had its connectTimeout.
func (d *dialer) dial(ctx context.Context, p *problems) (*session, error) {
	ses := &session{account: d.account, ended: make(chan struct{}), inboxDenied: make(chan struct{}), more: make(chan struct{})}
	ses.denial.account = d.account
	ses.stream.turn = make(chan struct{}, 1)
	failures := &failedDials{ctx: ctx}
	o := natsgo.GetDefaultOptions()
	o.Servers = append(slices.Clone(d.urls), d.discovered...)
	o.Name = "crbridge sink " + d.name
	o.AllowReconnect = false
	o.ReconnectBufSize = -1 // nothing is kept for a later connection
	o.Timeout = connectTimeout
	o.FlusherTimeout = writeTimeout
	o.PingInterval, o.MaxPingsOut = pingInterval, pingsOut
	o.CustomDialer = failures
	o.AsyncErrorCB = ses.serverSays(p, d.optional)
	o.ClosedCB = func(*natsgo.Conn) { close(ses.ended) }
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
	if d.host != nil {
		s, err := d.host.ready(ctx)
		if err != nil {
			return nil, err
		}
		o.InProcessServer, o.TLSConfig = s, nil // TLS is for those who come over the network
	}
	o.Secure = o.TLSConfig != nil
	ses.nc, err = o.Connect()
	switch {
	case err == nil:
		ses.since = time.Now()
		return ses, nil
	case errors.Is(err, natsgo.ErrNoServers):
		return nil, failures.unreachable()
	case refusal.MatchString(err.Error()):
		return nil, fmt.Errorf("the server refuses %s: %s", d.auth, words(err))
	}
	said := "connecting: " + words(err)
	if o.TLSConfig != nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		// In TLS 1.3 a client has shaken hands before the server looks at its
		// certificate; whether it then reads the reason before it writes into
		// a closed connection is chance.
		said += "; a server does this that does not accept the client's certificate"
	}
	return nil, errors.New(said)
}

// serverSays is told of what the server says by the way.
func (ses *session) serverSays(p *problems, optional func(string) bool) natsgo.ErrHandler {
	return func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) {
		defer func() {
			ses.mu.Lock()
			defer ses.mu.Unlock()
			close(ses.more)
			ses.heard, ses.more = err, make(chan struct{})
		}()
		match := violation.FindStringSubmatch(err.Error())
		if match == nil {
			ses.mu.Lock()
			ses.reason = err
			ses.mu.Unlock()
			return
		}
		verb, subject := "publish", match[2]
		if match[1] == "Subscription" {
			verb = "subscribe"
			if optional(subject) {
				return
			}
		}
		if ses.isInbox(subject) {
			subject = ses.inbox + ">" // the rest is random
			select {
			case <-ses.inboxDenied: // callbacks run one at a time
			default:
				close(ses.inboxDenied)
			}
		}
		said := fmt.Sprintf("the server does not permit the bridge to %s to %s (it says: Permissions Violation)", verb, subject)
		p.deny(subject, said)
		ses.denial.tell(denial{subject: subject, words: said})
	}
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

// words is the error without what differs from time to time, such as the
// local port, and without the library's prefix.
func words(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		inner := op.Err
		for next := errors.Unwrap(inner); next != nil; next = errors.Unwrap(inner) {
			inner = next
		}
		if op.Addr != nil {
			return fmt.Sprintf("%s %s: %s", op.Op, op.Addr, inner)
		}
		return fmt.Sprintf("%s: %s", op.Op, inner)
	}
	return strings.TrimPrefix(err.Error(), "nats: ")
}
