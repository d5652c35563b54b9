package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// errSubjectOverlap is JSStreamSubjectOverlapErr of nats-server.
const errSubjectOverlap jetstream.ErrorCode = 10065

// streamState is what a session knows of the stream. It takes the stream for
// fit until something is refused.
type streamState struct {
	turn chan struct{} // holds a token while one publisher looks

	mu     sync.Mutex
	stream jetstream.Stream // for requests about it
	fit    bool
	facts  facts // if it is fit
	looked time.Time
	found  error // by the last look

	// The first look of the session saw that stream end there: what was
	// durable in an earlier session is not behind it.
	firstCreated time.Time
	firstLast    uint64
}

// facts are what publishers need to know of a stream that is fit.
type facts struct {
	created           time.Time
	last              uint64 // sequence of its last message when the session first looked at it
	fenced            bool   // it takes control messages
	replicas          int
	atomic            bool  // it takes batches that are written as a whole
	maxMsgSize        int64 // 0 means without limit
	maxMsgsPerSubject int64 // 0 and less mean without limit
	maxAge            time.Duration
	pushesOut         bool // when it is full, what is new takes the place of what is old
}

// handle is the stream, for requests about it.
func (st *streamState) handle(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	st.mu.Lock()
	stream := st.stream
	st.mu.Unlock()
	if stream != nil {
		return stream, nil
	}
	stream, err := js.Stream(ctx, name)
	if err == nil {
		st.mu.Lock()
		st.stream = stream
		st.mu.Unlock()
	}
	return stream, err
}

// doubt has the stream looked at again before anything else is published.
func (st *streamState) doubt() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.fit = false
}

// known is what a look that ended after since has found, if there was one.
func (st *streamState) known(since time.Time) (fit bool, f facts, found error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.fit {
		return true, st.facts, nil
	}
	if st.looked.After(since) {
		return false, facts{}, st.found
	}
	return false, facts{}, nil
}

// ensureStream sees to it that the stream is there and fit, once per session
// and again after doubt. Publishers that come at the same time share one look.
func (s *Sink) ensureStream(ctx context.Context, ses *session) (facts, error) {
	asked := time.Now()
	if fit, f, _ := ses.stream.known(asked); fit {
		return f, nil
	}
	select {
	case ses.stream.turn <- struct{}{}:
		defer func() { <-ses.stream.turn }()
	case <-ses.ended:
		return facts{}, errEnded
	case <-ctx.Done():
		return facts{}, ctx.Err()
	}
	fit, f, found := ses.stream.known(asked)
	if fit || found != nil {
		return f, found
	}
	f, err := s.look(ctx, ses)
	if ctx.Err() != nil && err != nil {
		return facts{}, err // says nothing of the stream
	}
	ses.stream.mu.Lock()
	if err == nil {
		if !ses.stream.firstCreated.Equal(f.created) {
			ses.stream.firstCreated, ses.stream.firstLast = f.created, f.last
		}
		f.last = ses.stream.firstLast
	}
	ses.stream.fit, ses.stream.facts, ses.stream.looked, ses.stream.found = err == nil, f, time.Now(), err
	ses.stream.mu.Unlock()
	if err != nil {
		s.problems.unfit(err.Error())
		return facts{}, err
	}
	s.problems.fit()
	s.problems.allowed(ses.isAPI)
	return f, nil
}

// look asks for the stream, and gives up when the server denies that.
func (s *Sink) look(ctx context.Context, ses *session) (facts, error) {
	ctx, done := ses.patience(ctx, ses.isAPI)
	defer done()
	info, err := s.getOrCreate(ctx, ses.js)
	if err != nil {
		return facts{}, fmt.Errorf("stream %s: %w", s.jetstream.Stream, because(ctx, err))
	}
	s.saw(info)
	if reasons := s.unfit(&info.Config); len(reasons) > 0 {
		return facts{}, fmt.Errorf("stream %s does not fit: %s", s.jetstream.Stream, strings.Join(reasons, "; "))
	}
	s.notes.set(s.log, noteStream, s.differences(&info.Config)...)
	return facts{
		created:           info.Created,
		last:              info.State.LastSeq,
		fenced:            covered(controlSubjects(info.Config.Name), info.Config.Subjects),
		replicas:          info.Config.Replicas,
		atomic:            info.Config.AllowAtomicPublish,
		maxMsgSize:        max(0, int64(info.Config.MaxMsgSize)),
		maxMsgsPerSubject: info.Config.MaxMsgsPerSubject,
		maxAge:            info.Config.MaxAge,
		pushesOut:         info.Config.Discard == jetstream.DiscardOld && (info.Config.MaxMsgs > 0 || info.Config.MaxBytes > 0),
	}, nil
}

// saw takes note of how the stream is, for the status.
func (s *Sink) saw(info *jetstream.StreamInfo) {
	limit := func(n int64) uint64 { return uint64(max(0, n)) }
	s.seen.Store(&sinks.Stream{
		Name: info.Config.Name, Storage: storageName(info.Config.Storage), Replicas: info.Config.Replicas,
		Messages: info.State.Msgs, Bytes: info.State.Bytes, Oldest: info.State.FirstTime,
		MaxAge: info.Config.MaxAge, MaxBytes: limit(info.Config.MaxBytes), MaxMessages: limit(info.Config.MaxMsgs),
		MaxOfSubject: limit(info.Config.MaxMsgsPerSubject), DiscardsNew: info.Config.Discard == jetstream.DiscardNew,
		Looked: time.Now(),
	})
}

var errMissing = errors.New("it does not exist, and jetstream.create is false: create it, or set jetstream.create to true")

func (s *Sink) getOrCreate(ctx context.Context, js jetstream.JetStream) (*jetstream.StreamInfo, error) {
	found, err := js.Stream(ctx, s.jetstream.Stream)
	if err == nil {
		return found.CachedInfo(), nil
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, apiWords(err)
	}
	if !s.jetstream.Create {
		return nil, errMissing
	}
	wanted := s.streamConfig()
	created, err := js.CreateStream(ctx, wanted)
	switch {
	case err == nil:
		s.log.Info("stream created", "stream", wanted.Name, "subjects", wanted.Subjects)
		return created.CachedInfo(), nil
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		// Somebody else was faster, another bridge perhaps. Theirs is as good
		// as one that was there before.
		if found, err = js.Stream(ctx, s.jetstream.Stream); err == nil {
			return found.CachedInfo(), nil
		}
		return nil, apiWords(err)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == errSubjectOverlap {
		if err := s.taken(ctx, js, wanted.Subjects); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("it does not exist and cannot be created: another stream has some of the subjects %s, and no two streams can share a subject; use that stream, or another subject",
			list(wanted.Subjects))
	}
	return nil, fmt.Errorf("it does not exist and cannot be created: %w", apiWords(err))
}

// taken says which stream has which of the subjects; nil where it finds none.
func (s *Sink) taken(ctx context.Context, js jetstream.JetStream, subjects []string) error {
	var taken []string
	for _, subject := range subjects {
		other, err := js.StreamNameBySubject(ctx, subject)
		if err == nil {
			taken = append(taken, fmt.Sprintf("stream %s has subjects of %s", other, subject))
		}
	}
	if len(taken) == 0 {
		return nil
	}
	return fmt.Errorf("it does not exist and cannot be created: %s, and no two streams can share a subject; "+
		"use that stream, or another subject", strings.Join(taken, ", "))
}

// streamConfig is how a missing stream is created.
func (s *Sink) streamConfig() jetstream.StreamConfig {
	o := s.jetstream
	subjects := o.Subjects
	if len(subjects) == 0 {
		subjects = []string{s.subject.Wildcard(), controlSubjects(o.Stream)}
	}
	unbounded := func(n int64) int64 {
		if n == 0 {
			return -1
		}
		return n
	}
	return jetstream.StreamConfig{
		Name:              o.Stream,
		Description:       "Changes of custom resources as CloudEvents, written by crbridge.",
		Subjects:          subjects,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		Storage:           storageType(o.Storage),
		Replicas:          max(1, o.Replicas),
		MaxAge:            o.MaxAge,
		MaxBytes:          unbounded(o.MaxBytes),
		MaxMsgs:           -1,
		MaxMsgsPerSubject: unbounded(o.MaxMsgsPerSubject),
		Duplicates:        o.DuplicateWindow,
		AllowDirect:       true,
		// Batches may be written in one piece. It cannot be added to an
		// existing stream without changing it, which a bridge does not do.
		AllowAtomicPublish: true,
	}
}

// controlSubjects are those of the bridge's control messages in a stream.
func controlSubjects(stream string) string { return "crbridge." + events.Token(stream) + ".>" }

func storageType(s Storage) jetstream.StorageType {
	if s == Memory {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

// unfit says for everything in a stream that keeps events from being
// delivered as promised: which field, what is there, what is needed.
func (s *Sink) unfit(c *jetstream.StreamConfig) (reasons []string) {
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			reasons = append(reasons, fmt.Sprintf(format, args...))
		}
	}
	events := s.subject.Wildcard()
	if c.Mirror != nil {
		bad(true, "mirror is %s, and a mirror takes nothing but what its origin has: name the origin", c.Mirror.Name)
	} else {
		bad(!covered(events, c.Subjects), "subjects are %s, needed is %s", list(c.Subjects), events)
	}
	bad(c.Retention != jetstream.LimitsPolicy,
		"retention is %s, needed is limits: events must stay when they were read", retentionName(c.Retention))
	bad(c.Sealed, "sealed is true, needed is false: a sealed stream takes nothing any more")
	bad(c.NoAck, "no_ack is true, needed is false: without an acknowledgement nothing is known to be durable")
	bad(c.PersistMode == jetstream.AsyncPersistMode,
		"persist_mode is async, needed is default: an acknowledgement must mean that the event is written")
	bad(c.AllowMsgCounter, "allow_msg_counter is true, needed is false: such a stream takes counters only")
	bad(c.DiscardNewPerSubject,
		"discard_new_per_subject is true, needed is false: an object with %d events would take no more", c.MaxMsgsPerSubject)
	if t := c.SubjectTransform; t != nil {
		source := cmp.Or(t.Source, ">")
		bad(overlap(source, events),
			"subject_transform is from %s to %s, needed is none that takes %s: events would be stored under other subjects",
			source, t.Destination, events)
	}
	return reasons
}

// differences are what in a fit stream is not as the options would have made
// it, where people may have expected that.
func (s *Sink) differences(c *jetstream.StreamConfig) (notes []string) {
	wanted := s.streamConfig()
	differs := func(field string, is, would any) {
		if is != would {
			notes = append(notes, fmt.Sprintf("%s of stream %s is %v, and the configuration has %v; an existing stream is not changed",
				field, c.Name, is, would))
		}
	}
	differs("storage", storageName(c.Storage), storageName(wanted.Storage))
	differs("num_replicas", c.Replicas, wanted.Replicas)
	differs("max_age", c.MaxAge, wanted.MaxAge)
	differs("max_bytes", bound(c.MaxBytes), bound(wanted.MaxBytes))
	differs("max_msgs_per_subject", bound(c.MaxMsgsPerSubject), bound(wanted.MaxMsgsPerSubject))
	if wanted.Duplicates != 0 {
		differs("duplicate_window", c.Duplicates, wanted.Duplicates)
	}
	note := func(is bool, format string, args ...any) {
		if is {
			notes = append(notes, fmt.Sprintf(format, args...))
		}
	}
	note(c.MaxMsgs > 0, "max_msgs of stream %s is %d: older events go when it is full", c.Name, c.MaxMsgs)
	note(c.MaxMsgSize > 0, "max_msg_size of stream %s is %d bytes: a larger event comes with its metadata alone", c.Name, c.MaxMsgSize)
	note(c.Discard == jetstream.DiscardNew, "discard of stream %s is new: when it is full, flows stop until there is room", c.Name)
	control := controlSubjects(c.Name)
	note(!covered(control, c.Subjects),
		"subjects of stream %s are %s, without %s: flows have no fence against a second bridge", c.Name, list(c.Subjects), control)
	return notes
}

// bound is a limit of a stream, where -1 and 0 both mean none.
func bound(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

func list(subjects []string) string {
	return "[" + strings.Join(slices.Sorted(slices.Values(subjects)), " ") + "]"
}

// storageName and retentionName are as in the server's configuration; nats.go
// writes them with capitals.
func storageName(t jetstream.StorageType) string { return strings.ToLower(t.String()) }

func retentionName(p jetstream.RetentionPolicy) string { return strings.ToLower(p.String()) }

// apiWords is what JetStream said, without nats.go's way of putting it.
func apiWords(err error) error {
	var api *jetstream.APIError
	var denied *deniedError
	switch {
	case errors.As(err, &denied):
		return denied
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, natsgo.ErrNoResponders):
		return errors.New("no JetStream answers: is it enabled for this account?")
	case errors.As(err, &api):
		return errors.New("the server says: " + apiText(api))
	}
	return errors.New(words(err))
}

// Errors of nats-server that say what is full, and not what to do about it:
// JSStreamStoreFailedF, which has the store's words, and
// JSInsufficientResourcesErr.
const (
	errStoreFailed           = 10077
	errInsufficientResources = 10023
)

// apiText is the server's text and number, and what to do about it where that
// is one thing.
func apiText(api *jetstream.APIError) string {
	text := fmt.Sprintf("%s (%d)", api.Description, api.ErrorCode)
	switch {
	case api.ErrorCode == errStoreFailed && strings.HasPrefix(api.Description, "maximum "):
		text += ": the stream is full and discards new messages; make room, raise that limit, or have it discard old ones"
	case api.ErrorCode == errInsufficientResources:
		text += ": JetStream is at a limit of its account, or of its disk; raise it, or make room"
	}
	return text
}
