package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	natsgo "github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestFiltersOfAPass(t *testing.T) {
	sink := func(template string) *Sink {
		return &Sink{name: "main", cluster: "demo", subject: subject(t, template), jetstream: &JetStream{Stream: "K8S"}}
	}
	flows := func(n int) (all []sinks.Flow) {
		for i := range n {
			all = append(all, sinks.Flow{Route: fmt.Sprint("r", i), CRD: fmt.Sprint("c", i, ".example.com")})
		}
		return all
	}
	for _, test := range []struct {
		why      string
		template string
		flows    []sinks.Flow
		foreign  string
		anywhere bool
		want     []string // nil means all
		count    int
	}{
		{
			why: "what a flow has", template: template, flows: flows(1),
			want: []string{"crbridge.K8S.demo.r0.example_com.c0", "crbridge.K8S.demo.r0.example_com.c0.rows.>", "k8s.demo.example_com.c0.*.*"},
		},
		{
			why: "what a flow has whose events are elsewhere", template: template, flows: flows(1), foreign: "core",
			want: []string{"crbridge.K8S.demo.r0.example_com.c0.sink.core", "crbridge.K8S.demo.r0.example_com.c0.sink.core.rows.>"},
		},
		{why: "events that may have other subjects", template: template, flows: flows(1), anywhere: true},
		{why: "as many as the server picks out", template: template, flows: flows(fewFlows), count: 3 * fewFlows},
		{why: "more", template: template, flows: flows(fewFlows + 1)},
		{
			why: "two routes, of which the subjects tell nothing", template: template,
			flows: []sinks.Flow{{Route: "r0", CRD: "c.example.com"}, {Route: "r1", CRD: "c.example.com"}}, count: 5,
		},
		{why: "subjects that tell nothing of the flow are the same", template: "k8s.{namespace}.{name}", flows: flows(2), count: 5},
		{
			why: "subjects that are of control messages as well", template: "crbridge.K8S.{cluster}.{route}.{group}.{resource}", flows: flows(1),
			want: []string{"crbridge.K8S.demo.r0.example_com.c0", "crbridge.K8S.demo.r0.example_com.c0.rows.>"},
		},
		{why: "subjects that overlap with the control messages cannot be asked for beside them", template: "crbridge.K8S.{cluster}.{route}.{group}.{name}", flows: flows(1)},
	} {
		s := sink(test.template)
		var readings []*reading
		for _, f := range test.flows {
			readings = append(readings, &reading{flow: s.streamPublisher(f, test.foreign), from: 1, to: 9, anywhere: test.anywhere})
		}
		p := newPass(&tails{sink: s}, nil, readings)
		got := p.filters(p.byRows)
		slices.Sort(got)
		if test.count > 0 {
			if len(got) != test.count {
				t.Errorf("%s: %d filters, want %d: %q", test.why, len(got), test.count, got)
			}
		} else if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.why, diff)
		}
		for i, a := range got {
			for _, b := range got[i+1:] {
				if overlap(a, b) {
					t.Errorf("%s: JetStream refuses %s with %s", test.why, a, b)
				}
			}
		}
	}
}

// What an event says of its object is what the message that it was says.
func TestRowOfAnEventAndItsMessage(t *testing.T) {
	id := uuid.New()
	for _, test := range []struct {
		why    string
		origin func(*events.Origin)
		change func(*events.Change)
		want   journal.Row
	}{
		{"an update", func(*events.Origin) {}, func(*events.Change) {}, journal.Row{Key: "default/a", UID: id, Version: 7, Sent: true}},
		{
			"a delete", func(*events.Origin) {}, func(c *events.Change) { c.Type = events.Deleted },
			journal.Row{Key: "default/a", UID: id, Version: 7, Sent: true, Gone: true},
		},
		{
			"a requested resync", func(*events.Origin) {}, func(c *events.Change) { c.Type, c.Resync = events.Existing, 12 },
			journal.Row{Key: "default/a", UID: id, Version: 7, Sent: true, Resync: 12},
		},
		{
			"a requested resync on a route that is called like one", func(o *events.Origin) { o.Route = "r.r1" }, func(c *events.Change) { c.Type, c.Resync = events.Existing, 12 },
			journal.Row{Key: "default/a", UID: id, Version: 7, Sent: true, Resync: 12},
		},
		{
			"a requested resync, and a route that selects more", func(*events.Origin) {},
			func(c *events.Change) { c.Type, c.Resync, c.Listed = events.Existing, 12, 20 },
			journal.Row{Key: "default/a", UID: id, Version: 7, Sent: true, Resync: 12, Listed: 20},
		},
		{
			"an update in a restored etcd", func(o *events.Origin) { o.History = 12 }, func(*events.Change) {},
			journal.Row{Key: "default/a", UID: id, Version: 7, Sent: true},
		},
		{
			"a route that is called like what is before it", func(o *events.Origin) { o.Route = "7" },
			func(c *events.Change) { c.Type, c.Resync = events.Existing, 12 },
			journal.Row{Key: "default/a", UID: id, Version: 7, Sent: true, Resync: 12},
		},
		{
			"cluster-scoped", func(o *events.Origin) { o.Namespaced = false }, func(c *events.Change) { c.Namespace = "" },
			journal.Row{Key: "a", UID: id, Version: 7, Sent: true},
		},
	} {
		for _, mode := range []sinks.Mode{sinks.Binary, sinks.Structured} {
			origin := events.Origin{Cluster: "demo", Group: "g", Version: "v1", Kind: "Order", Resource: "orders", Namespaced: true, Route: "orders"}
			c := events.Change{Type: events.Updated, Namespace: "default", Name: "a", UID: id.String(), ResourceVersion: 7, Object: &object.Object{JSON: []byte(`{}`)}}
			test.origin(&origin)
			test.change(&c)
			e, err := events.New(origin, nil, c)
			if err != nil {
				t.Fatalf("%s: %v", test.why, err)
			}
			if diff := cmp.Diff(test.want, rowOf(&e)); diff != "" {
				t.Errorf("%s: the event's row (-want +got):\n%s", test.why, diff)
			}
			m, err := encode(mode, "k8s", &e)
			if err != nil {
				t.Fatal(err)
			}
			mark(m, &e)
			got, ok := readRow(e.ID(), func(name string) string { return m.Header.Get("ce-" + name) })
			if diff := cmp.Diff(test.want, got); diff != "" || !ok {
				t.Errorf("%s: the %s message's row, %t (-want +got):\n%s", test.why, mode, ok, diff)
			}
		}
	}
}

func TestReadRowRefusesWhatNoBridgeWrites(t *testing.T) {
	whole := map[string]string{
		"subject": "default/a", "type": events.Updated.CloudEvent(), events.ExtUID: uuid.NewString(),
		events.ExtResourceVersion: "7", events.ExtRoute: "orders",
	}
	for _, test := range []struct{ why, id, attribute, value string }{
		{"no id", "", "", ""},
		{"no subject", "id", "subject", ""},
		{"no uid", "id", events.ExtUID, ""},
		{"a uid that is none", "id", events.ExtUID, "uid-a"},
		{"no version", "id", events.ExtResourceVersion, ""},
		{"a version that is no number", "id", events.ExtResourceVersion, "abc"},
	} {
		row, ok := readRow(test.id, func(name string) string {
			if name == test.attribute {
				return test.value
			}
			return whole[name]
		})
		if ok {
			t.Errorf("%s: it is taken for %+v", test.why, row)
		}
	}
}

// Events of strangers in the stream, and of this bridge's other flows, are not
// the flow's.
func TestStrangersInTheStream(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	o := options(t, server)
	s, p, _, _ := restart(t, o)
	deliver(t, p, change(t, "a", 1))
	e := change(t, "b", 2)
	for _, test := range []struct {
		why    string
		change func(*natsgo.Msg)
	}{
		{"nothing", func(m *natsgo.Msg) { m.Header = nil }},
		{"another cluster's", func(m *natsgo.Msg) { m.Header.Set("ce-source", "/clusters/other/apis/shop.example.com/orders") }},
		{"another route's", func(m *natsgo.Msg) { m.Header.Set("ce-route", "other") }},
		{"no id", func(m *natsgo.Msg) { m.Header.Del("Nats-Msg-Id") }},
		{"said twice", func(m *natsgo.Msg) { m.Header.Add("ce-uid", "another") }},
		{"rows that are none of ours", func(m *natsgo.Msg) { m.Header, m.Subject = nil, "crbridge.K8S.demo.rows.rows.1.1" }},
	} {
		m, err := s.message(&e)
		if err != nil {
			t.Fatal(err)
		}
		m.Header["Nats-Msg-Id"] = []string{test.why}
		test.change(m)
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatalf("%s: %v", test.why, err)
		}
	}
	other := sinks.Flow{Route: "other", CRD: "others.example.com"}
	q := s.Publisher(other)
	claim(t, q, nil)
	deliver(t, q, changeOf(t, other, events.Updated, "c", 1))
	if _, _, l, c := restart(t, o); c.Gap != "" || !slices.Equal(l.versions(), []string{"a 1"}) {
		t.Errorf("claim: %+v, rows %q", c, l.versions())
	}
	// Rows that cannot be read must not be passed over.
	put(t, js, p.subject+".rows.9.9", "something else")
	_, err := open(t, o).connected(t).Publisher(orders).(journal.Journal).Claim(t.Context(), &ledger{})
	if err == nil || !strings.Contains(err.Error(), "rows in message") {
		t.Errorf("rows that cannot be read: Claim says %v", err)
	}
}

// connected waits until the sink is.
func (s *Sink) connected(t *testing.T) *Sink {
	t.Helper()
	eventually(t, "the sink is connected", func() (string, bool) { return s.Status().LastError, s.Status().Connected })
	return s
}

// Flows that are claimed together are restored in one pass.
func TestManyFlowsAreRestoredInOnePass(t *testing.T) {
	const flows = 1000
	server := natstest.Start(t, "")
	o := options(t, server)
	flow := func(n int) sinks.Flow { return sinks.Flow{Route: fmt.Sprint("route", n), CRD: orders.CRD} }
	all := func(s *Sink, do func(p sinks.Publisher, n int) error) {
		t.Helper()
		var working sync.WaitGroup
		for n := range flows {
			working.Go(func() {
				if err := do(s.Publisher(flow(n)), n); err != nil {
					t.Errorf("flow %d: %v", n, err)
				}
			})
		}
		working.Wait()
	}
	first := open(t, o).connected(t)
	all(first, func(p sinks.Publisher, n int) error {
		if _, err := p.(journal.Journal).Claim(t.Context(), &ledger{}); err != nil {
			return err
		}
		_, err := p.Publish(t.Context(), batchOf(changeOf(t, flow(n), events.Updated, "a", n+1), changeOf(t, flow(n), events.Updated, "b", n+1)))
		return err
	})
	var log settingstest.LogBook
	o.Logger = log.Logger(slog.LevelDebug)
	all(open(t, o).connected(t), func(p sinks.Publisher, n int) error {
		l := &ledger{}
		c, err := p.(journal.Journal).Claim(t.Context(), l)
		if err == nil && (l.given != 2 || l.rows["default/b"].Version != uint64(n+1) || !c.Known || c.Gap != "") {
			err = fmt.Errorf("%d rows, %+v", l.given, c)
		}
		return err
	})
	if passes := strings.Count(log.String(), "stream read"); passes > 3 {
		t.Errorf("the stream was read %d times", passes)
	}
}

// A claim that is given up does not keep others from theirs.
func TestClaimThatIsGivenUp(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	_, p, _, _ := restart(t, o)
	deliver(t, p, manyObjects(t, 100, 1)...)
	s := open(t, o).connected(t)
	ctx, giveUp := context.WithCancel(t.Context())
	leaving := &leaver{ledger: &ledger{}, leave: giveUp}
	q := s.Publisher(orders).(*streamPublisher)
	if _, err := q.Claim(ctx, leaving); !errors.Is(err, context.Canceled) {
		t.Errorf("Claim that is given up says %v", err)
	}
	l := &ledger{}
	if c := claim(t, q, l); c.Gap != "" || len(l.rows) != 100 || l.resets == 0 {
		t.Errorf("%d rows, claim: %+v", len(l.rows), c)
	}
}

// leaver gives up at the first row.
type leaver struct {
	*ledger
	leave func()
}

func (l *leaver) Restore(row journal.Row) {
	l.leave()
	l.ledger.Restore(row)
}

// Events that were published under another template are found all the same, as
// long as no snapshot has them.
func TestEventsUnderAnotherTemplate(t *testing.T) {
	const other = "k8s.v2.{cluster}.{group}.{resource}.{namespace}.{name}"
	for _, test := range []struct {
		why     string
		earlier bool // the first bridge is of a build that does not record the pattern
		then    []string
	}{
		{"the template changes", false, []string{other, other}},
		{"and is changed back", false, []string{other, template}},
		{"while the bridge is upgraded", true, []string{other, other}},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			o := options(t, server)
			o.JetStream.Subjects = []string{"k8s.>", "crbridge.K8S.>"}
			_, p, _, _ := restart(t, o)
			deliver(t, p, change(t, "a", 1))
			record(t, p, nil, journal.State{Position: 1})
			if test.earlier {
				c, _ := lastControl(t, js, p.subject)
				c.Pattern = ""
				put(t, js, p.subject, c)
			}
			want := []string{"a 1"}
			for i, template := range test.then {
				o.Subject = subject(t, template)
				var l *ledger
				var c journal.Claim
				_, p, l, c = restart(t, o)
				if diff := cmp.Diff(want, l.versions()); diff != "" || c.Gap != "" {
					t.Errorf("claim %d: %+v, rows (-want +got):\n%s", i+1, c, diff)
				}
				e := change(t, fmt.Sprint("b", i), i+2)
				deliver(t, p, e)
				want = append(want, fmt.Sprintf("b%d %d", i, i+2))
				record(t, p, nil, journal.State{Position: uint64(i + 2)})
				if i == len(test.then)-1 {
					l.Restore(rowOf(&e))
					takeSnapshot(t, p, l, journal.State{Position: uint64(i + 2)})
				}
			}
			// From there on the server picks out what there is.
			if c, _ := lastControl(t, js, p.subject); c.Pattern != p.pattern {
				t.Errorf("with a snapshot of all of it the control message has the pattern %q, want %q", c.Pattern, p.pattern)
			}
			if _, _, l, c := restart(t, o); c.Gap != "" || !slices.Equal(l.versions(), want) {
				t.Errorf("the last claim: %+v, rows %q, want %q", c, l.versions(), want)
			}
		})
	}
}
