package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Options say where a sink leads and how it gets there.
type Options struct {
	// Name is what people call the sink: in the log, in errors, in metrics.
	Name string
	// Cluster is what people call the Kubernetes cluster that the events come from.
	Cluster string
	// URLs are the servers to try, at least one. A user or password in them
	// is refused: secrets are in files.
	URLs []string
	// Embedded has the sink run the server itself, and go to that.
	Embedded *Embedded
	// Subject is what an event is published to.
	Subject *events.SubjectTemplate
	// Mode is the content mode; empty means Binary.
	Mode sinks.Mode
	Auth Auth
	TLS  settings.TLS
	// InboxPrefix is what the subjects begin with on which the server's answers
	// come, for an account that lets its users hear only answers of their own;
	// empty means _INBOX.
	InboxPrefix string
	// JetStream is the stream to publish to; nil means core NATS.
	JetStream *JetStream
	// Logger gets one line per change of the sink's state; nil discards them.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *sinks.Metrics
}

// Storage is where a stream keeps its messages.
type Storage string

// The kinds of storage.
const (
	File   Storage = "file" // also what the empty value means
	Memory Storage = "memory"
)

const (
	// ackTimeout is how long the server may take for an acknowledgement or an
	// answer. A stream that elects a new leader needs a few seconds.
	ackTimeout = 10 * time.Second
	// maxInFlight bounds what all publishers together have published without
	// an acknowledgement, in bytes as events.Event.Size counts.
	maxInFlight = 16 << 20
)

// Sink is a NATS sink. It keeps one connection for all its publishers.
type Sink struct {
	name       string
	cluster    string
	owner      string // of the claims that this process makes
	subject    *events.SubjectTemplate
	mode       sinks.Mode
	jetstream  *JetStream
	dialer     dialer
	log        *slog.Logger
	suppressed *sinks.Counter // nil without JetStream
	problems   *problems
	notes      notes
	host       *host // nil where others run the server

	current     atomic.Pointer[session]      // nil while there is no connection
	seen        atomic.Pointer[sinks.Stream] // how the stream was; nil before the first look
	anew        chan struct{}                // holds a token while a new connection is wanted
	inFlight    *semaphore.Weighted
	openBatches *semaphore.Weighted
	tails       *tails
	kept        kept
	hints       hints
	unheard     unheard

	publishing sinks.Gate

	// stop ends the goroutine that keeps the connection; stopped is closed
	// when it has ended.
	stop    context.CancelFunc
	stopped chan struct{}
}

// Open opens a sink and connects it in the background, until it is closed. It
// fails only for options that cannot work however often they are tried. A
// server that is not there or a secret that is not there yet is no such thing:
// Status tells it, and the sink goes on trying.
func Open(o Options) (*Sink, error) {
	if err := check(&o); err != nil {
		return nil, fmt.Errorf("sink %s: %w", o.Name, err)
	}
	ctx, stop := context.WithCancel(context.Background()) // ended by Close
	s := &Sink{
		name:      o.Name,
		cluster:   o.Cluster,
		owner:     owner(),
		subject:   o.Subject,
		mode:      o.Mode,
		jetstream: o.JetStream,
		dialer:    newDialer(&o),
		log:       o.Logger.With("sink", o.Name),
		inFlight:  semaphore.NewWeighted(maxInFlight),
		stop:      stop,
		stopped:   make(chan struct{}),

		openBatches: semaphore.NewWeighted(maxOpenBatches),
	}
	s.dialer.optional = s.optional
	s.anew = make(chan struct{}, 1)
	s.hints.given, s.kept.repaced = make(chan struct{}, 1), make(chan struct{}, 1)
	s.tails = &tails{sink: s, ctx: ctx, changed: make(chan struct{}, 1)}
	s.problems = newProblems(s.log)
	if o.Embedded != nil {
		s.host = newHost(&o, s.log)
		s.dialer.host = s.host
	}
	if s.jetstream != nil {
		s.suppressed = o.Metrics.Suppressed(s.name)
	} else {
		s.unheard.counter = o.Metrics.Unheard(s.name)
		s.log.Warn("sink without JetStream: events reach whoever listens at that moment, at most once")
	}
	go func() {
		defer close(s.stopped)
		var keeping sync.WaitGroup
		keeping.Go(func() { s.keepLedgers(ctx) })
		keeping.Go(func() { s.lookInto(ctx) })
		if s.host != nil {
			keeping.Go(func() { s.host.watch(ctx, s.Reconnect) })
		}
		s.keepConnected(ctx)
		keeping.Wait()
		s.tails.passes.Wait()
	}()
	return s, nil
}

// optional tells whether the bridge can do without hearing a subject: control
// messages are read anyway, and core NATS answers only where nobody listens.
func (s *Sink) optional(subject string) bool {
	if s.jetstream != nil {
		return subject == s.controlPrefix()+">"
	}
	if s.dialer.isInbox(subject) {
		s.unheard.cannot(s.log, s.dialer.inbox+">")
		return true
	}
	return false
}

// owner names this process to people who read of it in another's log.
func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return host + "/" + uuid.NewString()
}

// check refuses what can never work and fills in defaults.
func check(o *Options) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Subject == nil {
		return errors.New("no subject")
	}
	switch o.Mode {
	case "":
		o.Mode = sinks.Binary
	case sinks.Binary, sinks.Structured:
	default:
		return fmt.Errorf("mode %q: there are binary and structured", o.Mode)
	}
	if len(o.URLs) == 0 {
		return errors.New("no url")
	}
	for i, raw := range o.URLs {
		u, err := url.Parse(raw)
		switch {
		case err != nil || u.Host == "":
			return fmt.Errorf("url %d of %d is not like nats://host:4222", i+1, len(o.URLs)) // it may hold a password: not repeated
		case u.User != nil:
			return fmt.Errorf("url %d of %d, with host %s, holds a user: credentials are in files", i+1, len(o.URLs), u.Host)
		}
	}
	if err := o.Auth.check(); err != nil {
		return err
	}
	if err := o.TLS.Check(); err != nil {
		return err
	}
	return o.JetStream.check()
}

func (o *JetStream) check() error {
	if o == nil {
		return nil
	}
	if !streamName.MatchString(o.Stream) {
		return fmt.Errorf("stream %q: a stream's name has no white space and none of . * > / \\", o.Stream)
	}
	switch o.Storage {
	case "", File, Memory:
		return nil
	}
	return fmt.Errorf("storage %q: there are file and memory", o.Storage)
}

// Publisher is the flow's way into the sink. With JetStream it is the flow's
// journal.Journal as well.
func (s *Sink) Publisher(f sinks.Flow) sinks.Publisher {
	if s.jetstream == nil {
		return &corePublisher{sink: s}
	}
	return s.streamPublisher(f, "")
}

func (s *Sink) streamPublisher(f sinks.Flow, foreign string) *streamPublisher {
	resource, group, _ := strings.Cut(f.CRD, ".")
	return &streamPublisher{
		sink: s, flow: f, foreign: foreign, turn: semaphore.NewWeighted(1),
		subject: s.controlSubject(f, foreign),
		source:  source(s.cluster, f),
		pattern: s.subject.Pattern(events.Fields{Cluster: s.cluster, Group: group, Resource: resource, Route: f.Route}),
	}
}

// Status is how the sink is now. It does not block.
func (s *Sink) Status() sinks.Status {
	status := s.problems.Status("nats", s.name)
	status.Stream = s.seen.Load()
	status.Notes = append(s.notes.all(), s.unheard.notes()...)
	if ses := s.current.Load(); ses != nil && s.jetstream != nil {
		if fit, f, _ := ses.stream.known(time.Time{}); fit {
			status.Batches = f.batches()
		}
	}
	return status
}

// Reconnect makes a new connection, with what the files of secrets and
// authorities have now. Nothing is lost: what was on its way is found out about
// as after any other loss of the connection.
func (s *Sink) Reconnect() {
	select {
	case s.anew <- struct{}{}:
	default:
	}
}

// Close refuses new batches, waits for those on their way, and closes the
// connection. When ctx is done it waits no longer: what is on its way then
// fails, though the server may still get it. It may be called again.
func (s *Sink) Close(ctx context.Context) error {
	unfinished := s.publishing.Close(ctx)
	s.stop()
	s.suppressed.Close()
	s.unheard.counter.Close()
	select {
	case <-s.stopped:
	case <-ctx.Done():
		// Nothing in there waits for longer than a write or a handshake may
		// take; but the caller does not want to wait even for that.
		return fmt.Errorf("sink %s: closing the connection: %w", s.name, ctx.Err())
	}
	if unfinished != nil {
		return fmt.Errorf("sink %s: closed before all that was on its way was acknowledged: %w", s.name, unfinished)
	}
	return nil
}

// fail is the error of a publisher.
func (s *Sink) fail(err error) error { return fmt.Errorf("sink %s: %w", s.name, err) }

// session is the connection that there is now.
func (s *Sink) session() (*session, error) {
	if ses := s.current.Load(); ses != nil {
		return ses, nil
	}
	if _, problem := s.problems.Now(); problem != "" {
		return nil, errors.New(problem)
	}
	return nil, errors.New("not connected yet")
}
