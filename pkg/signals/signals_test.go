package signals_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/signals"
	"github.com/crbridge/crbridge/pkg/sinks"
)

var orders = flow.ID{CRD: "orders.shop.example.com", Route: "orders", Sink: "main"}

func is(state flow.State, reason string) []flow.Status {
	return []flow.Status{{ID: orders, State: state, Reason: reason}}
}

func sink(connected bool, lastError string) map[string]sinks.Status {
	return map[string]sinks.Status{"main": {Type: "nats", Connected: connected, LastError: lastError}}
}

var well = sink(true, "")

// told is what is told while the status stays the same, second by second.
func told(w *signals.Watch, from, seconds int, flows []flow.Status, s map[string]sinks.Status) []string {
	var all []string
	for n := range seconds {
		at := time.Unix(int64(from+n), 0)
		for _, e := range w.Look(at, flows, s) {
			kind := "Normal"
			if e.Warning() {
				kind = "Warning"
			}
			all = append(all, fmt.Sprintf("%d %s %s %s", from+n, kind, e.Reason, e.Note))
		}
	}
	return all
}

func TestLook(t *testing.T) {
	const about = "orders.shop.example.com on route orders to sink main: "
	type look struct {
		seconds int
		flows   []flow.Status
		sinks   map[string]sinks.Status
	}
	for _, row := range []struct {
		why   string
		looks []look
		want  []string
	}{
		{"nothing where all is well", []look{{100, is(flow.Running, ""), well}}, nil},
		{"a condition once, when it has lasted", []look{{100, is(flow.Forbidden, "grant it"), well}},
			[]string{"3 Warning FlowForbidden " + about + "grant it"}},
		{"not one that is over at once", []look{{2, is(flow.Failed, "404"), well}, {100, is(flow.Running, ""), well}}, nil},
		{"that it is over", []look{{10, is(flow.Forbidden, "grant it"), well}, {100, is(flow.Running, ""), well}},
			[]string{"3 Warning FlowForbidden " + about + "grant it", "10 Normal FlowRecovered " + about + "all is well again, after 10s of FlowForbidden"}},
		{"not that it is over where another one follows", []look{{10, is(flow.Forbidden, "grant it"), well}, {10, is(flow.Failed, "no"), well}},
			[]string{"3 Warning FlowForbidden " + about + "grant it", "13 Warning FlowFailed " + about + "no"}},
		{"not that it is over where the flow is gone", []look{{10, is(flow.Forbidden, "grant it"), well}, {10, nil, well}},
			[]string{"3 Warning FlowForbidden " + about + "grant it"}},
		{"other words are the same condition", []look{{10, is(flow.Failed, "a"), well}, {100, is(flow.Failed, "b"), well}},
			[]string{"3 Warning FlowFailed " + about + "a"}},
		{"one that lasts, before the API server forgets it", []look{{1900, is(flow.Failed, "a"), well}},
			[]string{"3 Warning FlowFailed " + about + "a", "1803 Warning FlowFailed " + about + "a"}},
		{"a CRD that is to come, after a while", []look{{100, is(flow.Waiting, "no CRD"), well}},
			[]string{"30 Normal FlowWaiting " + about + "no CRD"}},
		{"a sink, and not each of its flows", []look{{10, is(flow.Blocked, "refused"), sink(false, "sink main: refused")}, {10, is(flow.Running, ""), well}},
			[]string{"3 Warning SinkNotConnected sink main: refused", "10 Normal SinkRecovered sink main takes events again, after 10s"}},
		{"a stream", []look{{10, is(flow.Blocked, "does not fit"), sink(true, "sink main: does not fit")}},
			[]string{"3 Warning SinkBlocked sink main: does not fit"}},
		{"a flow that is blocked for itself", []look{{10, is(flow.Blocked, "rewound"), well}},
			[]string{"3 Warning FlowBlocked " + about + "rewound"}},
		{"what is to be known of one that runs", []look{{10, is(flow.Running, "too large"), well}},
			[]string{"3 Warning FlowDegraded " + about + "too large"}},
		{"nothing of a standby", []look{{100, is(flow.Standby, "another leads"), well}}, nil},
	} {
		t.Run(row.why, func(t *testing.T) {
			var w signals.Watch
			var got []string
			at := 0
			for _, l := range row.looks {
				got = append(got, told(&w, at, l.seconds, l.flows, l.sinks)...)
				at += l.seconds
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func many(n int, state flow.State, reason string) []flow.Status {
	var all []flow.Status
	for i := range n {
		all = append(all, flow.Status{ID: flow.ID{CRD: fmt.Sprintf("kind%04d.example.com", i), Route: "all", Sink: "main"}, State: state, Reason: reason})
	}
	return all
}

// TestManyTogether shows that what befalls all flows is one Event.
func TestManyTogether(t *testing.T) {
	var w signals.Watch
	if got := told(&w, 0, 20, many(10, flow.Forbidden, "grant it"), well); len(got) != 10 {
		t.Errorf("of ten flows %d Events are told: %q", len(got), got)
	}
	w = signals.Watch{}
	got := told(&w, 0, 100, many(1000, flow.Forbidden, "grant it"), well)
	if len(got) != 1 || !strings.Contains(got[0], "1000 together, which /api/status lists; the first is kind0000.example.com on route all to sink main: grant it") {
		t.Errorf("of a thousand flows is told: %q", got)
	}
	if got := told(&w, 100, 10, many(1000, flow.Running, ""), well); len(got) != 1 || !strings.Contains(got[0], "Normal FlowRecovered 1000 together") {
		t.Errorf("when they are well again is told: %q", got)
	}
}

// TestBounds shows that conditions that come and go all the time are told of
// within bounds.
func TestBounds(t *testing.T) {
	var w signals.Watch
	count := 0
	const seconds = 3600
	for n := 0; n < seconds; n += 5 {
		count += len(told(&w, n, 4, many(10, flow.Forbidden, "grant it"), well))
		count += len(told(&w, n+4, 1, many(10, flow.Running, ""), well))
	}
	if most := 50 + seconds/5; count > most || count < most/2 {
		t.Errorf("%d Events in an hour, not up to %d", count, most)
	}
}
