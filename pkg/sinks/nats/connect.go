package nats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	server server
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
		s.listen(ses)
		s.problems.connect(s.dialer.connectedTo(ses), func() { s.current.Store(ses) })
		s.hints.give(nil) // a request may have been made meanwhile
		mended := ses.wait(ctx, s.anew)
		s.current.Store(nil)
		s.dialer.hear(ses)
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
