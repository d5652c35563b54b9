package oracle

import "slices"

// complete judges whether a bridge at rest has told all that a route should, of
// each object that etcd ever had. It looks at the last generation: of what was
// told in an earlier one the bridge knows nothing any more.
//
// What that is depends on which kinds the route sends. With existing and
// created every object that is there has an event; with updated the last one
// tells its newest version. Where kinds are left out, an object need not have
// any: one that was in the first list is not told without existing, one that
// came later not without created, and a version after these not without
// updated. What was first is known only as far as [Route] says. Updated alone
// has to tell a version only of an object that was seen before, in a list or
// by a watch that had not lost it.
func (c *checker) complete(route *Route) {
	generation := len(c.recording.Generations) - 1
	for _, o := range c.past.objects {
		if !route.follows(o) || len(o.versions) == 0 {
			continue
		}
		listed := c.listedBy(flowKey{generation, route.Name, o.resource}, route)
		l := c.lives[lifeKey{generation, route.Name, o.uid}]
		told := l != nil && len(l.told) > 0
		switch {
		case o.death == 0 && told:
			c.converged(l)
		case o.death > 0 && told:
			c.buried(l)
		case route.Changing && o.death == 0:
			c.lack(Convergence, route, o, "it is there at revision %d, and no event has told so", o.newest().Revision)
		case route.Partial:
		case o.death == 0 && c.owesLiving(route, o, listed):
			c.lack(Convergence, route, o, "it is there at revision %d, and no event has told so", o.newest().Revision)
		case o.death == 0:
		case c.owesDead(route, o, listed):
			c.lack(NoGap, route, o, "it was there from revision %d to %d, and no event has told so", o.born(), o.death)
		case route.sends(Deleted) && listed > 0 && o.death > listed && !c.lost(o.resource, o.death):
			c.lack(DeleteComplete, route, o, "it was deleted at revision %d, and no event has told so", o.death)
		}
	}
}

func (r *Route) follows(o *object) bool {
	return slices.Contains(r.Resources, o.resource) &&
		(len(r.Namespaces) == 0 || slices.Contains(r.Namespaces, o.namespace))
}

// converged judges what was told of an object that is there.
func (c *checker) converged(l *life) {
	newest := l.byVersion() // what is out of order is not judged here
	last := newest[len(newest)-1]
	selected := last.Event.Kind != Deselected
	if l.route.Partial && !l.route.Changing || !l.route.sends(Updated) || selected && last.Event.Revision == l.object.newest().Revision {
		return
	}
	c.violate(Convergence, last, "is the object's last event, and its newest version is %d", l.object.newest().Revision)
}

// buried judges what was told of an object that is gone.
func (c *checker) buried(l *life) {
	if l.end != nil || !l.route.sends(Deleted) || l.route.Partial && l.is(Deselected) {
		return
	}
	c.violate(DeleteComplete, l.last(), "is the object's last event, and it was deleted at revision %d", l.object.death)
}

// owesLiving says whether some event must have told of an object that is there.
func (c *checker) owesLiving(route *Route, o *object, listed int64) bool {
	if route.sends(Existing) && (route.sends(Created) || o.born() <= route.Began) {
		return true
	}
	if listed == 0 {
		return false
	}
	return route.sends(Created) && o.born() > listed || c.owesUpdate(route, o, listed)
}

// owesUpdate says whether a version of the object must have been told as an
// update: one after the first list, of an object that was known by then.
func (c *checker) owesUpdate(route *Route, o *object, listed int64) bool {
	if !route.sends(Updated) {
		return false
	}
	known := false
	for i := range o.versions {
		v := &o.versions[i]
		lost := c.lost(o.resource, v.Revision)
		newest := i == len(o.versions)-1 && o.death == 0 // a list finds this one too
		if i > 0 && v.Revision > listed && (!lost || known && newest) {
			return true
		}
		known = known || !lost || v.Revision <= listed
	}
	return false
}

// owesDead says whether an event other than deleted must have told of an object
// that is gone. One that came and went while all was lost leaves no trace.
func (c *checker) owesDead(route *Route, o *object, listed int64) bool {
	if listed == 0 || o.death <= listed {
		return false
	}
	seen := !c.lost(o.resource, o.death)
	if count, _ := c.notLost(o.versions); count > 0 {
		seen = true
	}
	switch {
	case route.sends(Existing) && (route.sends(Created) && o.born() <= listed || o.born() <= route.Began):
		return true
	case route.sends(Created) && o.born() > listed && seen:
		return true
	}
	return c.owesUpdate(route, o, listed)
}
