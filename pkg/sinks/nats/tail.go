package nats

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// A pass over the stream waits for gatherQuiet after the last claim that
	// wants to be part of it, and for gatherMost in all for claims that have
	// begun, so that flows that start together share it.
	gatherQuiet = 20 * time.Millisecond
	gatherMost  = 2 * time.Second
	// fewFlows can be picked out by the server; for more, all is read.
	fewFlows = 16
)

// tailRow is what one message of the stream says of a flow.
type tailRow struct {
	sequence uint64
	stored   time.Time
	id       string // of the event; empty where no event tells of it
	rows     []journal.Row
	// What the event says of its resource.
	apiVersion, kind string
}

// reading is one flow's wish to know its messages from one sequence to another.
type reading struct {
	ctx      context.Context // of the one who waits
	flow     *streamPublisher
	from     uint64
	to       uint64
	toTheEnd bool // what there is, and no message at to is waited for
	anywhere bool // the flow's events may have other subjects than now
	take     func(tailRow)
	done     chan error
}

// tails reads the stream for those who want to know what it says of their
// flows. One pass serves all who have asked when it begins.
type tails struct {
	sink *Sink
	ctx  context.Context // of the sink; ends passes that nobody waits for any more

	mu       sync.Mutex
	claiming int // claims that have begun and not asked yet
	asked    time.Time
	waiting  []*reading
	running  bool
	changed  chan struct{}
	passes   sync.WaitGroup
}

// expect says that a claim has begun. The function it returns has to be
// called when it has asked or will not; it may be called again.
func (t *tails) expect() func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.claiming++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.claiming--
		t.wake()
	})
}

// wake needs mu.
func (t *tails) wake() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// read hands over what the stream says of a flow. asked is called as soon as
// the wish is known.
func (t *tails) read(r *reading, asked func()) error {
	r.done = make(chan error, 1)
	t.mu.Lock()
	t.waiting = append(t.waiting, r)
	t.asked = time.Now()
	if !t.running {
		t.running = true
		t.passes.Go(t.run)
	}
	t.wake()
	t.mu.Unlock()
	asked()
	select {
	case err := <-r.done:
		return err
	case <-r.ctx.Done():
		// The pass may be handing over a row right now.
		t.mu.Lock()
		defer t.mu.Unlock()
		r.take = nil
		return r.ctx.Err()
	}
}

// run makes passes until nobody waits for one.
func (t *tails) run() {
	for {
		t.gather()
		t.mu.Lock()
		readings := t.waiting
		t.waiting = nil
		if len(readings) == 0 {
			t.running = false
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		err := t.pass(readings)
		for _, r := range readings {
			r.done <- err
		}
	}
}

// gather waits until those who have begun to claim have asked.
func (t *tails) gather() {
	most := time.NewTimer(gatherMost)
	defer most.Stop()
	quiet := time.NewTimer(gatherQuiet)
	defer quiet.Stop()
	for {
		t.mu.Lock()
		left := gatherQuiet - time.Since(t.asked)
		ready := len(t.waiting) == 0 || (t.claiming == 0 && left <= 0)
		t.mu.Unlock()
		if ready {
			return
		}
		quiet.Reset(max(left, time.Millisecond))
		select {
		case <-t.changed:
		case <-quiet.C:
		case <-most.C:
			return
		case <-t.ctx.Done():
			return
		}
	}
}

// pass reads the stream once, for all readings.
func (t *tails) pass(readings []*reading) error {
	ses, err := t.sink.session()
	if err != nil {
		return err
	}
	began := time.Now()
	ctx, cancel := context.WithCancelCause(t.ctx)
	defer cancel(nil)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		select {
		case <-ses.ended:
			cancel(errEnded)
		case <-ctx.Done():
		}
	})

	p := newPass(t, ses, readings)
	count, err := p.read(ctx)
	if err != nil {
		return fmt.Errorf("reading stream %s from %d to %d: %w", t.sink.jetstream.Stream, p.from, p.to, because(ctx, err))
	}
	t.sink.log.Debug("stream read", "stream", t.sink.jetstream.Stream, "flows", len(readings),
		"from", p.from, "to", p.to, "messages", count, "took", time.Since(began))
	return nil
}

// pass is one reading of the stream.
type pass struct {
	tails    *tails
	ses      *session
	from, to uint64
	toTheEnd bool
	byEvents map[string][]*reading // by source and route
	byRows   map[string][]*reading // by control subject
}

func newPass(t *tails, ses *session, readings []*reading) *pass {
	p := &pass{tails: t, ses: ses, byEvents: map[string][]*reading{}, byRows: map[string][]*reading{}}
	for i, r := range readings {
		if i == 0 || r.from < p.from {
			p.from = r.from
		}
		p.to = max(p.to, r.to)
		p.toTheEnd = p.toTheEnd || r.toTheEnd
		if r.flow.foreign == "" {
			key := r.flow.source + " " + r.flow.flow.Route
			p.byEvents[key] = append(p.byEvents[key], r)
		}
		p.byRows[r.flow.subject] = append(p.byRows[r.flow.subject], r)
	}
	return p
}

// filters are subjects that cover what the readings need; none means all.
// JetStream refuses filters that overlap.
func (p *pass) filters(readings map[string][]*reading) []string {
	if len(readings) > fewFlows {
		return nil
	}
	var filters []string
	for subject, rs := range readings {
		if slices.ContainsFunc(rs, func(r *reading) bool { return r.anywhere }) {
			return nil
		}
		wanted := []string{subject, subject + "." + rowsToken + ".>"}
		if rs[0].flow.foreign == "" {
			wanted = append(wanted, rs[0].flow.pattern)
		}
		for _, w := range wanted {
			clash := false
			for _, f := range filters {
				if f != w && overlap(f, w) {
					return nil
				}
				clash = clash || f == w
			}
			if !clash {
				filters = append(filters, w)
			}
		}
	}
	return filters
}

// read hands out messages up to the last that a reading waits for.
func (p *pass) read(ctx context.Context) (count int, err error) {
	config := jetstream.OrderedConsumerConfig{
		FilterSubjects: p.filters(p.byRows),
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(p.from, 1),
		HeadersOnly: true,
	}
	created, done := p.ses.patience(ctx, p.ses.isAPI)
	consumer, err := p.ses.js.OrderedConsumer(created, p.tails.sink.jetstream.Stream, config)
	done()
	if err != nil {
		return 0, apiWords(because(created, err))
	}
	if info := consumer.CachedInfo(); p.toTheEnd && info != nil && info.NumPending == 0 {
		return 0, nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(2000))
	if err != nil {
		return 0, apiWords(err)
	}
	defer messages.Stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(ackTimeout, func() { cancel(errNoAnswer) })
	defer idle.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return count, because(ctx, err)
		}
		idle.Reset(ackTimeout)
		meta, err := m.Metadata()
		if err != nil {
			return count, err
		}
		if err := p.hand(ctx, m, meta); err != nil {
			return count, err
		}
		count++
		if meta.Sequence.Stream >= p.to || (p.toTheEnd && meta.NumPending == 0) {
			return count, nil
		}
	}
}

// hand gives a message to those whom it concerns.
func (p *pass) hand(ctx context.Context, m jetstream.Msg, meta *jetstream.MsgMetadata) error {
	concerned, row := p.concerned(m)
	sequence := meta.Sequence.Stream
	for _, r := range concerned {
		if sequence < r.from || sequence > r.to {
			continue
		}
		row := row
		row.sequence, row.stored = sequence, meta.Timestamp
		if row.id == "" {
			// Consumed without its payload, as only few messages have any
			// that matters.
			var err error
			if row.rows, err = p.tails.sink.readRows(ctx, p.ses, sequence); err != nil {
				return err
			}
		}
		p.tails.mu.Lock()
		if r.take != nil {
			r.take(row)
		}
		p.tails.mu.Unlock()
	}
	return nil
}

// concerned are those who want the message, and what it says where it is an event.
func (p *pass) concerned(m jetstream.Msg) ([]*reading, tailRow) {
	// The last, as a route, a resource or a sink may be called rows.
	if i := strings.LastIndex(m.Subject(), "."+rowsToken+"."); i >= 0 {
		if readings := p.byRows[m.Subject()[:i]]; readings != nil {
			return readings, tailRow{}
		}
	}
	header := m.Headers()
	get := func(name string) string {
		if values := header[headerPrefix+name]; len(values) == 1 {
			if v, err := url.PathUnescape(values[0]); err == nil {
				return v
			}
		}
		return ""
	}
	readings := p.byEvents[get("source")+" "+get(events.ExtRoute)]
	if readings == nil {
		return nil, tailRow{}
	}
	id := header.Get(jetstream.MsgIDHeader)
	row, ok := readRow(id, get)
	if !ok {
		return nil, tailRow{} // nothing that a bridge writes
	}
	if digest, err := hex.DecodeString(header.Get(digestHeader)); err == nil {
		copy(row.Digest[:], digest)
	}
	return readings, tailRow{id: id, rows: []journal.Row{row}, apiVersion: get(events.ExtAPIVersion), kind: get(events.ExtKind)}
}

// readRow is the row of the ledger that an event is, by its id and attributes.
func readRow(id string, get func(attribute string) string) (row journal.Row, ok bool) {
	row = journal.Row{Key: get("subject"), Sent: true}
	switch get("type") {
	case events.Deleted.CloudEvent():
		row.Gone = true
	case events.Deselected.CloudEvent():
		row.Gone, row.Deselected = true, true
	}
	var err error
	if row.UID, err = uuid.Parse(get(events.ExtUID)); err != nil || row.Key == "" || id == "" {
		return journal.Row{}, false
	}
	if row.Version, err = strconv.ParseUint(get(events.ExtResourceVersion), 10, 64); err != nil {
		return journal.Row{}, false
	}
	row.Resync, row.Listed = events.Suffixes(id, get(events.ExtRoute))
	return row, true
}

// rowsMessage has rows that no event tells.
func rowsMessage(subject string, rows []journal.Row) (*natsgo.Msg, error) {
	var b strings.Builder
	err := journal.Write(&b, struct{}{}, func(yield func(journal.Row) bool) {
		for _, row := range rows {
			if !yield(row) {
				return
			}
		}
	})
	return &natsgo.Msg{Subject: subject, Data: []byte(b.String())}, err
}

// readRows reads such a message; none where it is gone.
func (s *Sink) readRows(ctx context.Context, ses *session, sequence uint64) (rows []journal.Row, err error) {
	m, err := s.stored(ctx, ses, map[string]any{"seq": sequence})
	if err != nil || m == nil {
		return nil, err
	}
	var header struct{}
	err = journal.Read(strings.NewReader(string(m.Data)), &header, func(row journal.Row) { rows = append(rows, row) })
	if err != nil {
		return nil, fmt.Errorf("rows in message %d: %w", sequence, err)
	}
	return rows, nil
}

// source is the CloudEvents source of all events of the CRD's objects.
func source(cluster string, f sinks.Flow) string {
	resource, group, _ := strings.Cut(f.CRD, ".")
	return events.Origin{Cluster: cluster, Group: group, Resource: resource}.Source()
}
