package nats

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"golang.org/x/sync/semaphore"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// A window ends when it has so many events, or so many bytes as
	// events.Event.Size counts, or, where it is not atomic, the next event is
	// of an object that it has.
	windowEvents = 512
	windowBytes  = 1 << 20
	// maxPending is above all that maxInFlight lets through: an event counts
	// as 1 KiB at least, and those of which nothing was heard are counted
	// for ackTimeout more.
	maxPending = 1 << 18
	// atomicFrom is how many events a window of an unreplicated stream has at
	// least to be written as a whole; see docs/performance.md.
	atomicFrom = 256
	// maxOpenBatches is below the server's limit of 50 for a stream, which
	// other publishers share.
	maxOpenBatches = 40
)

var (
	errEnded    = errors.New("the connection ended before the server answered")
	errNoAnswer = fmt.Errorf("the server did not answer within %v", ackTimeout)
)

// streamPublisher publishes a flow's events to a JetStream stream, and keeps
// its ledger there; or keeps the ledger only, of a flow that leads elsewhere.
type streamPublisher struct {
	sink    *Sink
	flow    sinks.Flow
	foreign string // name of the sink that the events go to, where it is not this one
	subject string // of its control messages
	source  string // of its events
	pattern string // of its events' subjects

	// turn is held by the one call that there may be at a time. Snapshot holds
	// it only at its beginning and its end.
	turn *semaphore.Weighted

	behindFence atomic.Bool // for those who do not hold the turn

	claimed bool
	created time.Time // of the stream that the claim was made in
	session *session  // that was used last
	control control   // as it was written last
	fence   uint64    // its sequence: each batch expects it to be the last one
	// settled: what the stream has of this flow up to here is known.
	settled uint64
	// ambiguous: something was sent of which it is not known whether it arrived.
	ambiguous bool
	// apart: the rest of the batch is not written as a whole, as the stream
	// knows an event of it already.
	apart bool
	// stored are the ids of events that arrived without an answer, or behind
	// one that did not; landed are the rows of those found by settling.
	stored map[string]struct{}
	landed []journal.Row
	// count is the tail that a restart would read, and since when it has had a
	// message; the first is not older.
	count tail
	since time.Time
	// weight is how many rows the tail's messages have.
	weight uint64
	// elsewhere: up to here, events of the flow may have other subjects.
	elsewhere uint64
	// alone: the stream no longer has what the ledger was made of, and no
	// snapshot has either.
	alone bool
	// told is up to where the caller's ledger surely has all that is stored,
	// and toldCount and toldWeight are the length of the tail up to there. What
	// a call returns gets into that ledger before the next call, but not before
	// a snapshot.
	told       uint64
	toldCount  uint64
	toldWeight uint64
	written    *writtenSnapshot // not referred to yet
	numbers    uint64           // of messages with rows
	records    uint64           // control messages since older ones were deleted
	shot       time.Time        // when the last snapshot began

	due atomic.Pointer[func()] // see journal.Journal.OnDue
}

// errNotClaimed is a mistake of the caller.
var errNotClaimed = errors.New("the flow was not claimed")

// tell takes note that the caller knows of all that is stored. It is called at
// the beginning of a call, or when its end makes that so.
func (p *streamPublisher) tell() {
	if len(p.stored) == 0 && !p.ambiguous {
		p.told, p.toldCount, p.toldWeight = p.settled, p.count.Count, p.weight
	}
}

// Publish publishes the batch in windows and waits for all the
// acknowledgements of one before it begins the next. So an event is never
// sent before the one before it of the same object is durable, and what a
// failure leaves undone can be sent again in order. Each window expects the
// flow's control message to be the last one still; see control.
//
// When it is not known what has become of a window, the next call finds out
// before it sends anything.
func (p *streamPublisher) Publish(ctx context.Context, batch []events.Event) (durable int, err error) {
	if !p.sink.publishing.Enter() {
		return 0, p.sink.fail(sinks.ErrClosed)
	}
	defer p.sink.publishing.Leave()
	if err := p.turn.Acquire(ctx, 1); err != nil {
		return 0, p.sink.fail(err)
	}
	defer p.turn.Release(1)
	if !p.claimed {
		return 0, p.sink.fail(p.unclaimed())
	}
	p.tell()
	for durable < len(batch) {
		n, err := p.publishNext(ctx, batch[durable:])
		durable += n
		if err != nil {
			return durable, p.sink.fail(err)
		}
	}
	p.stored, p.landed, p.apart = nil, nil, false // all of it is told
	return durable, nil
}

// publishNext gets on with the batch by one window.
func (p *streamPublisher) publishNext(ctx context.Context, batch []events.Event) (durable int, err error) {
	ses, f, err := p.ready(ctx)
	if err != nil {
		return 0, err
	}
	if err := p.settle(ctx, ses, f, func() {}); err != nil {
		return 0, err
	}
	w, err := p.window(batch, f, limit{ses.nc.MaxPayload(), "the server's max_payload"}, limit{f.maxMsgSize, "the stream's max_msg_size"})
	if err != nil {
		return 0, err
	}
	if len(w.messages) == 0 {
		return w.covers, nil // all of it had arrived
	}
	weight := min(w.size, maxInFlight)
	if err := p.sink.inFlight.Acquire(ctx, weight); err != nil {
		return 0, err
	}
	defer p.sink.inFlight.Release(weight)
	err = p.send(ctx, ses, w)
	p.sink.heard(ctx, ses, w, err)
	if err == nil {
		letGo(w.messages) // otherwise the client may hold some
	}
	if err == nil && p.apart && w.atomic {
		return 0, nil
	}
	if err == nil {
		return w.covers, nil
	}
	if errors.Is(err, journal.ErrReplaced) {
		return 0, err // it is to be seen what of it is in there
	}
	return w.contiguous(p.stored), err
}

// send sends a window and takes note of what of it is stored.
func (p *streamPublisher) send(ctx context.Context, ses *session, w *window) error {
	failpoint.Here(failpoint.BeforePublish)
	var err error
	if w.atomic {
		err = p.sink.publishAtomic(ctx, ses, w)
	} else {
		err = w.publish(ctx, ses)
	}
	failpoint.Here(failpoint.AfterPublish)
	for i, sequence := range w.sequences {
		if sequence == 0 {
			continue
		}
		if sequence <= p.settled && !w.duplicate[i] {
			return p.void(fmt.Sprintf("it counts from %d, and was at %d already: it was put back to an earlier state", sequence, p.settled))
		}
	}
	var refused *refusedError
	// What was refused is not there then, and what was not is known.
	known := err == nil || errors.As(err, &refused) && !refused.fence && w.answered
	repeated := 0
	highest := p.settled
	for i, sequence := range w.sequences {
		if sequence == 0 {
			continue
		}
		highest = max(highest, sequence)
		if w.duplicate[i] {
			repeated++
		} else if known {
			p.add(sequence, 1)
		}
		if err != nil {
			if p.stored == nil {
				p.stored = map[string]struct{}{}
			}
			p.stored[w.ids[i]] = struct{}{}
			if known {
				p.landed = append(p.landed, rowOf(w.sent[i]))
			}
		}
	}
	p.sink.suppressed.Add(repeated)
	switch {
	case err != nil && known && refused.duplicate && w.atomic:
		p.apart = true
		return nil // nothing of it is stored; the next window has less in it
	case known:
		p.settled = highest
	default:
		p.ambiguous = true // settling finds all of it, also what is known
	}
	return err
}

// heard draws the conclusions from how a window went.
func (s *Sink) heard(ctx context.Context, ses *session, w *window, err error) {
	if done := w.done(); len(done) > 0 {
		s.problems.allowed(func(subject string) bool {
			return ses.isInbox(subject) || slices.ContainsFunc(done, func(m *natsgo.Msg) bool { return m.Subject == subject })
		})
	}
	var refused *refusedError
	switch {
	case err == nil:
		s.problems.taken()
	case errors.As(err, &refused) && refused.fence:
	case errors.As(err, &refused):
		s.problems.refused(refused.problem())
		ses.stream.doubt()
	case ctx.Err() == nil:
		ses.stream.doubt()
	}
}

// window is messages that are published in one go.
type window struct {
	stream   string
	messages []*natsgo.Msg
	ids      []string
	sent     []*events.Event // what the messages are
	size     int64
	covers   int      // how many events of the batch are stored when it is, from the first
	events   []string // the ids of those
	atomic   bool     // all or none; otherwise no two are of one object

	// What came of it: the sequence of each message that is stored, or 0.
	sequences []uint64
	duplicate []bool
	answered  bool // there was an answer to each message
}

// limit bounds a message's headers and payload together, in bytes; 0 does not.
type limit struct {
	bytes int64
	by    string
}

// window encodes the next events of the batch, without those that are stored
// already. It fails if already the first cannot be published.
func (p *streamPublisher) window(batch []events.Event, f facts, limits ...limit) (*window, error) {
	s := p.sink
	w := &window{stream: s.jetstream.Stream, atomic: f.atomic && !p.apart && (f.replicas > 1 || len(batch) >= atomicFrom)}
	most := windowEvents
	if f.oneByOne() || (p.apart && f.replicas > 1) {
		most = 1
	}
	objects := make(map[string]struct{}, min(len(batch), most))
	for i := range batch {
		e := &batch[i]
		object, size := e.Subject(), int64(e.Size())
		if _, stored := p.stored[e.ID()]; stored {
			w.covers++
			w.events = append(w.events, e.ID())
			continue
		}
		_, again := objects[object]
		if (again && !w.atomic) || len(w.messages) == most || len(w.messages) > 0 && w.size+size > windowBytes {
			break
		}
		m, err := s.message(e)
		if err == nil {
			m.Header[jetstream.MsgIDHeader] = []string{e.ID()}
			m.Header[jetstream.ExpectedStreamHeader] = []string{w.stream}
			if f.fenced && (len(w.messages) == 0 || !w.atomic) {
				m.Header[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{p.subject}
				m.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(p.fence, 10)}
			}
			err = fits(m, e, limits...)
		}
		if err != nil {
			if len(w.messages) == 0 {
				return nil, err
			}
			break // it will be the first of a window, once all before it are durable
		}
		objects[object] = struct{}{}
		w.messages = append(w.messages, m)
		w.ids = append(w.ids, e.ID())
		w.sent = append(w.sent, e)
		w.events = append(w.events, e.ID())
		w.covers++
		w.size += size
	}
	w.atomic = w.atomic && len(w.messages) > 1
	w.sequences, w.duplicate = make([]uint64, len(w.messages)), make([]bool, len(w.messages))
	return w, nil
}

// oneByOne: a replicated stream refuses to check a fence while another check is
// under way, so that without atomic batches there is one message at a time.
func (f facts) oneByOne() bool { return f.fenced && f.replicas > 1 && !f.atomic }

// batches says in words how events are written to the stream.
func (f facts) batches() string {
	switch {
	case f.oneByOne():
		return "one by one: the stream is replicated and has allow_atomic false"
	case !f.atomic:
		return "pipelined: the stream has allow_atomic false"
	case f.replicas > 1:
		return "atomic"
	}
	return fmt.Sprintf("atomic from %d events on, pipelined below", atomicFrom)
}

// contiguous is how many events of the batch, from the first, are stored.
func (w *window) contiguous(stored map[string]struct{}) (n int) {
	for _, id := range w.events {
		if _, is := stored[id]; !is {
			break
		}
		n++
	}
	return n
}

// done are the messages that are stored.
func (w *window) done() (stored []*natsgo.Msg) {
	for i, sequence := range w.sequences {
		if sequence != 0 {
			stored = append(stored, w.messages[i])
		}
	}
	return stored
}

// rowOf is what the event says of its object.
func rowOf(e *events.Event) journal.Row {
	row, _ := readRow(e.ID(), e.Attribute)
	row.Digest = e.Digest
	return row
}

// digestHeader has, of an event whose route leaves out updates that touch
// nothing that counts, what stands for what counts: it is part of the event's
// row, and none of its attributes.
const digestHeader = "Crbridge-Digest"

// message is the event as a message.
func (s *Sink) message(e *events.Event) (*natsgo.Msg, error) {
	m, err := encode(s.mode, s.subject.Expand(e.Fields), e)
	if err == nil && s.jetstream != nil && s.mode == sinks.Structured {
		mark(m, e)
	}
	if err == nil && s.jetstream != nil && e.Digest != [16]byte{} {
		m.Header[digestHeader] = []string{hex.EncodeToString(e.Digest[:])}
	}
	return m, err
}

// amplyHeaders is more than the headers of an event take: a name and a
// namespace have at most 253 and 63 characters, and the longest of the others
// are made of these and of configured names.
const amplyHeaders = 32 << 10

// fits tells whether the message may be as large as it is. How large that is
// exactly is found out only where it matters.
func fits(m *natsgo.Msg, e *events.Event, limits ...limit) error {
	size := int64(len(m.Data) + amplyHeaders)
	if slices.ContainsFunc(limits, func(l limit) bool { return l.bytes > 0 && size > l.bytes }) {
		size = int64(m.Size() - len(m.Subject))
	}
	for _, l := range limits {
		if l.bytes > 0 && size > l.bytes {
			return &sinks.TooLargeError{ID: e.ID(), Subject: e.Subject(), Size: size, Limit: l.bytes, Source: l.by}
		}
	}
	return nil
}

// publishAtomic writes all messages or none.
func (s *Sink) publishAtomic(ctx context.Context, ses *session, w *window) error {
	if err := s.openBatches.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.openBatches.Release(1)
	ctx, done := ses.patience(ctx, func(subject string) bool {
		return slices.ContainsFunc(w.messages, func(m *natsgo.Msg) bool { return m.Subject == subject })
	})
	defer done()
	ack, err := jetstreamext.PublishMsgBatch(ctx, ses.js, w.messages, jetstreamext.BatchFlowControl{})
	if err == nil {
		for i := range w.messages {
			w.sequences[i] = ack.Sequence - uint64(len(w.messages)-1-i)
		}
		w.answered = true
		return nil
	}
	err = because(ctx, err)
	var api *jetstream.APIError
	w.answered = errors.As(err, &api)
	return w.explain(w.messages[0], err)
}

// publish sends all messages and waits until each of them was acknowledged or
// failed or ctx is done. Its error is why the first that is not stored is not.
func (w *window) publish(ctx context.Context, ses *session) (err error) {
	waiter := ses.denial.wait(len(w.messages), func(subject string) bool {
		return slices.ContainsFunc(w.messages, func(m *natsgo.Msg) bool { return m.Subject == subject })
	})
	defer ses.denial.done(waiter)
	futures := make([]jetstream.PubAckFuture, 0, len(w.messages))
	var unsent error
	for _, m := range w.messages {
		// No retry by the library: it would overtake what came after.
		future, err := ses.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0))
		if err != nil {
			unsent = errors.New(words(err))
			break
		}
		futures = append(futures, future)
	}
	answers := answers{ctx: ctx, ses: ses, denied: waiter.denied}
	w.answered = true
	for i, future := range futures {
		ack, failure := answers.wait(future)
		if failure == nil {
			w.sequences[i], w.duplicate[i] = ack.Sequence, ack.Duplicate
			continue
		}
		var api *jetstream.APIError
		w.answered = w.answered && (errors.As(failure, &api) || errors.Is(failure, jetstream.ErrNoStreamResponse))
		if err == nil {
			err = w.explain(w.messages[i], failure)
		}
	}
	if unsent != nil && err == nil {
		err = w.explain(w.messages[len(futures)], unsent)
	}
	return err
}

// explain says in words why a message was not acknowledged.
func (w *window) explain(m *natsgo.Msg, failure error) error {
	id := m.Header[jetstream.MsgIDHeader][0]
	var api *jetstream.APIError
	switch {
	case errors.As(failure, &api):
		return &refusedError{
			stream: w.stream, id: id, why: apiText(api),
			fence: isWrongSequence(api), duplicate: api.ErrorCode == jetstreamext.JSErrCodeBatchPublishDuplicateMsgID,
		}
	case errors.Is(failure, jetstream.ErrNoStreamResponse):
		return &refusedError{stream: w.stream, id: id, why: "no stream takes the subject " + m.Subject}
	case errors.Is(failure, jetstream.ErrAsyncPublishTimeout):
		failure = errNoAnswer
	}
	return fmt.Errorf("event %s: %w", id, failure)
}

// refusedError is a stream's no.
type refusedError struct {
	stream, id, why string
	fence           bool // the control message is not the last one any more
	duplicate       bool // the stream knows an event of a batch that is written as a whole
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("stream %s does not take event %s: %s", e.stream, e.id, e.why)
}

// problem leaves out the event: it is the stream's, whichever comes first.
func (e *refusedError) problem() string {
	return fmt.Sprintf("stream %s does not take events: %s", e.stream, e.why)
}

// answers waits for the acknowledgements of one window.
type answers struct {
	ctx     context.Context
	ses     *session
	denied  <-chan denial
	denials []denial
}

// wait returns the acknowledgement of the message, or why there is none.
func (a *answers) wait(future jetstream.PubAckFuture) (*jetstream.PubAck, error) {
	for {
		// What is already there counts, even if all has ended since.
		select {
		case ack := <-future.Ok():
			return ack, nil
		case err := <-future.Err():
			return nil, err
		default:
		}
		for _, d := range a.denials {
			if d.subject == future.Msg().Subject || a.ses.isInbox(d.subject) {
				return nil, errors.New(d.words)
			}
		}
		select {
		case ack := <-future.Ok():
			return ack, nil
		case err := <-future.Err():
			return nil, err
		case d := <-a.denied:
			a.denials = append(a.denials, d)
		case <-a.ses.ended:
			return a.last(future, errEnded)
		case <-a.ctx.Done():
			return a.last(future, a.ctx.Err())
		}
	}
}

// last looks once more, as select takes any of the cases that are ready.
func (a *answers) last(future jetstream.PubAckFuture, otherwise error) (*jetstream.PubAck, error) {
	select {
	case ack := <-future.Ok():
		return ack, nil
	default:
		return nil, otherwise
	}
}
