package nats

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestCoreNATSKeepsNothing(t *testing.T) {
	o := options(t, natstest.New(t, ""))
	o.JetStream = nil
	if k := open(t, o).Keeper(); k != nil {
		t.Errorf("Keeper of core NATS is %v", k)
	}
}

// heard is what a listener was told.
type heard struct {
	mu     sync.Mutex
	fenced []journal.FencedError
	resync map[string]uint64
}

func listenTo(s *Sink) *heard {
	h := &heard{resync: map[string]uint64{}}
	s.Notify(sinks.Listener{
		Fenced: func(err *journal.FencedError) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.fenced = append(h.fenced, *err)
		},
		Resync: func(route string, number uint64) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.resync[route] = max(number, h.resync[route])
		},
	})
	return h
}

func (h *heard) untilResync(t *testing.T, route string, number uint64) {
	t.Helper()
	eventually(t, "the request is told", func() (string, bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return fmt.Sprint(h.resync), h.resync[route] == number
	})
}

// A flow that another bridge takes over is told also while nothing is written.
func TestFencedIsToldWhileIdle(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	s, p, _, _ := restart(t, o)
	told := listenTo(s)
	deliver(t, p, change(t, "a", 1))
	other := orders
	other.Route = "other"
	second, _, _, _ := restart(t, o)
	eventually(t, "it is told", func() (string, bool) {
		told.mu.Lock()
		defer told.mu.Unlock()
		return "", len(told.fenced) > 0
	})
	if want := (journal.FencedError{Flow: orders.String(), Owner: second.owner}); told.fenced[0] != want {
		t.Errorf("told is %+v, want %+v", told.fenced[0], want)
	}
	// Neither one's own claims nor other flows' are news.
	told = listenTo(second)
	claim(t, second.Publisher(other), nil)
	claim(t, second.Publisher(other), nil)
	claim(t, s.Publisher(sinks.Flow{Route: "third", CRD: orders.CRD}), nil)
	<-time.After(300 * time.Millisecond)
	told.mu.Lock()
	defer told.mu.Unlock()
	if len(told.fenced) > 0 {
		t.Errorf("told is %+v", told.fenced)
	}
}

func TestRequestedResync(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	running := open(t, o).connected(t)
	told := listenTo(running)
	first, err := open(t, o).connected(t).RequestResync(t.Context(), "orders")
	if err != nil || first == 0 {
		t.Fatal(first, err)
	}
	told.untilResync(t, "orders", first)
	second, err := open(t, o).connected(t).RequestResync(t.Context(), "a.b *")
	if err != nil || second < first {
		t.Errorf("the request for another route is %d, %v; the first was %d", second, err, first)
	}
	told.untilResync(t, "a.b *", second)
	own, err := running.RequestResync(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if own <= first {
		t.Errorf("the second request is %d; the first was %d", own, first)
	}
	told.untilResync(t, "orders", own)

	// To a bridge that comes later the last one for each route is told,
	// however late it says that it wants to know.
	later := open(t, o).connected(t)
	<-time.After(1300 * time.Millisecond) // it has looked for requests, and there was nobody to tell
	told = listenTo(later)
	told.untilResync(t, "orders", own)
	told.untilResync(t, "a.b *", second)
	early := open(t, o)
	told = listenTo(early)
	told.untilResync(t, "orders", own)

	// And to one that was cut off.
	server.Stop(t)
	server.Start(t)
	another, err := early.connected(t).RequestResync(t.Context(), "orders")
	for err != nil {
		another, err = early.RequestResync(t.Context(), "orders")
	}
	told.untilResync(t, "orders", another)
	// A request is no flow.
	if flows, err := early.Flows(t.Context()); err != nil || len(flows) > 0 {
		t.Errorf("flows: %+v, %v", flows, err)
	}
	// One that begins after it has nothing to tell again.
	if c := claim(t, early.Publisher(sinks.Flow{Route: "orders", CRD: orders.CRD}), nil); c.Requested != another {
		t.Errorf("the claim of a new flow says that %d was requested; it was %d", c.Requested, another)
	}
}

// Who may not hear what others write works all the same.
func TestControlSubjectsMayBeDenied(t *testing.T) {
	server := natstest.Start(t, fmt.Sprintf(permissions, "", `"crbridge.>"`))
	o := options(t, server)
	asBridge(t, &o)
	s := open(t, o)
	publish(t, s, change(t, "a", 1))
	if status := s.Status(); status.LastError != "" {
		t.Errorf("the status says %q", status.LastError)
	}
}

func TestKeptFlows(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	s := open(t, o)
	p := publisher(t, s).(*streamPublisher)
	deliver(t, p, change(t, "a", 1))
	l := &ledger{}
	l.Restore(journal.Row{Key: "default/a", UID: uid("a"), Version: 1, Sent: true})
	takeSnapshot(t, p, l, journal.State{Position: 1})
	record(t, p, []journal.Row{{Key: "default/unsent", UID: uid("unsent"), Version: 2}}, journal.State{Position: 2})
	foreign := s.Journal(sinks.Flow{Route: "orders", CRD: "orders.shop.example.com"}, "core")
	claim(t, foreign.(sinks.Publisher), nil)
	o.Cluster = "other"
	publish(t, open(t, o), change(t, "a", 1))

	order := func(a, b sinks.Kept) int { return strings.Compare(a.Sink, b.Sink) }
	here, elsewhere := sinks.Kept{Flow: orders, Sink: "main"}, sinks.Kept{Flow: orders, Sink: "core"}
	flows := func(want ...sinks.Kept) {
		t.Helper()
		got, err := s.Flows(t.Context())
		slices.SortFunc(got, order)
		slices.SortFunc(want, order)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v, flows (-want +got):\n%s", err, diff)
		}
	}
	flows(here, elsewhere)
	begin := time.Now().Add(-time.Hour)
	if forgotten, err := s.Forget(t.Context(), here, begin); forgotten || err != nil {
		t.Errorf("a flow that was written to is forgotten: %t, %v", forgotten, err)
	}
	if forgotten, err := s.Forget(t.Context(), sinks.Kept{Flow: sinks.Flow{Route: "none", CRD: "none"}, Sink: "main"}, time.Now()); forgotten || err != nil {
		t.Errorf("a flow that nobody knows is forgotten: %t, %v", forgotten, err)
	}
	flows(here, elsewhere)
	s = open(t, options(t, server)).connected(t) // which lists the bucket when it needs to
	for i, kept := range []sinks.Kept{elsewhere, here} {
		if forgotten, err := s.Forget(t.Context(), kept, time.Now().Add(time.Hour)); !forgotten || err != nil {
			t.Errorf("%+v is not forgotten: %v", kept, err)
		}
		if i == 0 {
			flows(here)
		} else {
			flows()
		}
	}
	js := streamsOf(t, client(t, server.URL()))
	if names := snapshotNames(t, js); slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, p.shelfName()) }) {
		t.Errorf("snapshots are left: %q", names)
	}
	for _, m := range allMessages(t, js, "K8S") {
		if strings.HasPrefix(m.Subject, s.controlPrefix()) {
			t.Errorf("left is %s", m.Subject)
		}
	}
	// Its events are subscribers'. Who claims the flow finds them.
	if _, _, l, c := restart(t, options(t, server)); !c.Known || !slices.Equal(l.versions(), []string{"a 1"}) {
		t.Errorf("claim: %+v, rows %q", c, l.versions())
	}
}

// The ledger of a flow that leads elsewhere is in rows only.
func TestForeignJournal(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	s := open(t, o)
	publish(t, s, change(t, "a", 9)) // of the same flow, to this sink
	j := s.Journal(orders, "core")
	if c := claim(t, j.(sinks.Publisher), nil); c.Known {
		t.Errorf("claim of a new flow: %+v", c)
	}
	if j.Exact() || j.Fenced() {
		t.Errorf("Exact is %t, Fenced is %t; its events are elsewhere", j.Exact(), j.Fenced())
	}
	row := func(key string, version uint64) journal.Row {
		return journal.Row{Key: "default/" + key, UID: uid(key), Version: version, Sent: true}
	}
	record(t, j, []journal.Row{row("a", 1), row("b", 2)}, journal.State{Position: 2})
	l := &ledger{}
	l.Restore(row("a", 1))
	l.Restore(row("b", 2))
	takeSnapshot(t, j, l, journal.State{Position: 2})
	record(t, j, []journal.Row{row("b", 3)}, journal.State{Position: 3})
	got := &ledger{}
	second := open(t, o).Journal(orders, "core")
	if c := claim(t, second.(sinks.Publisher), got); !c.Known || c.Gap != "" || c.State.Position != 3 || got.given != 3 {
		t.Errorf("claim: %+v, %d rows", c, got.given)
	}
	if diff := cmp.Diff([]string{"a 1", "b 3"}, got.versions()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	untilFenced(t, func() error { return j.Record(t.Context(), nil, journal.State{}) })
	publish(t, s, change(t, "a", 10)) // the flow to this sink is another one
}

// Control messages must not pile up, nor go with age.
func TestControlMessagesAreKept(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	o.JetStream.MaxAge = time.Hour
	_, p, _, _ := restart(t, o)
	for n := range 3 * purgeEvery {
		record(t, p, nil, journal.State{Position: uint64(n + 1)})
	}
	stream, err := js.Stream(t.Context(), "K8S")
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(p.subject))
	if err != nil || info.State.Subjects[p.subject] > purgeEvery+1 {
		t.Errorf("%d control messages are left, %v", info.State.Subjects[p.subject], err)
	}
	before, sequence := lastControl(t, js, p.subject)
	p.refresh(t.Context())
	if _, after := lastControl(t, js, p.subject); after != sequence {
		t.Error("a young control message was written anew")
	}
	p.control.Time = time.Now().Add(-time.Hour / 2)
	p.refresh(t.Context())
	after, renewed := lastControl(t, js, p.subject)
	if renewed <= sequence || !after.State.Equal(before.State) || after.Epoch != before.Epoch {
		t.Errorf("an old control message is %d, %+v now; it was %d, %+v", renewed, after, sequence, before)
	}
	deliver(t, p, changeOf(t, orders, events.Updated, "a", 1))
}

// What a ledger is made of ages in the stream while nothing happens to the
// flow: whoever keeps the ledger is reminded in time, also after a restart.
func TestIdleFlowsAreReminded(t *testing.T) {
	const maxAge = 4 * time.Second
	for _, test := range []struct {
		why     string
		restart bool
	}{{"the bridge that delivered", false}, {"one that came after it", true}} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			o := options(t, server)
			o.JetStream.MaxAge, o.JetStream.DuplicateWindow = maxAge, time.Second
			s, p, l, c := restart(t, o)
			batch := manyObjects(t, 3, 1)
			deliver(t, p, batch...)
			for i := range batch {
				l.Restore(rowOf(&batch[i]))
			}
			if test.restart {
				_ = s.Close(t.Context())
				_, p, l, c = restart(t, o)
			}
			due := make(chan struct{}, 1)
			p.OnDue(func() {
				select {
				case due <- struct{}{}:
				default:
				}
			})
			select {
			case <-due:
			case <-time.After(maxAge):
				t.Fatal("nobody was reminded before the events were gone")
			}
			if err := p.Snapshot(t.Context(), c.State, l.each()); err != nil {
				t.Fatal(err)
			}
			record(t, p, nil, c.State)
			p.OnDue(nil)
			if p.SnapshotDue(len(l.rows)) {
				t.Error("a snapshot is due right after one")
			}
		})
	}
}

// An idle flow's control message must not be pushed out by what others write.
func TestControlMessageIsNotPushedOut(t *testing.T) {
	for _, test := range []struct {
		why     string
		limit   func(*jetstream.StreamConfig)
		renewed bool
	}{
		{"a limit on messages", func(c *jetstream.StreamConfig) { c.MaxMsgs = 100 }, true},
		{"a limit on bytes", func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, true},
		{"no limit", func(*jetstream.StreamConfig) {}, false},
		{"a limit at which nothing more is taken", func(c *jetstream.StreamConfig) { c.MaxMsgs, c.Discard = 100, jetstream.DiscardNew }, false},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			config := jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}, AllowDirect: true}
			test.limit(&config)
			if _, err := js.CreateStream(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			s, p, _, _ := restart(t, options(t, server))
			record(t, p, nil, journal.State{Position: 7})
			ses, err := s.session()
			if err != nil {
				t.Fatal(err)
			}
			_, before := lastControl(t, js, p.subject)
			look := func() uint64 {
				s.keep(t.Context(), ses, []*streamPublisher{p})
				c, sequence := lastControl(t, js, p.subject)
				if c.State.Position != 7 {
					t.Errorf("its state is %+v now", c.State)
				}
				return sequence
			}
			other := s.Publisher(sinks.Flow{Route: "other", CRD: orders.CRD})
			claim(t, other, nil)
			for version := range 50 {
				deliver(t, other, changeOf(t, sinks.Flow{Route: "other", CRD: orders.CRD}, events.Updated, "a", version+1))
			}
			renewed := look()
			if (renewed > before) != test.renewed {
				t.Errorf("the control message %d is %d after others have written", before, renewed)
			}
			// And not again for its own sake.
			p.fence = before
			for range 3 {
				if again := look(); again != renewed {
					t.Errorf("the control message %d is %d while nobody writes", renewed, again)
				}
			}
		})
	}
}

// A flow whose claim something in the background has found void is told, so
// that it does not wait for its next event to find out.
func TestLostClaimIsReminded(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	s, p, l, _ := restart(t, options(t, server))
	record(t, p, nil, journal.State{Position: 1})
	reminded := make(chan struct{}, 1)
	p.OnDue(func() {
		select {
		case reminded <- struct{}{}:
		default:
		}
	})
	if err := js.DeleteStream(t.Context(), "K8S"); err != nil {
		t.Fatal(err)
	}
	ses, err := s.session()
	if err != nil {
		t.Fatal(err)
	}
	claim(t, s.Publisher(sinks.Flow{Route: "other", CRD: orders.CRD}), nil) // makes it anew
	ses.stream.doubt()
	s.keep(t.Context(), ses, []*streamPublisher{p})
	select {
	case <-reminded:
	default:
		t.Fatal("nobody was reminded")
	}
	if !p.SnapshotDue(0) {
		t.Error("no snapshot is due, by which the flow would find out")
	}
	if err := p.Snapshot(t.Context(), journal.State{}, l.each()); !errors.Is(err, journal.ErrReplaced) {
		t.Errorf("Snapshot says %v", err)
	}
	if err := p.Record(t.Context(), nil, journal.State{}); !errors.Is(err, journal.ErrReplaced) {
		t.Errorf("Record says %v", err)
	}
	claim(t, p, l)
	if p.SnapshotDue(0) {
		t.Error("a snapshot is due of what was claimed again")
	}
}
