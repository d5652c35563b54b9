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
	FlowRecovered    Reason = "FlowRecovered" // it runs, and there is nothing about it
	SinkNotConnected Reason = "SinkNotConnected"
	SinkBlocked      Reason = "SinkBlocked"   // it is connected, and takes no events
	SinkRecovered    Reason = "SinkRecovered" // it is connected, and takes events
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
	// settles is how long a condition lasts before it is told, or has other
	// words: what is over by then was a moment's.
	settles = 3 * time.Second
	// waits is the same for a CRD that is not there. A CRD and its bridge are
	// often installed together.
	waits = 30 * time.Second
	// again is after how long a condition that lasts is told again: an API
	// server keeps an Event for an hour, by default.
	again = 30 * time.Minute
	// together is of how many flows an Event each is told that get into the same
	// condition together; of more, one Event is told for all.
	together = 10
)

// What bounds Events whatever happens. What is not told for that is told when it
// may be, if it still is so.
var (
	ofAll = bound{burst: 50, refill: 5 * time.Second}
	// ofEach is for one flow or sink, lest one that comes and goes be all that
	// there is to be seen.
	ofEach = bound{burst: 6, refill: 5 * time.Minute}
)

// condition is what a flow or a sink is in. Without a reason nothing is to be
// told of it, which is not to say that it is well.
type condition struct {
	reason Reason
	well   bool
	words  string
}

// subject is what is known of a flow or a sink.
type subject struct {
	now   condition
	since time.Time // that it is so, whatever the words
	// told is what was told last; without a reason, that it is well or nothing.
	told struct {
		condition
		since, at time.Time
	}
	reworded time.Time // since when the words are others than those that were told; zero while they are not
	bucket   bucket
}

// Watch remembers what was told. The zero Watch has told nothing. It belongs to
// one goroutine.
type Watch struct {
	subjects map[flow.ID]*subject // a sink's have its name alone
	bucket   bucket
}

// Look takes the status as it is now and returns what is to be told. What it
// returns counts as told.
func (w *Watch) Look(now time.Time, flows []flow.Status, sinksNow map[string]sinks.Status) []Event {
	found := map[flow.ID]condition{}
	for name, s := range sinksNow {
		found[flow.ID{Sink: name}] = ofSink(s)
	}
	for i := range flows {
		found[flows[i].ID] = ofFlow(&flows[i], sinksNow[flows[i].Sink].LastError != "")
	}
	if w.subjects == nil {
		w.subjects = map[flow.ID]*subject{}
	}
	for id, s := range w.subjects {
		if _, there := found[id]; !there || s.forgettable(now) {
			delete(w.subjects, id)
		}
	}
	var due []flow.ID
	for id, is := range found {
		s, known := w.subjects[id]
		if !known {
			if is.reason == "" {
				continue
			}
			s = &subject{}
			w.subjects[id] = s
		}
		s.take(is, now)
		if s.due(now) && s.bucket.has(ofEach, now) {
			due = append(due, id)
		}
	}
	return w.tell(due, now)
}

// ofSink is the condition of a sink.
func ofSink(s sinks.Status) condition {
	switch {
	case s.LastError == "":
		return condition{well: s.Connected}
	case s.Connected:
		return condition{reason: SinkBlocked, words: s.LastError}
	default:
		return condition{reason: SinkNotConnected, words: s.LastError}
	}
}

// ofFlow is the condition of a flow. sinkTold: the sink's own trouble is told,
// and is why its flows are blocked.
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
		if c.well = f.Reason == ""; !c.well {
			c.reason = FlowDegraded
		}
	case flow.Starting, flow.Draining, flow.Standby, flow.Stopped: // on their way to one of the others
	}
	return c
}

// take takes note of the condition as it is.
func (s *subject) take(is condition, now time.Time) {
	if is.reason != s.now.reason || is.well != s.now.well {
		s.since = now
	}
	s.now = is
	switch {
	case is.reason != s.told.reason || is.words == s.told.words:
		s.reworded = time.Time{}
	case s.reworded.IsZero():
		s.reworded = now
	}
}

// due tells whether something is to be told.
func (s *subject) due(now time.Time) bool {
	lasts := now.Sub(s.since)
	switch s.now.reason {
	case "":
		return s.now.well && s.told.reason != ""
	case s.told.reason:
		return now.Sub(s.told.at) >= again || !s.reworded.IsZero() && now.Sub(s.reworded) >= settles
	case FlowWaiting:
		return lasts >= waits
	default:
		return lasts >= settles
	}
}

// tellNow takes note that the condition is told.
func (s *subject) tellNow(now time.Time) {
	s.told.condition, s.told.since, s.told.at = s.now, s.since, now
	s.reworded = time.Time{}
	s.bucket.take()
}

// forgettable tells whether nothing of it would be missed.
func (s *subject) forgettable(now time.Time) bool {
	return s.now.reason == "" && s.told.reason == "" && s.bucket.full(ofEach, now)
}

// event is what there is to be told of a flow or a sink.
func (s *subject) event(id flow.ID, now time.Time) Event {
	lasted := now.Sub(s.told.since).Round(time.Second)
	switch {
	case s.now.reason == "" && id.CRD == "":
		return Event{SinkRecovered, id, fmt.Sprintf("sink %s takes events again, after %v", id.Sink, lasted)}
	case s.now.reason == "":
		return Event{FlowRecovered, id, fmt.Sprintf("%s: all is well again, after %v of %s", name(id), lasted, s.told.reason)}
	case id.CRD == "":
		return Event{s.now.reason, id, s.now.words}
	}
	return Event{s.now.reason, id, name(id) + ": " + s.now.words}
}

// group is one Event, and those of which it tells.
type group struct {
	Event
	of    []*subject
	since time.Time // that the first of them is so
}

// tell tells of those that are due what may be told now: one Event of many that
// have the same reason, and no more than the bound lets. What has been so for
// longest goes first.
func (w *Watch) tell(due []flow.ID, now time.Time) []Event {
	byReason := map[Reason][]group{}
	for _, id := range due {
		s := w.subjects[id]
		e := s.event(id, now)
		byReason[e.Reason] = append(byReason[e.Reason], group{e, []*subject{s}, s.since})
	}
	var groups []group
	for reason, same := range byReason {
		if len(same) <= together {
			groups = append(groups, same...)
			continue
		}
		slices.SortFunc(same, func(a, b group) int { return compare(a.About, b.About) })
		all := group{Event: Event{Reason: reason, Note: fmt.Sprintf("%d together, which /api/status lists; the first is %s", len(same), same[0].Note)}, since: now}
		for _, g := range same {
			all.of = append(all.of, g.of...)
			if g.since.Before(all.since) {
				all.since = g.since
			}
		}
		groups = append(groups, all)
	}
	slices.SortFunc(groups, func(a, b group) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.Reason, b.Reason), compare(a.About, b.About))
	})
	var told []Event
	for _, g := range groups {
		if !w.bucket.has(ofAll, now) {
			break
		}
		w.bucket.take()
		for _, s := range g.of {
			s.tellNow(now)
		}
		told = append(told, g.Event)
	}
	return told
}

func compare(a, b flow.ID) int {
	return cmp.Or(cmp.Compare(a.CRD, b.CRD), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Sink, b.Sink))
}

func name(id flow.ID) string {
	return id.CRD + " on route " + id.Route + " to sink " + id.Sink
}
