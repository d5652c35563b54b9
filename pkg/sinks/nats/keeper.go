package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// lookEvery is how often the stream's ends are looked at, and whether control
// messages have to be written anew; leastPace is how often that is at most,
// where messages are kept for a short time.
const (
	lookEvery = 30 * time.Second
	leastPace = 250 * time.Millisecond
)

// kept is what a sink knows of the ledgers in it.
type kept struct {
	mu          sync.Mutex
	claimed     map[string]*streamPublisher // by control subject
	first, last uint64                      // of the stream, when it was last looked at
	quiet       bool                        // since the look before, it got nothing but refreshed control messages
	refreshed   uint64                      // control messages since then
	maxAge      time.Duration               // of its messages; 0 is without limit
	repaced     chan struct{}               // holds a token when that has changed
	listener    sinks.Listener
}

func (s *Sink) keepUp(p *streamPublisher, maxAge time.Duration) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	if s.kept.claimed == nil {
		s.kept.claimed = map[string]*streamPublisher{}
	}
	s.kept.claimed[p.subject] = p
	if s.kept.maxAge != maxAge {
		s.kept.maxAge = maxAge
		select {
		case s.kept.repaced <- struct{}{}:
		default:
		}
	}
}

// retention tells whether a message is in the older half of the stream, and
// for how long the stream keeps messages; 0 is without limit.
func (k *kept) retention(sequence uint64) (older bool, maxAge time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.older(sequence), k.maxAge
}

// looked takes note of the stream's ends.
func (k *kept) looked(first, last uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.quiet = k.last > 0 && last <= k.last+k.refreshed
	k.first, k.last, k.refreshed = first, last, 0
}

// refreshes takes note of a control message that is written anew.
func (k *kept) refreshes() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refreshed++
}

// pushedOut tells whether a message with that sequence is next to go from a
// stream that fills up: it should not be in the older half. Nothing goes while
// nothing comes, and what is refreshed does not count as that: it would never
// end where a stream has little else.
func (k *kept) pushedOut(sequence uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.quiet && k.older(sequence)
}

// older needs mu. It tells whether a message is in the older half of the
// stream, by number.
func (k *kept) older(sequence uint64) bool {
	return k.last > k.first && sequence < k.first+(k.last-k.first)/2
}

// pace is an interval that suits a stream with ordinary retention, shorter
// where messages are kept for a short time.
func (k *kept) pace(usual time.Duration) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.maxAge <= 0 {
		return usual
	}
	return min(usual, max(k.maxAge/10, leastPace))
}

func (k *kept) tellFenced(err *journal.FencedError) {
	k.mu.Lock()
	tell := k.listener.Fenced
	k.mu.Unlock()
	if tell != nil {
		tell(err)
	}
}

// Keeper implements sinks.Sink. Only a stream keeps something.
func (s *Sink) Keeper() sinks.Keeper {
	if s.jetstream == nil {
		return nil
	}
	return s
}

// Notify implements sinks.Keeper.
func (s *Sink) Notify(l sinks.Listener) {
	s.kept.mu.Lock()
	s.kept.listener = l
	s.kept.mu.Unlock()
	s.hints.give(nil) // the connection may be older
}

// Journal implements sinks.Keeper.
func (s *Sink) Journal(f sinks.Flow, sink string) journal.Journal { return s.streamPublisher(f, sink) }

// keepLedgers keeps retention from taking what the ledgers are made of.
func (s *Sink) keepLedgers(ctx context.Context) {
	if s.jetstream == nil {
		return
	}
	for {
		pause := time.NewTimer(s.kept.pace(lookEvery))
		select {
		case <-pause.C:
		case <-s.kept.repaced:
			pause.Stop()
			continue
		case <-ctx.Done():
			pause.Stop()
			return
		}
		ses, err := s.session()
		if err != nil {
			continue
		}
		s.kept.mu.Lock()
		all := make([]*streamPublisher, 0, len(s.kept.claimed))
		for _, p := range s.kept.claimed {
			all = append(all, p)
		}
		s.kept.mu.Unlock()
		s.keep(ctx, ses, all)
	}
}

// keep looks after the flows' ledgers once.
func (s *Sink) keep(ctx context.Context, ses *session, all []*streamPublisher) {
	if len(all) == 0 {
		return
	}
	if first, last, err := all[0].ends(ctx, ses); err == nil {
		s.kept.looked(first, last)
	}
	for _, p := range all {
		p.refresh(ctx)
		p.remind()
	}
}

// listen hears what other bridges and people write to control subjects. Where
// the server does not permit that, a claim by another is found out when
// something is written next, and a resync when the bridge connects anew.
func (s *Sink) listen(ses *session) {
	if s.jetstream == nil {
		return
	}
	if _, err := ses.nc.Subscribe(s.controlPrefix()+">", s.heardControl); err != nil {
		s.log.Debug("control messages of others are not heard", "error", err)
	}
}

// heardControl takes a message that another connection has published. It may
// have been refused by the stream, so that it is taken as a hint only.
func (s *Sink) heardControl(m *natsgo.Msg) {
	if _, ok := s.parseResync(m.Subject); ok {
		s.hints.give(nil)
		return
	}
	s.kept.mu.Lock()
	p := s.kept.claimed[m.Subject]
	s.kept.mu.Unlock()
	if p == nil {
		return
	}
	var c control
	if json.Unmarshal(m.Data, &c) == nil && c.Owner != s.owner {
		s.hints.give(p)
	}
}

// hints are what was heard of others and has to be looked into.
type hints struct {
	mu     sync.Mutex
	resync bool
	claims map[*streamPublisher]struct{}
	given  chan struct{} // holds a token while there are any
}

// give adds the claim of a flow, or a request for a resync where there is none.
func (h *hints) give(claim *streamPublisher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if claim == nil {
		h.resync = true
	} else {
		if h.claims == nil {
			h.claims = map[*streamPublisher]struct{}{}
		}
		h.claims[claim] = struct{}{}
	}
	select {
	case h.given <- struct{}{}:
	default:
	}
}

func (h *hints) take() (resync bool, claims map[*streamPublisher]struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	resync, claims = h.resync, h.claims
	h.resync, h.claims = false, nil
	return resync, claims
}

// looks are the pauses between looks into the same hints. What was heard may
// not be stored yet, as a disk is slow or replicas have to agree first; the
// last look comes later than whoever wrote it waits for the answer.
var looks = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second}

// lookInto looks into hints until ctx is done: at once, and again after each of
// the pauses, which begin anew where another hint is given.
func (s *Sink) lookInto(ctx context.Context) {
	if s.jetstream == nil {
		return
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	var resync bool
	claims := map[*streamPublisher]struct{}{}
	next := len(looks)
	for {
		var again <-chan time.Time
		if next < len(looks) {
			pause.Reset(looks[next])
			again = pause.C
		}
		select {
		case <-s.hints.given:
			more, others := s.hints.take()
			if next == len(looks) {
				resync = false
				clear(claims)
			}
			resync = resync || more
			maps.Copy(claims, others)
			next = 0
		case <-again:
			next++
		case <-ctx.Done():
			return
		}
		if resync {
			s.recallResyncs(ctx)
		}
		for p := range claims {
			p.check(ctx)
		}
	}
}

// check finds out whether the flow is still this bridge's.
func (p *streamPublisher) check(ctx context.Context) {
	if !p.turn.TryAcquire(1) {
		return // it is in use, and finds out by that
	}
	defer p.turn.Release(1)
	if !p.claimed {
		return
	}
	ses, f, err := p.ready(ctx)
	if err != nil || !f.fenced {
		return
	}
	c, _, _, err := p.sink.readControl(ctx, ses, p.subject)
	if err == nil && c.Epoch > p.control.Epoch && c.Owner != p.sink.owner {
		p.sink.kept.tellFenced(&journal.FencedError{Flow: p.flow.String(), Owner: c.Owner})
	}
}

func (s *Sink) parseResync(subject string) (route string, ok bool) {
	rest, ours := strings.CutPrefix(subject, s.controlPrefix())
	token, last, _ := strings.Cut(rest, ".")
	if !ours || last != resyncToken {
		return "", false
	}
	return events.Untoken(token)
}

// recallResyncs tells of the last request for each route.
func (s *Sink) recallResyncs(ctx context.Context) {
	s.kept.mu.Lock()
	tell := s.kept.listener.Resync
	s.kept.mu.Unlock()
	if tell == nil {
		return
	}
	ses, err := s.session()
	if err != nil {
		return // the next session tries again
	}
	if _, err := s.ensureStream(ctx, ses); err != nil {
		return
	}
	subjects, err := s.subjects(ctx, ses, s.controlPrefix()+"*."+resyncToken)
	if err != nil {
		s.log.Debug("requests for resyncs are not known", "error", err)
		return
	}
	for _, subject := range subjects {
		if route, ok := s.parseResync(subject); ok {
			if m, err := s.last(ctx, ses, subject); err == nil && m != nil {
				tell(route, requestNumber(m))
			}
		}
	}
}

// subjects are those of the stream that match.
func (s *Sink) subjects(ctx context.Context, ses *session, pattern string) (all []string, err error) {
	ctx, done := ses.patience(ctx, ses.isAPI)
	defer done()
	stream, err := ses.stream.handle(ctx, ses.js, s.jetstream.Stream)
	if err != nil {
		return nil, apiWords(because(ctx, err))
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(pattern))
	if err != nil {
		return nil, apiWords(because(ctx, err))
	}
	for subject := range info.State.Subjects {
		all = append(all, subject)
	}
	return all, nil
}

// Flows implements sinks.Keeper.
func (s *Sink) Flows(ctx context.Context) ([]sinks.Kept, error) {
	if !s.publishing.Enter() {
		return nil, s.fail(sinks.ErrClosed)
	}
	defer s.publishing.Leave()
	ses, err := s.session()
	if err != nil {
		return nil, s.fail(err)
	}
	f, err := s.ensureStream(ctx, ses)
	if err != nil {
		return nil, s.fail(err)
	}
	if !f.fenced {
		return nil, nil // there are no control messages to know them by
	}
	subjects, err := s.subjects(ctx, ses, s.controlPrefix()+">")
	if err != nil {
		return nil, s.fail(err)
	}
	var flows []sinks.Kept
	for _, subject := range subjects {
		if k, ok := s.parseControl(subject); ok {
			flows = append(flows, k)
		}
	}
	return flows, nil
}

// Forget implements sinks.Keeper.
func (s *Sink) Forget(ctx context.Context, flow sinks.Kept, before time.Time) (bool, error) {
	if !s.publishing.Enter() {
		return false, s.fail(sinks.ErrClosed)
	}
	defer s.publishing.Leave()
	ses, err := s.session()
	if err != nil {
		return false, s.fail(err)
	}
	f, err := s.ensureStream(ctx, ses)
	if err != nil {
		return false, s.fail(err)
	}
	foreign := flow.Sink
	if foreign == s.name {
		foreign = ""
	}
	p := s.streamPublisher(flow.Flow, foreign)
	m, err := s.last(ctx, ses, p.subject)
	if err != nil {
		return false, s.fail(err)
	}
	if m == nil || !m.Time.Before(before) {
		return false, nil
	}
	store, err := ses.shelf.open(ctx, s, ses, f.replicas)
	if err != nil {
		return false, s.fail(err)
	}
	refs, err := ses.shelf.of(ctx, ses, store, p.shelfName())
	if err != nil {
		return false, s.fail(err)
	}
	for _, ref := range refs {
		p.remove(ctx, ses, store, ref)
	}
	p.purge(ctx, ses, jetstream.WithPurgeSubject(p.subject+"."+rowsToken+".>"))
	p.purge(ctx, ses, jetstream.WithPurgeSubject(p.subject), jetstream.WithPurgeSequence(m.Sequence+1))
	return true, nil
}

// RequestResync implements sinks.Keeper.
func (s *Sink) RequestResync(ctx context.Context, route string) (uint64, error) {
	if !s.publishing.Enter() {
		return 0, s.fail(sinks.ErrClosed)
	}
	defer s.publishing.Leave()
	ses, err := s.session()
	if err != nil {
		return 0, s.fail(err)
	}
	f, err := s.ensureStream(ctx, ses)
	if err != nil {
		return 0, s.fail(err)
	}
	if !f.fenced {
		return 0, s.fail(fmt.Errorf("stream %s does not take %s: a request has no place; add %s to its subjects",
			s.jetstream.Stream, s.resyncSubject(route), controlSubjects(s.jetstream.Stream)))
	}
	ctx, done := ses.patience(ctx, func(subject string) bool { return subject == s.resyncSubject(route) })
	defer done()
	before, err := s.last(ctx, ses, s.resyncSubject(route))
	if err != nil {
		return 0, s.fail(because(ctx, err))
	}
	r := resyncRequest{Route: route, By: s.owner, Time: time.Now().UTC()}
	r.Number = uint64(r.Time.Unix())
	if before != nil {
		r.Number = max(r.Number, requestNumber(before)+1)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	_, err = ses.js.PublishMsg(ctx, &natsgo.Msg{Subject: s.resyncSubject(route), Data: body},
		jetstream.WithExpectStream(s.jetstream.Stream), jetstream.WithRetryAttempts(0))
	if err != nil {
		if _, is := errors.AsType[*jetstream.APIError](err); is {
			return 0, s.fail(apiWords(err))
		}
		return 0, s.fail(because(ctx, err))
	}
	s.hints.give(nil) // the server sends a connection nothing of its own
	return r.Number, nil
}

// requested is the number of the last request for the route; 0 for none.
func (s *Sink) requested(ctx context.Context, ses *session, route string) (uint64, error) {
	m, err := s.last(ctx, ses, s.resyncSubject(route))
	if err != nil || m == nil {
		return 0, err
	}
	return requestNumber(m), nil
}

// resyncRequest is what a request for a resync is stored as. Its number is
// that of a second, or the next that was not used: so it is higher than those
// before it also where the stream no longer has them, or is another.
type resyncRequest struct {
	Route  string    `json:"route"`
	Number uint64    `json:"number"`
	By     string    `json:"by"`
	Time   time.Time `json:"time"`
}

// requestNumber is the number of a stored request; that of the second in which
// it was stored where it is none that a bridge wrote.
func requestNumber(m *storedMessage) uint64 {
	var r resyncRequest
	if err := json.Unmarshal(m.Data, &r); err != nil || r.Number == 0 {
		return uint64(max(m.Time.Unix(), 1))
	}
	return r.Number
}
