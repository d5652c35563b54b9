package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// controlFormat is the format of control messages that this bridge writes and reads.
const controlFormat = 1

// control is a flow's control message. The last one of a flow says who may
// write its events: each batch expects it to be the last one still.
type control struct {
	Format int       `json:"format"`
	Epoch  uint64    `json:"epoch"` // counts the claims of the flow
	Owner  string    `json:"owner"` // who made the last one
	Time   time.Time `json:"time"`
	// Stream is when the stream was created that this was written to.
	Stream time.Time     `json:"stream"`
	State  journal.State `json:"state"`
	// Snapshots are those that there are, the newest first, at most two.
	Snapshots []snapshotRef `json:"snapshots,omitempty"`
	Tail      tail          `json:"tail"`
	// Pattern is what the subjects of the events match that are not in the
	// newest snapshot; empty where there may be others, as the template was
	// another.
	Pattern string `json:"pattern,omitempty"`
	// Base is the sequence of the control message from which on versions
	// cannot be compared with those before. Rebase says that it is this one.
	Base   uint64 `json:"base,omitempty"`
	Rebase bool   `json:"rebase,omitempty"`
}

// tail is the flow's events in the stream that are not in the newest snapshot.
type tail struct {
	First uint64 `json:"first,omitempty"` // sequence of the first one; 0 if there is none
	Count uint64 `json:"count,omitempty"`
}

func (t *tail) add(sequence uint64) {
	if t.Count++; t.First == 0 || sequence < t.First {
		t.First = sequence
	}
}

// add takes note of a message with so many rows that the tail has grown by.
func (p *streamPublisher) add(sequence, rows uint64) {
	if p.count.Count == 0 {
		p.since = time.Now()
	}
	p.count.add(sequence)
	p.weight += rows
}

// Codes of nats-server when the last sequence of a subject is not the expected
// one; the second is a replicated stream's, also where another message that
// expects something is on its way.
const (
	wrongSequence           = jetstream.JSErrCodeStreamWrongLastSequence
	wrongSequenceReplicated = jetstream.JSErrCodeStreamWrongLastSequenceConstant
)

func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == wrongSequence || api.ErrorCode == wrongSequenceReplicated)
}

// Subjects below crbridge.<stream>.<cluster>: of a flow's control messages
//
//	<route>.<group>.<resource>                  events in this stream
//	<route>.<group>.<resource>.sink.<sink>      events elsewhere
//
// of its rows that no event tells, that and .rows.<epoch>.<number>, and of a
// request for a resync, <route>.resync.
const (
	sinkToken   = "sink"
	rowsToken   = "rows"
	resyncToken = "resync"
)

func (s *Sink) controlPrefix() string {
	return "crbridge." + events.Token(s.jetstream.Stream) + "." + events.Token(s.cluster) + "."
}

// controlSubject is where the flow's control messages are; sink is empty for
// a flow whose events are in this stream.
func (s *Sink) controlSubject(f sinks.Flow, sink string) string {
	resource, group, _ := strings.Cut(f.CRD, ".")
	subject := s.controlPrefix() + events.Token(f.Route) + "." + events.Token(group) + "." + events.Token(resource)
	if sink != "" {
		subject += "." + sinkToken + "." + events.Token(sink)
	}
	return subject
}

func (s *Sink) resyncSubject(route string) string {
	return s.controlPrefix() + events.Token(route) + "." + resyncToken
}

// parseControl is the flow whose control messages have that subject.
func (s *Sink) parseControl(subject string) (kept sinks.Kept, ok bool) {
	rest, ours := strings.CutPrefix(subject, s.controlPrefix())
	tokens := strings.Split(rest, ".")
	if !ours || (len(tokens) != 3 && (len(tokens) != 5 || tokens[3] != sinkToken)) {
		return sinks.Kept{}, false
	}
	values := make([]string, len(tokens))
	for i, token := range tokens {
		if values[i], ok = events.Untoken(token); !ok {
			return sinks.Kept{}, false
		}
	}
	kept = sinks.Kept{Flow: sinks.Flow{Route: values[0], CRD: values[2]}, Sink: s.name}
	if values[1] != "" {
		kept.CRD += "." + values[1]
	}
	if len(values) == 5 {
		kept.Sink = values[4]
	}
	return kept, true
}

// storedMessage is what JetStream answers to STREAM.MSG.GET.
type storedMessage struct {
	Subject  string    `json:"subject"`
	Sequence uint64    `json:"seq"`
	Header   []byte    `json:"hdrs"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`
}

// errNoMessage is JSNoMessageFoundErr of nats-server.
const errNoMessage jetstream.ErrorCode = 10037

// stored asks the stream's leader for a message; nil where there is none. A
// direct get is faster and may be answered by a replica that is behind.
func (s *Sink) stored(ctx context.Context, ses *session, request map[string]any) (*storedMessage, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, done := ses.patience(ctx, ses.isAPI)
	defer done()
	subject := ses.api + "STREAM.MSG.GET." + s.jetstream.Stream
	answer, err := ses.nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		ses.stream.doubt()
		return nil, apiWords(because(ctx, err))
	}
	var a struct {
		Error   *jetstream.APIError `json:"error"`
		Message *storedMessage      `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &a); err != nil {
		return nil, fmt.Errorf("answer of the server: %w", err)
	}
	switch {
	case a.Error != nil && a.Error.ErrorCode == errNoMessage:
		return nil, nil
	case a.Error != nil:
		ses.stream.doubt()
		return nil, apiWords(a.Error)
	}
	return a.Message, nil
}

// last is the last message of the subject; nil where there is none.
func (s *Sink) last(ctx context.Context, ses *session, subject string) (*storedMessage, error) {
	return s.stored(ctx, ses, map[string]any{"last_by_subj": subject})
}

// readControl is the flow's last control message. One that cannot be read is
// told as what is wrong with it, with as much of it as can be made out.
func (s *Sink) readControl(ctx context.Context, ses *session, subject string) (c control, sequence uint64, wrong string, err error) {
	m, err := s.last(ctx, ses, subject)
	if err != nil || m == nil {
		return control{}, 0, "", err
	}
	switch err := json.Unmarshal(m.Data, &c); {
	case err != nil:
		wrong = fmt.Sprintf("control message %d cannot be read: %v", m.Sequence, err)
	case c.Format != controlFormat:
		wrong = fmt.Sprintf("control message %d is of format %d, and this bridge reads format %d", m.Sequence, c.Format, controlFormat)
	default:
		return c, m.Sequence, "", nil
	}
	return control{Epoch: c.Epoch, Owner: c.Owner}, m.Sequence, wrong, nil
}

// writeControl writes a control message, if the last one is still that with
// the expected sequence. It returns the new one's.
func (s *Sink) writeControl(ctx context.Context, ses *session, subject string, c *control, expected uint64) (uint64, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	return s.put(ctx, ses, &natsgo.Msg{Subject: subject, Data: body}, subject, expected)
}

// put stores one message behind the fence.
func (s *Sink) put(ctx context.Context, ses *session, m *natsgo.Msg, fence string, expected uint64) (uint64, error) {
	ctx, done := ses.patience(ctx, func(subject string) bool { return subject == m.Subject })
	defer done()
	ack, err := ses.js.PublishMsg(ctx, m, jetstream.WithExpectStream(s.jetstream.Stream),
		jetstream.WithExpectLastSequenceForSubject(expected, fence), jetstream.WithRetryAttempts(0))
	if err != nil {
		if !isWrongSequence(err) {
			ses.stream.doubt()
		}
		return 0, because(ctx, err)
	}
	return ack.Sequence, nil
}

// because is why the context ended, where that is the reason for the error.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
