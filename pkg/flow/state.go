package flow

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// State is how a flow is, in the words of the status page.
type State string

// The states of a flow.
const (
	Waiting   State = "waiting"   // there is no such CRD yet
	Starting  State = "starting"  // the first list is on its way
	Running   State = "running"   // every change is delivered as it comes
	Blocked   State = "blocked"   // the sink does not take events
	Forbidden State = "forbidden" // RBAC does not let the bridge list or watch
	Failed    State = "failed"    // the API server does not serve what was asked for; retried
	Draining  State = "draining"  // the CRD is going or gone, its last events are on their way
	Standby   State = "standby"   // another bridge leads
	Stopped   State = "stopped"   // the bridge is ending
)

// States are all the states that there are.
func States() []State {
	return []State{Waiting, Starting, Running, Blocked, Forbidden, Failed, Draining, Standby, Stopped}
}

// condition is what is known of a flow's health. Its parts come from different
// goroutines; the state is computed from all of them, and each change of the
// state is logged once, as is each reason for which the flow is idle.
type condition struct {
	log *slog.Logger

	mu     sync.Mutex
	target Target // of what runs, or ran last
	idle   State  // Waiting, Failed or Stopped while nothing runs; empty while something does
	reason string // why it is idle
	going  string // why the CRD is going; empty while it is not
	listed bool
	// sources are why the API server does not let us list or watch, by namespace.
	sources map[string]error
	missing bool   // the API server said 404 once; it is told when it says so again
	sink    error  // why the sink does not take events
	when    string // that the route's expression fails, in words
	invalid error  // what the API server sent that cannot be understood
	rewound string // the API server has less than was delivered, in words
	gap     string // why the ledger may be incomplete
	buried  string // which objects nothing is told of
	large   string // that an event was too large for the sink, in words
	last    State
	told    string    // why the flow was said to be idle
	since   time.Time // of last
}

// change applies a change and logs what it makes of the state.
func (c *condition) change(apply func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	apply()
	state, reason := c.state()
	if state == c.last && (c.idle == "" || reason == c.told) {
		return
	}
	report := c.log.Info
	switch state {
	case Blocked, Forbidden, Failed:
		report = c.log.Warn
	}
	args := []any{"state", state}
	if c.last != "" && c.last != state {
		args = append(args, "from", c.last)
	}
	if reason != "" {
		args = append(args, "reason", reason)
	}
	report("flow is "+string(state), args...)
	if state != c.last {
		c.last, c.since = state, time.Now()
	}
	c.told = ""
	if c.idle != "" {
		c.told = reason
	}
}

// now tells the state, since when and why it is so, and the last error that
// still matters.
func (c *condition) now(s *Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.State, s.Reason = c.state()
	s.Since, s.LastError = c.since, c.problem()
	if s.State == Forbidden {
		namespace, _ := c.source()
		s.Missing = &Right{c.target.Resource.Kind.Group, c.target.Resource.Plural, namespace}
	}
}

// problem is the last error that still matters. The lock is held.
func (c *condition) problem() string {
	switch {
	case c.idle != "":
		return ""
	case len(c.sources) > 0:
		_, source := c.source()
		return source.Error()
	case c.invalid != nil:
		return c.invalid.Error()
	case c.sink != nil:
		return c.sink.Error()
	case c.rewound != "":
		return c.rewound
	case c.gap != "":
		return c.gap
	case c.buried != "":
		return c.buried
	}
	return c.when
}

// source is why the API server does not let us list or watch a namespace, the
// first of those where it does not. The lock is held.
func (c *condition) source() (namespace string, err error) {
	for _, namespace := range slices.Sorted(maps.Keys(c.sources)) {
		return namespace, c.sources[namespace]
	}
	return "", nil
}

func (c *condition) state() (State, string) {
	namespace, source := c.source()
	switch {
	case c.idle != "":
		return c.idle, c.reason
	case c.going == goneUnknown:
		reason := c.going
		if c.sink != nil {
			reason += "; it does not answer, retrying: " + c.sink.Error()
		}
		return Waiting, reason
	case c.going != "":
		reason := c.going
		if source != nil {
			reason += "; listing and watching its objects does not work: " + source.Error()
		}
		if c.sink != nil {
			reason += "; the sink does not take events, retrying: " + c.sink.Error()
		}
		return Draining, reason
	case c.rewound != "":
		return Blocked, c.rewound
	case source != nil && apierrors.IsForbidden(source):
		return Forbidden, fmt.Sprintf("the bridge may not list and watch; grant its service account %s; retrying: %v", rule(c.target, namespace), source)
	case source != nil && apierrors.IsBadRequest(source) && strings.Contains(source.Error(), "field label not supported"):
		return Failed, fmt.Sprintf("the route's fieldSelector has a field that is not among the selectableFields of the CRD's version %s: add it there, or select with labelSelector or when; retrying: %v",
			c.target.Resource.Kind.Version, source)
	case source != nil:
		return Failed, "listing and watching at the API server does not work, retrying: " + source.Error()
	case c.invalid != nil:
		return Failed, "what the API server sent cannot be made an event, and is left out; everything else is delivered: " + c.invalid.Error()
	case c.sink != nil:
		return Blocked, "the sink does not take events, retrying: " + c.sink.Error()
	case !c.listed:
		return Starting, ""
	case c.gap != "":
		return Running, c.gap
	case c.buried != "":
		return Running, c.buried
	case c.large != "":
		return Running, c.large
	default:
		return Running, c.when
	}
}

func (c *condition) setIdle(state State, reason string) {
	c.change(func() { c.idle, c.reason = state, reason })
}

// setActive says that a run has begun.
func (c *condition) setActive(target Target, going string) {
	c.change(func() {
		c.idle, c.reason, c.target, c.going, c.listed = "", "", target, going, false
		c.sources, c.missing, c.invalid, c.rewound, c.buried, c.large, c.when = nil, false, nil, "", "", "", ""
	})
}

func (c *condition) setGoing(why string)  { c.change(func() { c.going = why }) }
func (c *condition) setListed()           { c.change(func() { c.listed = true }) }
func (c *condition) setInvalid(err error) { c.change(func() { c.invalid = err }) }
func (c *condition) setSink(err error)    { c.change(func() { c.sink = err }) }
func (c *condition) setRewound(w string)  { c.change(func() { c.rewound = w }) }
func (c *condition) setGap(w string)      { c.change(func() { c.gap = w }) }
func (c *condition) setLarge(w string)    { c.change(func() { c.large = w }) }

// setBuried is told once, however many objects there are.
func (c *condition) setBuried(w string) {
	c.change(func() {
		if c.buried == "" {
			c.buried = w
			c.log.Warn("objects are there that were told to be deleted", "reason", w)
		}
	})
}

// setWhen is told once, however many objects there are.
func (c *condition) setWhen(w string) {
	c.change(func() {
		if c.when == "" {
			c.when = w
			c.log.Warn("an event is sent though its route's expression fails", "reason", w)
		}
	})
}

// setSource takes the answer to the last list or watch of a namespace. A first
// 404 is not told yet: it is what every CRD's removal looks like from here, and
// a moment later the CRD itself tells more.
func (c *condition) setSource(namespace string, err error) {
	c.change(func() {
		first := apierrors.IsNotFound(err) && !c.missing
		c.missing = apierrors.IsNotFound(err)
		switch {
		case first:
		case err == nil:
			delete(c.sources, namespace)
		default:
			if c.sources == nil {
				c.sources = map[string]error{}
			}
			c.sources[namespace] = err
		}
	})
}

// rule is the RBAC rule that lists and watches what the target needs of a
// namespace, in the words of a role.
func rule(t Target, namespace string) string {
	rule := fmt.Sprintf("{apiGroups: [%q], resources: [%q], verbs: [list, watch]}", t.Resource.Kind.Group, t.Resource.Plural)
	if namespace != allNamespaces {
		rule += " in namespace " + namespace
	}
	return rule
}
