package flow

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sources"
)

// place is a journal whose answers a test can change, and an outbox whose
// events are rows of it, as those of a stream are.
type place struct {
	*outbox
	mu     sync.Mutex
	claim  journal.Claim
	fresh  bool          // the next claim restores everything
	rows   []journal.Row // that were recorded
	landed []journal.Row // that the next claim finds to be stored after all
	fails  error         // what Record and Rebase answer
	rebase int
	base   int // that many rows are of another history
}

func newPlace() *place { return &place{outbox: newOutbox(), fresh: true} }

func (p *place) Claim(_ context.Context, into journal.Restorer) (journal.Claim, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rows := p.landed
	if p.fresh {
		into.Reset()
		rows = p.rows
	}
	for n, r := range rows {
		if p.fresh && n == p.base {
			into.Rebase()
		}
		into.Restore(r)
	}
	if p.fresh && p.base == len(rows) {
		into.Rebase()
	}
	p.fresh, p.landed = false, nil
	c := p.claim
	p.claim.Known = true
	return c, nil
}

// Publish stores events, which are rows.
func (p *place) Publish(ctx context.Context, batch []events.Event) (int, error) {
	durable, err := p.outbox.Publish(ctx, batch)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range batch[:durable] {
		p.rows = append(p.rows, rowOf(&batch[i]))
	}
	return durable, err
}

// rowOf is what an event says of its object.
func rowOf(e *events.Event) journal.Row {
	version, _ := parseVersion(e.Attribute(events.ExtResourceVersion))
	row := journal.Row{Key: e.Subject(), UID: uuid.MustParse(e.Attribute(events.ExtUID)), Version: version, Sent: true, Digest: e.Digest}
	row.Deselected = e.Attribute("type") == events.Deselected.CloudEvent()
	row.Gone = row.Deselected || e.Attribute("type") == events.Deleted.CloudEvent()
	row.Resync, row.Listed = events.Suffixes(e.ID(), "r")
	return row
}

func (p *place) Record(_ context.Context, rows []journal.Row, s journal.State) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails == nil {
		p.rows = append(p.rows, rows...)
		p.claim.State = s
	}
	return p.fails
}

func (p *place) Rebase(_ context.Context, s journal.State) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails == nil {
		p.rebase++
		p.base = len(p.rows)
		p.claim.State = s
	}
	return p.fails
}

func (p *place) SnapshotDue(int) bool                                                 { return false }
func (p *place) OnDue(func())                                                         {}
func (p *place) Snapshot(context.Context, journal.State, iter.Seq[journal.Row]) error { return nil }
func (p *place) Exact() bool                                                          { return true }
func (p *place) Fenced() bool                                                         { return true }

func (p *place) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails = err
}

func (p *place) recorded() journal.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claim.State
}

// process is a flow of a new process, whose ledger is what the place has.
func (p *place) process(t *testing.T, pattern *Flow) *harness {
	p.mu.Lock()
	p.fresh = true
	p.mu.Unlock()
	h := newHarness(t)
	env := Environment{Cluster: "test", Memory: NewMemory(64 << 20), Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)}
	h.out, h.flow = p.outbox, New(ID{CRD: "widgets.example.com", Route: "r", Sink: "s"}, env, p, p, pattern)
	return h
}

func end(r *Run, grace time.Duration) {
	r.Stop(grace)
	<-r.Done()
}

var errAway = errors.New("the sink is away")

// TestRowsOutliveRuns shows that rows which no event tells, and which the sink
// could not take before the run was stopped, are recorded by the next one
// before the position is that lies behind them.
func TestRowsOutliveRuns(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	h := p.process(t, nil)
	h.target.Rules = only(t, events.Updated, events.Deleted)
	r := h.start(ctx)
	list(ctx, r, 5)
	eventually(t, func() bool { return p.recorded().Phase == journal.Following })
	p.fail(errAway)
	r.Changed(ctx, thing("a", "", 10)) // created, which the route does not tell
	eventually(t, func() bool { position, _ := h.flow.ledger.resume(allNamespaces); return position == 10 })
	end(r, 0)
	p.fail(nil)
	end(h.start(ctx), 0)
	if s := p.recorded(); s.Position != 10 {
		t.Fatalf("recorded is %+v", s)
	}

	h = p.process(t, nil) // after a crash
	h.target.Rules = only(t, events.Updated, events.Deleted)
	r = h.start(ctx)
	r.Changed(ctx, thing("a", "", 20))
	end(r, time.Minute)
	p.wait(t, "updated ns/a@20")
}

// TestResyncFoundAgain shows that an event of a resync that was stored without
// an answer is not sent again, when the place has said so in the meantime.
func TestResyncFoundAgain(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	h := p.process(t, nil)
	r := h.start(ctx)
	list(ctx, r, 5, thing("a", "", 3))
	end(r, time.Minute)
	h.flow.RequestResync(later)
	p.set(func(n int) (int, int, error) { return n, 0, errAway })
	r = h.start(ctx)
	_ = r.ListStarted(ctx, "6")
	r.Listed(ctx, thing("a", "", 3))
	p.wait(t, "created ns/a@3", "existing ns/a@3 r0")
	end(r, 0)

	p.landed = []journal.Row{{Key: "ns/a", UID: uuid.MustParse(string(thing("a", "", 3).GetUID())), Version: 3, Sent: true, Resync: later}}
	p.ids = map[string]bool{} // and it no longer knows the id
	p.set(nil)
	r = h.start(ctx)
	list(ctx, r, 7, thing("a", "", 3), thing("b", "", 6))
	r.Changed(ctx, thing("b", "", 6))
	end(r, time.Minute)
	p.wait(t, "created ns/a@3", "existing ns/a@3 r0", "created ns/b@6")
}

// TestRebaseIsRecorded shows that the way on after etcd was put back is recorded
// also where the run that began it was stopped before it could be.
func TestRebaseIsRecorded(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	p.claim = journal.Claim{Known: true, State: journal.State{
		CRD: "widgets.example.com", Phase: journal.Following, Incarnation: "crd-1", Position: 100, Rewound: 100,
	}}
	p.rows = []journal.Row{{Key: "ns/a", UID: uuid.MustParse(string(thing("a", "", 3).GetUID())), Version: 90, Sent: true}}
	h := p.process(t, nil)
	h.flow.RequestResync(later)
	p.fail(errAway)
	r := h.flow.newRun(ctx, h.target)
	go r.run(true)
	eventually(t, func() bool { return h.flow.Status().State == Blocked })
	end(r, 0)
	p.fail(nil)
	r = h.start(ctx)
	list(ctx, r, 50, thing("a", "", 40))
	end(r, time.Minute)
	if p.rebase != 1 || p.recorded().Rewound != 0 {
		t.Errorf("rebased %d times; recorded is %+v", p.rebase, p.recorded())
	}
	p.wait(t, "existing ns/a@40 r0")
}

// TestIDsOfAnotherHistory shows that no event after an etcd was put back has the id
// of one before, which a sink or a subscriber would take it for: versions come once
// more, and objects that were told to be gone end once more.
func TestIDsOfAnotherHistory(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	h := p.process(t, nil)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6))
	r.Changed(ctx, thing("a", "", 11))
	r.Deleted(ctx, thing("b", "", 12))
	r.Changed(ctx, thing("lost", "", 13))
	r.Condition(&sources.RewoundError{Position: 13, Is: 9})
	eventually(t, func() bool { return h.flow.Status().State == Blocked })
	end(r, time.Minute)

	h.flow.RequestResync(later + 1)
	r = h.start(ctx)
	list(ctx, r, 9, thing("a", "", 5), thing("b", "", 6))
	r.Changed(ctx, thing("a", "", 11))
	end(r, time.Minute)
	// The same in another process, and after another resync.
	h = p.process(t, nil)
	r = h.start(ctx)
	r.Deleted(ctx, thing("b", "", 12))
	end(r, time.Minute)
	h.flow.RequestResync(later + 2)
	r = h.start(ctx)
	list(ctx, r, 14, thing("a", "", 11))
	r.Changed(ctx, thing("a", "", 15))
	end(r, time.Minute)
	p.wait(t, "created ns/a@5", "created ns/b@6", "updated ns/a@11", "deleted ns/b@12", "created ns/lost@13",
		"existing ns/a@5 r1", "created ns/b@6 h1", "deleted ns/lost@9 inferred h1", "updated ns/a@11 h1",
		"deleted ns/b@12 h1", "existing ns/a@11 r2", "updated ns/a@15 h1")
}

// TestIDsWithinAResync shows that what the resync after an etcd was put back tells as
// news has other ids than what it tells again, where the process ends in the
// middle of it: the next one tells of some objects both ways.
func TestIDsWithinAResync(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	h := p.process(t, nil)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	r.Changed(ctx, thing("lost", "", 13))
	r.Condition(&sources.RewoundError{Position: 13, Is: 9})
	eventually(t, func() bool { return h.flow.Status().State == Blocked })
	end(r, time.Minute)
	h.flow.RequestResync(later + 1)
	r = h.start(ctx)
	_ = r.ListStarted(ctx, "9")
	r.Listed(ctx, thing("a", "", 5))
	r.Listed(ctx, thing("b", "", 6))
	end(r, time.Minute)
	h = p.process(t, nil)
	h.flow.RequestResync(later + 1)
	r = h.start(ctx)
	list(ctx, r, 9, thing("a", "", 5), thing("b", "", 7))
	end(r, time.Minute)
	p.wait(t, "created ns/a@5", "created ns/lost@13", "existing ns/a@5 r1", "created ns/b@6 h1",
		"updated ns/b@7 coalesced h1", "existing ns/b@7 r1", "deleted ns/lost@9 inferred h1")
}

// TestPutBackToBeforeTheCRD shows that etcd which was put back to before there
// was a CRD is found out when that is there again.
func TestPutBackToBeforeTheCRD(t *testing.T) {
	ctx := t.Context()
	h := newPlace().process(t, nil)
	r := h.start(ctx)
	list(ctx, r, 85, thing("a", "old", 80))
	end(r, time.Minute)
	<-h.flow.StartDrain(ctx, h.target, 50).Done()
	h.target.CRD = "crd-2"
	h.flow.condition.setActive(Target{}, "")
	r = h.start(ctx)
	list(r.sourcing, r, 57, thing("a", "new", 56))
	end(r, time.Minute)
	if s := h.flow.Status(); s.State != Blocked || !strings.Contains(s.Reason, "bridge resync --route r") {
		t.Errorf("the flow is %s: %s", s.State, s.Reason)
	}
}

// TestUnfinishedFirstClaim shows that a claim after which nothing was recorded
// is none: what the first list has is existing all the same.
func TestUnfinishedFirstClaim(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	p.claim.Known = true // by a process that ended before it began
	h := p.process(t, nil)
	h.target.Existing = true
	h.flow.RequestResync(1) // of long ago
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	end(r, time.Minute)
	p.wait(t, "existing ns/a@5")
	if h.from.Survey || p.recorded().Resync < 1 {
		t.Errorf("began at %+v, recorded is %+v", h.from, p.recorded())
	}
}

// TestRequestAfterTheFirstClaim shows that what is requested once the flow has
// begun is done, whatever its number: it is made of another machine's clock,
// and in the second in which the flow began it is none the higher.
func TestRequestAfterTheFirstClaim(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	p.claim.Requested = 4 // of long ago
	h := p.process(t, nil)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	p.wait(t, "created ns/a@5")
	if h.flow.RequestResync(4) {
		t.Error("what was requested before the flow began is to be done")
	}
	if !h.flow.RequestResync(5) {
		t.Fatal("what was requested after the flow began is not to be done")
	}
	end(r, time.Minute)
	r = h.start(ctx)
	list(ctx, r, 12, thing("a", "", 5))
	end(r, time.Minute)
	if s := p.recorded(); s.Resync != 5 {
		t.Errorf("recorded is %+v", s)
	}
}

// TestWildcardKnowsWhatExisted shows which CRDs of a wildcard existed when its
// route became active, although a bridge ended before it had begun with them.
func TestWildcardKnowsWhatExisted(t *testing.T) {
	const active = 1000
	for _, test := range []struct {
		why     string
		created int64
		want    string
	}{
		{"it was there", active - 1, "existing ns/a@5"},
		{"it came in the same second", active, "existing ns/a@5"},
		{"it came later", active + 1, "created ns/a@5"},
	} {
		t.Run(test.why, func(t *testing.T) {
			ctx := t.Context()
			of := newPlace()
			of.claim = journal.Claim{Known: true, State: journal.State{CRD: "*.example.com", Active: active}}
			pattern := of.process(t, nil).flow
			<-pattern.StartDrain(ctx, Target{Rules: Everything()}, 1).Done()
			p := newPlace()
			h := p.process(t, pattern)
			h.target.Existing, h.target.Created = true, test.created
			r := h.start(ctx)
			list(ctx, r, 10, thing("a", "", 5))
			end(r, time.Minute)
			p.wait(t, test.want)
			if s := of.recorded(); s.Active != active {
				t.Errorf("the wildcard's record is %+v", s)
			}
		})
	}
}

// TestResyncAfterEtcdWasPutBack shows that one requested resync goes on after etcd
// was put back, also where the route selects otherwise since.
func TestResyncAfterEtcdWasPutBack(t *testing.T) {
	ctx := t.Context()
	p, h := toldOf(t, thing("a", "", 7))
	r := h.start(ctx)
	r.Condition(r.ListStarted(ctx, "8"))
	end(r, time.Minute)
	if s := p.recorded(); s.Rewound == 0 {
		t.Fatalf("recorded is %+v", s)
	}
	h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"ns"} })
	h.flow.RequestResync(later)
	r = h.start(ctx)
	if err := r.ListStarted(ctx, "9"); err != nil {
		t.Fatal(err)
	}
	r.Listed(ctx, thing("a", "", 6))
	r.ListFinished(ctx, "9")
	end(r, time.Minute)
	if s := p.recorded(); s.Rewound != 0 || s.Resync != later {
		t.Errorf("recorded is %+v", s)
	}
}

// TestStatusWhileADrainBegins: the version of a CRD that was gone before the process
// began is learnt from the journal, while others look at the flow. It is a test for
// the race detector.
func TestStatusWhileADrainBegins(t *testing.T) {
	p := newPlace()
	p.claim = journal.Claim{Known: true, State: journal.State{
		CRD: "widgets.example.com", Phase: journal.Following, Incarnation: "crd-1", Position: 10, Version: "v1", Kind: "Widget", Namespaced: true,
	}}
	p.rows = []journal.Row{{Key: "ns/a", UID: uuid.MustParse(string(thing("a", "", 3).GetUID())), Version: 5, Sent: true}}
	h := p.process(t, nil)
	r := h.flow.StartDrain(t.Context(), Target{Rules: Everything()}, 20)
	for ended := false; !ended; {
		select {
		case <-r.Done():
			ended = true
		default:
			_ = h.flow.Status()
		}
	}
	p.wait(t, "deleted ns/a@20 inferred")
}
