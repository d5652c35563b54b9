package nats

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestControlSubject(t *testing.T) {
	s := &Sink{name: "main", cluster: "demo.eu", jetstream: &JetStream{Stream: "K8S_1"}}
	for _, test := range []struct {
		why  string
		flow sinks.Flow
		sink string
		want string
	}{
		{"events in this stream", orders, "", "crbridge.K8S=5F1.demo_eu.orders.shop_example_com.orders"},
		{"events elsewhere", orders, "core", "crbridge.K8S=5F1.demo_eu.orders.shop_example_com.orders.sink.core"},
		{"a resource of no group", sinks.Flow{Route: "r", CRD: "pods"}, "", "crbridge.K8S=5F1.demo_eu.r.=.pods"},
	} {
		if got := s.controlSubject(test.flow, test.sink); got != test.want {
			t.Errorf("%s: %s, want %s", test.why, got, test.want)
		}
	}
	if got, want := s.resyncSubject("r"), "crbridge.K8S=5F1.demo_eu.r.resync"; got != want {
		t.Errorf("a request for a resync goes to %s, want %s", got, want)
	}
}

func TestParseControlRefusesWhatIsNone(t *testing.T) {
	s := &Sink{name: "main", cluster: "demo", jetstream: &JetStream{Stream: "K8S"}}
	for _, test := range []struct{ why, subject string }{
		{"another cluster's", "crbridge.K8S.other.r.g.c"},
		{"another stream's", "crbridge.OTHER.demo.r.g.c"},
		{"too short", "crbridge.K8S.demo.r.g"},
		{"too long", "crbridge.K8S.demo.r.g.c.x"},
		{"not of a sink", "crbridge.K8S.demo.r.g.c.snik.core"},
		{"a token that stands for nothing", "crbridge.K8S.demo.r.=4.c"},
		{"a request for a resync", s.resyncSubject("r")},
		{"rows", s.controlSubject(orders, "") + ".rows.1.1"},
		{"rows of a flow that leads elsewhere", s.controlSubject(orders, "core") + ".rows.1.1"},
	} {
		if kept, ok := s.parseControl(test.subject); ok {
			t.Errorf("%s: %s is taken for the one of %+v", test.why, test.subject, kept)
		}
	}
}

func FuzzControlSubject(f *testing.F) {
	for _, word := range []string{"", "a", "rows", "sink", "resync", "a.b", "_", "=", "ä", "*", ">", " "} {
		f.Add(word, word, word, word, word)
	}
	f.Fuzz(func(t *testing.T, cluster, route, resource, group, sink string) {
		s := &Sink{name: "main", cluster: cluster, jetstream: &JetStream{Stream: "K8S"}}
		if strings.Contains(resource, ".") || sink == "main" {
			t.Skip("no CRD's, or the sink itself")
		}
		flow := sinks.Flow{Route: route, CRD: resource}
		if group != "" {
			flow.CRD += "." + group
		}
		want := sinks.Kept{Flow: flow, Sink: sink}
		if sink == "" {
			want.Sink = "main"
		}
		subject := s.controlSubject(flow, sink)
		if got, ok := s.parseControl(subject); !ok || got != want {
			t.Errorf("%q is read as %+v, %t; it was made of %+v", subject, got, ok, want)
		}
		if _, ok := s.parseResync(subject); ok {
			t.Errorf("%q is taken for a request", subject)
		}
		if got, ok := s.parseResync(s.resyncSubject(route)); !ok || got != route {
			t.Errorf("the request for route %q is read as for %q, %t", route, got, ok)
		}
		if !covered(subject, []string{controlSubjects("K8S")}) || !covered(s.resyncSubject(route), []string{controlSubjects("K8S")}) {
			t.Errorf("%q is not of the stream", subject)
		}
	})
}

// words of control messages, by the subject's last message.
func lastControl(t *testing.T, js jetstream.JetStream, subject string) (c control, sequence uint64) {
	t.Helper()
	stream, err := js.Stream(t.Context(), "K8S")
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(m.Data, &c); err != nil {
		t.Fatal(err)
	}
	return c, m.Sequence
}

func put(t *testing.T, js jetstream.JetStream, subject string, body any) {
	t.Helper()
	data, is := body.(string)
	if !is {
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		data = string(encoded)
	}
	if _, err := js.Publish(t.Context(), subject, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// A control message of a bridge that is newer, or of something else, is told,
// and the ledger is rebuilt.
func TestControlMessageThatCannotBeRead(t *testing.T) {
	for _, test := range []struct {
		why  string
		body any
		gap  string
	}{
		{
			"of a newer bridge", map[string]any{"format": 9, "epoch": 7, "owner": "newer", "state": map[string]any{"position": 99}},
			"control message 4 is of format 9, and this bridge reads format 1; ",
		},
		{"not JSON", "something else", "control message 4 cannot be read: invalid character 's'"},
		{
			"of a newer bridge, with other types", map[string]any{"format": 9, "epoch": 7, "state": "in another form"},
			"control message 4 cannot be read: json: cannot unmarshal string",
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			js := streamsOf(t, client(t, server.URL()))
			s := open(t, options(t, server))
			publish(t, s, change(t, "a", 1), change(t, "b", 2))
			put(t, js, s.controlSubject(orders, ""), test.body)
			p, l := s.Publisher(orders), &ledger{}
			c := claim(t, p, l)
			if !c.Known || !strings.HasPrefix(c.Gap, test.gap) || c.State.Position != 0 {
				t.Errorf("claim: %+v\nwant a gap like %s", c, test.gap)
			}
			if diff := cmp.Diff([]string{"a 1", "b 2"}, l.versions()); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if want := (journal.State{CRD: orders.CRD, Version: "v1", Kind: "Order", Namespaced: true}); !c.State.Equal(want) {
				t.Errorf("the state is %+v, want what events tell: %+v", c.State, want)
			}
			deliver(t, p, change(t, "c", 3))
			if _, _, _, c := restart(t, options(t, server)); c.Gap != "" || !c.Known {
				t.Errorf("the next claim: %+v", c)
			}
		})
	}
}

// restart opens a sink and claims the flow orders, as after a crash.
func restart(t *testing.T, o Options) (*Sink, *streamPublisher, *ledger, journal.Claim) {
	t.Helper()
	s, l := open(t, o), &ledger{}
	p := s.Publisher(orders).(*streamPublisher)
	return s, p, l, claim(t, p, l)
}

func record(t *testing.T, j journal.Journal, rows []journal.Row, state journal.State) {
	t.Helper()
	eventually(t, "the state is recorded", func() (string, bool) {
		err := j.Record(t.Context(), rows, state)
		return fmt.Sprint(err), err == nil
	})
}

// Names that mean something in subjects are names all the same.
func TestFlowsWithNamesOfSubjects(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	o.Cluster = "rows"
	for _, f := range []sinks.Flow{
		{Route: "rows", CRD: "orders.shop.example.com"}, {Route: "sink", CRD: "rows.rows"}, {Route: "resync", CRD: "resync.sink"},
		{Route: "r", CRD: "rows"},
	} {
		for _, sink := range []string{"", "rows", "sink"} {
			row := journal.Row{Key: "default/unsent", UID: uid("unsent"), Version: 7}
			first := open(t, o).Journal(f, sink)
			claim(t, first.(sinks.Publisher), nil)
			record(t, first, []journal.Row{row}, journal.State{Position: 7})
			l := &ledger{}
			c := claim(t, open(t, o).Journal(f, sink).(sinks.Publisher), l)
			if diff := cmp.Diff(map[string]journal.Row{"default/unsent": row}, l.rows); diff != "" || c.State.Position != 7 || c.Gap != "" {
				t.Errorf("%v to %q: %+v, rows (-want +got):\n%s", f, sink, c, diff)
			}
		}
	}
}
