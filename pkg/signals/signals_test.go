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
		{"not that it is over while its CRD goes, and whatever else is on its way to something", []look{
			{10, is(flow.Forbidden, "grant it"), well}, {10, is(flow.Draining, "the CRD is gone"), well}, {10, is(flow.Waiting, "no CRD"), well},
			{10, is(flow.Standby, ""), well}, {10, is(flow.Starting, ""), well}, {10, is(flow.Stopped, ""), well},
		}, []string{"3 Warning FlowForbidden " + about + "grant it"}},
		{"that it is over, when after all that it runs", []look{
			{10, is(flow.Forbidden, "grant it"), well}, {10, is(flow.Starting, ""), well}, {10, is(flow.Running, ""), well},
		}, []string{"3 Warning FlowForbidden " + about + "grant it", "20 Normal FlowRecovered " + about + "all is well again, after 20s of FlowForbidden"}},
		{"not that it is over where it runs, and something about it is to be known", []look{{10, is(flow.Blocked, "rewound"), well}, {10, is(flow.Running, "gaps"), well}},
			[]string{"3 Warning FlowBlocked " + about + "rewound", "13 Warning FlowDegraded " + about + "gaps"}},
		{"not that it is over where it is the sink's trouble from now on", []look{
			{10, is(flow.Blocked, "full"), well}, {10, is(flow.Blocked, "full"), sink(true, "sink main: full")}, {10, is(flow.Running, ""), well},
		}, []string{
			"3 Warning FlowBlocked " + about + "full", "13 Warning SinkBlocked sink main: full",
			"20 Normal FlowRecovered " + about + "all is well again, after 20s of FlowBlocked", "20 Normal SinkRecovered sink main takes events again, after 10s",
		}},
		{"not that a sink is well which is about to be reached", []look{
			{10, nil, sink(false, "sink main: refused")}, {10, nil, sink(false, "")}, {10, nil, well},
		}, []string{"3 Warning SinkNotConnected sink main: refused", "20 Normal SinkRecovered sink main takes events again, after 20s"}},
		{"other words, when they have lasted", []look{{10, is(flow.Failed, "a"), well}, {100, is(flow.Failed, "b"), well}},
			[]string{"3 Warning FlowFailed " + about + "a", "13 Warning FlowFailed " + about + "b"}},
		{"not words of a moment", []look{{10, is(flow.Failed, "a"), well}, {2, is(flow.Failed, "b"), well}, {100, is(flow.Failed, "a"), well}},
			[]string{"3 Warning FlowFailed " + about + "a"}},
		{"since when it is so, whatever its words", []look{{10, is(flow.Failed, "a"), well}, {10, is(flow.Failed, "b"), well}, {10, is(flow.Running, ""), well}},
			[]string{"3 Warning FlowFailed " + about + "a", "13 Warning FlowFailed " + about + "b", "20 Normal FlowRecovered " + about + "all is well again, after 20s of FlowFailed"}},
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

// TestBounds shows that what comes and goes all the time is told of within
// bounds: of one flow, and of all.
func TestBounds(t *testing.T) {
	const hour = 3600
	for _, row := range []struct {
		why   string
		flows int
		most  int
	}{
		{"one flow: six, and twelve an hour", 1, 6 + 12},
		{"a few: each for itself", 10, 10 * (6 + 12)},
		{"many: fifty, and one in five seconds", 100, 50 + hour/5},
	} {
		t.Run(row.why, func(t *testing.T) {
			var w signals.Watch
			count := 0
			for at := range hour {
				flows := many(row.flows, flow.Running, "")
				for i := range flows {
					// Not more than ten together, which would be one.
					if (at+i)%10 < 5 {
						flows[i].State, flows[i].Reason = flow.Forbidden, fmt.Sprint("refused at ", at) // other words each time
					}
				}
				count += len(told(&w, at, 1, flows, well))
			}
			if count > row.most || count < row.most/2 {
				t.Errorf("%d Events in an hour, not up to %d", count, row.most)
			}
		})
	}
}

// TestWhatIsCutIsToldLater shows that what the bounds keep back is told when they
// let it: the trouble of one flow among many that come and go, and that it is
// well again.
func TestWhatIsCutIsToldLater(t *testing.T) {
	var w signals.Watch
	at := 0
	flap := func(more ...flow.Status) []string {
		flows := many(100, flow.Running, "")
		for i := range flows {
			if (at+i)%10 < 5 {
				flows[i].State, flows[i].Reason = flow.Forbidden, "grant it"
			}
		}
		at++
		return told(&w, at, 1, append(flows, more...), well)
	}
	// soon is how long it takes until that is told.
	soon := func(what string, state flow.State, reason string) int {
		t.Helper()
		for n := range 60 {
			for _, e := range flap(flow.Status{ID: orders, State: state, Reason: reason}) {
				if strings.Contains(e, what) {
					return n
				}
			}
		}
		t.Errorf("%s is not told in a minute", what)
		return 0
	}
	for range 120 { // by then nothing is left of what may be told at once
		flap()
	}
	soon("FlowFailed orders.shop.example.com", flow.Failed, "not served")
	soon("FlowRecovered orders.shop.example.com", flow.Running, "")
}

// TestWhatIsToldLast shows that of each that came and went it is told in the end
// that it is well, though there were too many Events of it.
func TestWhatIsToldLast(t *testing.T) {
	var w signals.Watch
	last := map[string]string{}
	look := func(at, seconds int, flows []flow.Status) {
		for _, e := range told(&w, at, seconds, flows, well) {
			words := strings.Fields(e)
			last[words[3]] = words[2]
		}
	}
	const flapping, calm = 600, 600
	for at := range flapping {
		flows := many(10, flow.Running, "")
		for i := range flows {
			if (at+i)%10 < 5 {
				flows[i].State, flows[i].Reason = flow.Forbidden, "grant it"
			}
		}
		look(at, 1, flows)
	}
	look(flapping, calm, many(10, flow.Running, ""))
	for i := range 10 {
		if crd := fmt.Sprintf("kind%04d.example.com", i); last[crd] != "FlowRecovered" {
			t.Errorf("%s is well, and what is told last is %q", crd, last[crd])
		}
	}
}
