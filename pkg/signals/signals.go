// Package signals decides what of the bridge's status is worth a Kubernetes
// Event, for those who look with kubectl first. It compares the status of one
// moment with what it has told, so it cannot disagree with the status, holds
// no flow up, and tells of a condition and not of attempts. It is pure: it
// neither asks nor writes.
package signals

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Reason is that of an Event, by which people and programs tell them apart.
type Reason string

// The reasons.
const (
	FlowWaiting      Reason = "FlowWaiting"   // for its CRD
	FlowForbidden    Reason = "FlowForbidden" // a right is missing
	FlowFailed       Reason = "FlowFailed"    // the API server does not serve what was asked for
	FlowBlocked      Reason = "FlowBlocked"   // events are not delivered, and that is not all the sink's trouble
	FlowDegraded     Reason = "FlowDegraded"  // it runs, and something about it is to be known
	FlowRecovered    Reason = "FlowRecovered" // none of these any more
	SinkNotConnected Reason = "SinkNotConnected"
	SinkBlocked      Reason = "SinkBlocked" // it is connected, and takes no events
	SinkRecovered    Reason = "SinkRecovered"
)

// Event is what is to be told.
type Event struct {
	Reason Reason
	// About is the flow; of an Event about a sink, only Sink is there. It is
	// empty where the Event is about many.
	About flow.ID
	Note  string
}

// Warning tells whether something is to be done.
func (e Event) Warning() bool {
	return e.Reason != FlowRecovered && e.Reason != SinkRecovered && e.Reason != FlowWaiting
}

const (
	// settles is how long a condition lasts before it is told: what is over by
	// then was a moment's.
	settles = 3 * time.Second
	// waits is the same for a CRD that is not there. A CRD and its bridge are
	// often installed together.
	waits = 30 * time.Second
	// again is after how long a condition that lasts is told again: an API
	// server keeps an Event for an hour, by default.
	again = 30 * time.Minute
	// each is of how many flows an Event each is told that get into the same
	// condition together; of more, one Event is told for all.
	each = 10
	// burst and refill bound Events whatever happens: so many at once, and
	// another one each time. What is not told for that is told when it may be,
	// if it still is so.
	burst  = 50
	refill = 5 * time.Second
)

// condition is one that a flow or a sink is in.
type condition struct {
	reason Reason
	words  string
	since  time.Time
	told   time.Time // zero where it was not
}

// Watch remembers what was told. The zero Watch has told nothing. It belongs to
// one goroutine.
type Watch struct {
	conditions map[flow.ID]*condition // a sink's have its name alone
	tokens     float64
	filled     time.Time
}

// Look takes the status as it is now and returns what is to be told.
func (w *Watch) Look(now time.Time, flows []flow.Status, sinksNow map[string]sinks.Status) []Event {
	w.fill(now)
	found := map[flow.ID]condition{}
	for name, s := range sinksNow {
		id := flow.ID{Sink: name}
		switch {
		case s.LastError == "":
			found[id] = condition{}
		case s.Connected:
			found[id] = condition{reason: SinkBlocked, words: s.LastError}
		default:
			found[id] = condition{reason: SinkNotConnected, words: s.LastError}
		}
	}
	for i := range flows {
		found[flows[i].ID] = ofFlow(&flows[i], sinksNow[flows[i].Sink].LastError != "")
	}
	var over []Event
	for id, before := range w.conditions {
		is, there := found[id]
		if there && is.reason == before.reason {
			continue
		}
		delete(w.conditions, id)
		if there && is.reason == "" && !before.told.IsZero() {
			over = append(over, recovered(id, before, now))
		}
	}
	if w.conditions == nil {
		w.conditions = map[flow.ID]*condition{}
	}
	var due []flow.ID
	for id, is := range found {
		if is.reason == "" {
			continue
		}
		c, known := w.conditions[id]
		if !known {
			c = &condition{reason: is.reason, since: now}
			w.conditions[id] = c
		}
		c.words = is.words
		if c.due(now) {
			due = append(due, id)
		}
	}
	return append(w.tell(over), w.tellOf(now, due)...)
}

// ofFlow is the condition of a flow; none where nothing is to be told.
// sinkTold: the sink's own trouble is told, and is why its flows are blocked.
func ofFlow(f *flow.Status, sinkTold bool) condition {
	c := condition{words: f.Reason}
	switch f.State {
	case flow.Waiting:
		c.reason = FlowWaiting
	case flow.Forbidden:
		c.reason = FlowForbidden
	case flow.Failed:
		c.reason = FlowFailed
	case flow.Blocked:
		if !sinkTold {
			c.reason = FlowBlocked
		}
	case flow.Running:
		if f.Reason != "" {
			c.reason = FlowDegraded
		}
	case flow.Starting, flow.Draining, flow.Standby, flow.Stopped:
	}
	return c
}

func (c *condition) due(now time.Time) bool {
	if !c.told.IsZero() {
		return now.Sub(c.told) >= again
	}
	hold := settles
	if c.reason == FlowWaiting {
		hold = waits
	}
	return now.Sub(c.since) >= hold
}

func recovered(id flow.ID, before *condition, now time.Time) Event {
	lasted := now.Sub(before.since).Round(time.Second)
	if id.CRD == "" {
		return Event{SinkRecovered, id, fmt.Sprintf("sink %s takes events again, after %v", id.Sink, lasted)}
	}
	return Event{FlowRecovered, id, fmt.Sprintf("%s: all is well again, after %v of %s", name(id), lasted, before.reason)}
}

// tellOf tells of conditions.
func (w *Watch) tellOf(now time.Time, due []flow.ID) []Event {
	all := make([]Event, 0, len(due))
	for _, id := range due {
		c := w.conditions[id]
		note := c.words
		if id.CRD != "" {
			note = name(id) + ": " + note
		}
		all = append(all, Event{c.reason, id, note})
	}
	told := w.tell(all)
	for _, e := range told {
		for _, id := range due {
			if c := w.conditions[id]; c.reason == e.Reason && (e.About == id || e.About == flow.ID{}) {
				c.told = now
			}
		}
	}
	return told
}

// tell is what of it may be told now: one Event of many that have the same
// reason, and no more than the bounds let.
func (w *Watch) tell(all []Event) []Event {
	slices.SortFunc(all, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.About.CRD, b.About.CRD),
			cmp.Compare(a.About.Route, b.About.Route), cmp.Compare(a.About.Sink, b.About.Sink))
	})
	var told []Event
	for len(all) > 0 {
		same := slices.IndexFunc(all, func(e Event) bool { return e.Reason != all[0].Reason })
		if same < 0 {
			same = len(all)
		}
		if events := all[:same]; same <= each {
			told = append(told, events...)
		} else {
			told = append(told, Event{Reason: events[0].Reason, Note: fmt.Sprintf("%d together, which /api/status lists; the first is %s", same, events[0].Note)})
		}
		all = all[same:]
	}
	told = told[:min(len(told), int(w.tokens))]
	w.tokens -= float64(len(told))
	return told
}

func (w *Watch) fill(now time.Time) {
	if w.filled.IsZero() {
		w.tokens = burst
	} else {
		w.tokens = min(burst, w.tokens+now.Sub(w.filled).Seconds()/refill.Seconds())
	}
	w.filled = now
}

func name(id flow.ID) string {
	return id.CRD + " on route " + id.Route + " to sink " + id.Sink
}
