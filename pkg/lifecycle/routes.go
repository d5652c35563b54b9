package lifecycle

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// route is a route of the configuration that is in force, or was. What is not
// said to be the supervisor's is not changed.
type route struct {
	config.Route
	rules *flow.Rules

	// These belong to the goroutine of Start. present are the CRDs that were
	// there when the route became active, or when it came to select them. Of
	// those that it selects and before did not, that is not known while it is
	// pending: the API server is being asked.
	present map[string]types.UID
	before  *route
	pending bool
}

// knows tells whether it is known if the CRD was there when the route came to
// select it.
func (r *route) knows(crd string) bool {
	return !r.pending || r.before != nil && r.before.knows(crd) && r.before.Selects(crd)
}

// learn takes note of which CRDs there are.
func (r *route) learn(uids map[string]types.UID) {
	present := map[string]types.UID{}
	for crd, uid := range uids {
		switch {
		case !r.Selects(crd):
		case r.before != nil && r.before.knows(crd) && r.before.Selects(crd):
		default:
			present[crd] = uid
		}
	}
	maps.Copy(present, r.present)
	r.present, r.pending, r.before = present, false, nil
}

// desired is what should be. It is not changed.
type desired struct {
	routes []*route
	sinks  map[string]sinks.Sink
}

// Desired is what a supervisor is to bring about.
type Desired struct {
	Routes []config.Route
	Sinks  map[string]sinks.Sink
}

// from makes it what should be, with what stays as it was: a route that is the
// same, and rules that are.
func (d Desired) from(before *desired) (*desired, error) {
	next := &desired{sinks: d.Sinks}
	for i := range d.Routes {
		r := &route{Route: d.Routes[i], pending: true}
		var old *route
		if before != nil {
			old = before.route(r.Name)
		}
		options := rulesOf(&r.Route)
		switch {
		case old != nil && reflect.DeepEqual(old.Route, r.Route):
			next.routes = append(next.routes, old)
			continue
		case old != nil && old.rules.Are(options):
			r.rules = old.rules
		default:
			rules, err := flow.NewRules(options)
			if err != nil {
				return nil, fmt.Errorf("route %s: %w", r.Name, err)
			}
			r.rules = rules
		}
		if old != nil {
			r.before = old
			sameCRDs := slices.Equal(old.CRDs, r.CRDs) && slices.Equal(old.ExcludeCRDs, r.ExcludeCRDs)
			r.pending = !sameCRDs
		}
		next.routes = append(next.routes, r)
	}
	return next, nil
}

func (d *desired) route(name string) *route {
	for _, r := range d.routes {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// concerns tells whether the CRD is on any route.
func (d *desired) concerns(crd string) bool {
	return slices.ContainsFunc(d.routes, func(r *route) bool { return r.Selects(crd) })
}

// wants tells whether there should be the flow, or one that stands for a
// wildcard.
func (d *desired) wants(id flow.ID) bool {
	r := d.route(id.Route)
	if r == nil || !slices.Contains(r.Sinks, id.Sink) {
		return false
	}
	pattern := config.CRDPattern(id.CRD)
	return pattern.IsWildcard() && slices.Contains(r.CRDs, pattern) || r.Selects(id.CRD)
}

// rulesOf are the options of a route's rules.
func rulesOf(r *config.Route) flow.RuleOptions {
	return flow.RuleOptions{
		Namespaces: r.Namespaces, LabelSelector: r.LabelSelector, FieldSelector: r.FieldSelector,
		Events: r.Events, When: r.When, SpecOnly: r.Changes.SpecOnly, Ignore: r.Changes.Ignore,
		Content: string(r.Payload.Content), Drop: r.Payload.Drop, Keep: r.Payload.Keep, Redact: r.Payload.Redact,
	}
}
