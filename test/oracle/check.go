package oracle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Expectations is what Check needs to know besides the two recordings.
type Expectations struct {
	Cluster string
	Stream  string // where the events are; control messages are named after it
	Routes  []Route

	// Lossy are the ranges of revisions in which versions may be missing.
	Lossy []Window

	// Quiet says that the bridge has come to rest with both ends up, so that
	// everything must have arrived. Without it only what did arrive is judged.
	Quiet bool
}

// Route is what one route of the bridge should send.
type Route struct {
	Name       string
	Resources  []Resource
	Namespaces []string // empty: all
	Events     []string // kinds that are sent; empty: all
	Subject    string   // template of the NATS subject; empty: the default

	// Data says that payloads are the objects themselves (payload.content is
	// object, without drop, keep and redact, in a version to which nothing is
	// converted) and so can be compared with etcd's.
	Data bool

	// Partial says that the route has a selector, a condition (when) or
	// ignores changes, so that it cannot be known from etcd what is missing.
	// Then convergence and gaps are not judged.
	Partial bool

	// Changing says that a Partial route's selection was changed on the way,
	// and that by now it selects everything: in the end it must have told of
	// all that is there.
	Changing bool

	// Began is a revision at which the route was not yet active, and Listed
	// one at which its first list was done (in the last generation of the
	// stream, of every CRD that was there). They matter for routes that leave
	// out existing or created: what was there at Began is existing, what is
	// new after Listed is created, and what lies between may be either. 0 is
	// unknown. For Listed there is a second source: the first event of a CRD
	// that only a watch can have told of shows that its list was done.
	Began, Listed int64
}

// Window is a range of revisions, both ends included, whose versions the
// bridge could not get from a watch: the API server or etcd had lost them, or
// the CRD came or went. It begins with the first revision that the bridge may
// have missed, and ends with the first list that it made after the loss, so at
// a revision at which it was seen to follow again: what happens between a
// compaction and that list is lost, too.
type Window struct {
	From, To int64
	Resource Resource // zero: every one
}

func (w Window) concerns(r Resource) bool { return w.Resource == Resource{} || w.Resource == r }

// The properties that Check knows, each with the promise that it stands for.
const (
	Invention            = "invention"              // each event tells what etcd had
	Attributes           = "attributes"             // each event says it as the contract has it
	Convergence          = "convergence"            // the last event of what is there tells its newest version
	DeleteComplete       = "delete-complete"        // what was delivered and is gone has one deleted
	Order                = "order"                  // an object's events are in the order of its versions
	Unique               = "unique"                 // an id is stored once
	NoGap                = "no-gap"                 // each version is delivered, where it can be
	CoalescedWithoutNeed = "coalesced-without-need" // only what was lost is coalesced
	InferredWithoutNeed  = "inferred-without-need"  // only what was lost is inferred
	Fencing              = "fencing"                // whoever was replaced writes nothing any more
	Incomplete           = "incomplete"             // the recording has all that it needs to judge
)

// Violation is one breach of a property.
type Violation struct {
	Property string
	Route    string // where there is one, as are the next two
	Key      string // resource and object
	UID      string
	What     string // a sentence
}

func (v Violation) String() string {
	where := v.Route
	if v.Key != "" {
		where += " " + v.Key
	}
	if v.UID != "" {
		where += " (" + v.UID + ")"
	}
	return fmt.Sprintf("%s: %s: %s", v.Property, where, v.What)
}

// Check compares what the stream held with what etcd did. It takes time in
// proportion to the versions and messages, times the windows for those that
// are missing. An event that is not true, or is there twice, is left out of what
// is judged after that, where it would break other properties by one fault.
//
// The past has to be recorded as far as the events tell; see the package.
func Check(past Past, recording Recording, expected Expectations) []Violation {
	c := &checker{
		past:      index(past),
		recording: recording,
		expected:  expected,
		routes:    map[string]*Route{},
		ids:       map[idKey]uint64{},
		lives:     map[lifeKey]*life{},
		names:     map[nameKey]*name{},
		listed:    map[flowKey]int64{},
		fences:    map[flowKey]fence{},
	}
	for i := range expected.Routes {
		c.routes[expected.Routes[i].Name] = &expected.Routes[i]
	}
	c.incomplete()
	c.controls = c.controlMessages()
	for i := range recording.Messages {
		c.message(&recording.Messages[i])
	}
	for _, l := range c.inOrder {
		c.gaps(l)
	}
	if expected.Quiet && len(recording.Generations) > 0 {
		for i := range expected.Routes {
			c.complete(&expected.Routes[i])
		}
	}
	return c.violations
}

type checker struct {
	past      *history
	recording Recording
	expected  Expectations
	routes    map[string]*Route

	ids      map[idKey]uint64 // sequence of the message that has it
	lives    map[lifeKey]*life
	inOrder  []*life // the same, as they begin
	names    map[nameKey]*name
	listed   map[flowKey]int64
	fences   map[flowKey]fence
	controls map[messageKey]string // subjects of control messages

	violations []Violation
}

// All state is per generation: the promises about ids and order begin anew
// with the stream.
type (
	idKey struct {
		generation int
		id         string
	}
	messageKey struct {
		generation int
		sequence   uint64
	}
	flowKey struct {
		generation int
		route      string
		resource   Resource
	}
	lifeKey struct {
		generation int
		route, uid string
	}
	nameKey struct {
		flowKey
		key string
	}
)

// life is what a route told of one object.
type life struct {
	flow   flowKey
	route  *Route
	object *object
	told   []*Message // in the stream's order, without those that are not true
	end    *Message   // the one that was its end
}

// is tells the kind of the last event.
func (l *life) is(kind string) bool { return l.last().Event.Kind == kind }

func (l *life) last() *Message { return l.told[len(l.told)-1] }

// byVersion are the events in the order that they should have.
func (l *life) byVersion() []*Message {
	return slices.SortedStableFunc(slices.Values(l.told), func(a, b *Message) int {
		return cmp.Compare(a.Event.at(), b.Event.at())
	})
}

// message judges one message by itself and against those before it.
func (c *checker) message(m *Message) {
	if m.control() {
		c.control(m)
		return
	}
	if m.Event == nil {
		c.violations = append(c.violations, Violation{Property: Attributes, What: fmt.Sprintf("%s on %s is no event: %v", m.what(), m.Subject, m.Problem)})
		return
	}
	route, resource, ok := c.attributes(m)
	if !ok {
		return
	}
	flow := flowKey{m.Generation, route.Name, resource}
	c.fenced(m, flow)
	if !c.unique(m) || !c.admitted(m, route) {
		return
	}
	object, ok := c.truth(m, route, resource)
	if object == nil {
		return
	}
	key := lifeKey{m.Generation, route.Name, object.uid}
	l := c.lives[key]
	if l == nil {
		l = &life{flow: flow, route: route, object: object}
		c.lives[key] = l
		c.inOrder = append(c.inOrder, l)
	}
	if ok {
		c.order(m, l)
		l.told = append(l.told, m)
	}
	if m.Event.Kind == Deleted {
		l.end = m
	}
	if ok && byWatch(m.Event) && (c.listed[flow] == 0 || m.Event.Revision < c.listed[flow]) {
		c.listed[flow] = m.Event.Revision
	}
}

// byWatch says that no list can have told of the event.
func byWatch(e *Event) bool {
	return e.Kind == Updated && !e.Coalesced || e.Kind == Deleted && !e.Inferred
}

func (c *checker) unique(m *Message) bool {
	id := idKey{m.Generation, m.Event.Attributes["id"]}
	if first, ok := c.ids[id]; ok {
		c.violate(Unique, m, "id %s was stored before, in message %d", id.id, first)
		return false
	}
	c.ids[id] = m.Sequence
	return true
}

// admitted judges whether the route sends such events.
func (c *checker) admitted(m *Message, route *Route) bool {
	if kind := m.Event.Kind; !route.sends(kind) {
		property := Attributes
		if kind == Deleted {
			property = DeleteComplete
		}
		c.violate(property, m, "the route does not send %s", kind)
		return false
	}
	return true
}

// sends says whether the route's filter lets such events through.
func (r *Route) sends(kind string) bool {
	if kind == Deselected && !r.Partial {
		return false
	}
	return len(r.Events) == 0 || slices.Contains(r.Events, kind)
}

// violate adds a violation by an event.
func (c *checker) violate(property string, m *Message, format string, args ...any) {
	e := m.Event
	parts := strings.Split(e.Attributes["source"], "/")
	slices.Reverse(parts) // the resource is the last, the group before it
	parts = append(parts, "", "")
	c.violations = append(c.violations, Violation{
		Property: property, Route: e.Attributes["route"], Key: Resource{parts[1], parts[0]}.String() + " " + e.subject(), UID: e.uid(),
		What: m.what() + ": " + fmt.Sprintf(format, args...),
	})
}

// lack adds a violation by what a route did not send of an object.
func (c *checker) lack(property string, route *Route, o *object, format string, args ...any) {
	c.violations = append(c.violations, Violation{
		Property: property, Route: route.Name, Key: o.resource.String() + " " + o.key, UID: o.uid, What: fmt.Sprintf(format, args...),
	})
}
