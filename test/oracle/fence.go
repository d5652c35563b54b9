package oracle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The headers with which a publisher names the message that must be the last on
// a subject, so that whoever wrote that one may write, and nobody else.
const (
	expectedSequence = "Nats-Expected-Last-Subject-Sequence"
	expectedSubject  = "Nats-Expected-Last-Subject-Sequence-Subject"
)

// fence is how far a flow has come, in the stream's order.
type fence struct {
	epoch, epochAt uint64
	named, namedAt uint64
}

// control judges a control message: whoever takes a flow over raises its epoch,
// so that one with a lower epoch comes from a bridge that was replaced. Where the
// last one was purged, and the flow had nothing to put down until its bridge
// ended, nobody knows the epoch any more, and it begins anew. What keeps the
// replaced bridge out then is the sequence that it names, see fenced.
func (c *checker) control(m *Message) {
	flow, ok := c.flowOf(m)
	if !ok {
		return // not about a flow of these routes
	}
	var body struct {
		Epoch *uint64 `json:"epoch"`
	}
	if err := json.Unmarshal(m.Data, &body); err != nil || body.Epoch == nil {
		c.breach(m, flow, "a control message without an epoch")
		return
	}
	f := c.fences[flow]
	purged := slices.ContainsFunc(c.recording.Generations[m.Generation].Purged, func(upTo uint64) bool {
		return f.epochAt <= upTo && upTo < m.Sequence
	})
	if *body.Epoch < f.epoch && !purged {
		c.breach(m, flow, fmt.Sprintf("epoch %d follows epoch %d of message %d", *body.Epoch, f.epoch, f.epochAt))
		return
	}
	f.epoch, f.epochAt = *body.Epoch, m.Sequence
	c.fences[flow] = f
}

// flowOf finds the flow by the subject,
// crbridge.<stream>.<cluster>.<route>.<group>.<resource>.
func (c *checker) flowOf(m *Message) (flowKey, bool) {
	for i := range c.expected.Routes {
		route := &c.expected.Routes[i]
		for _, r := range route.Resources {
			if m.Subject == c.controlSubject(route.Name, r) {
				return flowKey{m.Generation, route.Name, r}, true
			}
		}
	}
	return flowKey{}, false
}

func (c *checker) controlSubject(route string, r Resource) string {
	return controlPrefix + strings.Join([]string{
		token(c.expected.Stream), token(c.expected.Cluster), token(route), token(r.Group), token(r.Plural),
	}, ".")
}

// fenced judges the control message that an event was written under. Not every
// event names one: of an atomic batch only the first does.
func (c *checker) fenced(m *Message, flow flowKey) {
	text := m.Header.Get(expectedSequence)
	if text == "" {
		return
	}
	named, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		c.breach(m, flow, fmt.Sprintf("%s is %q", expectedSequence, text))
		return
	}
	f := c.fences[flow]
	subject, known := c.controls[messageKey{m.Generation, named}]
	switch want := c.controlSubject(flow.route, flow.resource); {
	case named < f.named:
		c.breach(m, flow, fmt.Sprintf("written under control message %d, after message %d, which was under %d", named, f.namedAt, f.named))
		return
	case named >= m.Sequence:
		c.breach(m, flow, fmt.Sprintf("written under control message %d, which is not before it", named))
		return
	case known && subject != want:
		c.breach(m, flow, fmt.Sprintf("written under message %d, which is on %s, not on %s", named, subject, want))
		return
	}
	f.named, f.namedAt = named, m.Sequence
	c.fences[flow] = f
}

func (c *checker) breach(m *Message, flow flowKey, what string) {
	c.violations = append(c.violations, Violation{
		Property: Fencing, Route: flow.route, Key: flow.resource.String(), What: m.what() + ": " + what,
	})
}

// controlMessages are the subjects of all messages that an event names or could
// have named.
func (c *checker) controlMessages() map[messageKey]string {
	subjects := map[messageKey]string{}
	for i := range c.recording.Messages {
		m := &c.recording.Messages[i]
		subjects[messageKey{m.Generation, m.Sequence}] = m.Subject
	}
	return subjects
}

// incomplete reports what the tap did not see. A control message that another
// has replaced may be gone before anybody could read it; it is not missed where
// a message that was written under it, or that replaced it, names it.
func (c *checker) incomplete() {
	named := map[messageKey]bool{}
	for i := range c.recording.Messages {
		m := &c.recording.Messages[i]
		n, err := strconv.ParseUint(m.Header.Get(expectedSequence), 10, 64)
		if err == nil && (m.control() || strings.HasPrefix(m.Header.Get(expectedSubject), controlPrefix)) {
			named[messageKey{m.Generation, n}] = true
		}
	}
	for _, gap := range c.recording.Gaps {
		missing := 0
		for sequence := gap.From; sequence <= gap.To; sequence++ {
			if !named[messageKey{gap.Generation, sequence}] {
				missing++
			}
		}
		if missing > 0 {
			c.violations = append(c.violations, Violation{
				Property: Incomplete,
				What:     fmt.Sprintf("%v were gone before they were recorded, and %d of them are not known to be control messages", gap, missing),
			})
		}
	}
}
