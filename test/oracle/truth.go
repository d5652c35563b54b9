package oracle

import (
	"slices"
	"strconv"
)

// truth judges whether etcd had what the event tells, and returns the object:
// none where the event is about nothing that ever was. The second result is
// false where the object's end is told, and told wrongly.
func (c *checker) truth(m *Message, route *Route, resource Resource) (*object, bool) {
	e := m.Event
	o := c.past.byUID[e.uid()]
	if o == nil || len(o.versions) == 0 {
		c.violate(Invention, m, "etcd never had an object with that uid")
		return nil, false
	}
	if o.resource != resource || o.key != e.subject() {
		c.violate(Invention, m, "etcd has that uid as %s %s", o.resource, o.key)
		return nil, false
	}
	if len(route.Namespaces) > 0 && !slices.Contains(route.Namespaces, o.namespace) {
		c.violate(Invention, m, "the route does not follow namespace %q", o.namespace)
		return nil, false
	}
	if e.Revision > c.past.revision {
		c.violate(Invention, m, "etcd is at revision %d only", c.past.revision)
		return nil, false
	}
	if e.Kind != Deleted {
		if !c.trueVersion(m, route, o) {
			return nil, false
		}
		return o, true
	}
	if o.death == 0 {
		c.violate(Invention, m, "etcd still has it")
		return nil, false
	}
	if e.Inferred {
		return o, c.trueAbsence(m, route, o)
	}
	if _, left := o.at(e.Revision); e.Revision != o.death && (!route.Partial || !left) {
		c.violate(Invention, m, "it was deleted at revision %d", o.death)
		return o, false
	}
	if e.Revision == o.death {
		c.sameData(m, route, o.newest())
	}
	return o, true
}

// trueVersion judges an event about what was written.
func (c *checker) trueVersion(m *Message, route *Route, o *object) bool {
	e := m.Event
	if e.Kind == Deselected {
		if !o.thereAt(e.Revision) {
			c.violate(Invention, m, "it was not there")
			return false
		}
		return true
	}
	if e.Listed > 0 && !o.thereAt(e.Listed) {
		c.violate(Invention, m, "it was not there to be listed")
		return false
	}
	at, ok := o.at(e.Revision)
	if !ok {
		c.violate(Invention, m, "etcd has no such version of it")
		return false
	}
	if e.Kind == Updated && at == 0 {
		c.violate(Invention, m, "that is its creation")
		return false
	}
	c.sameData(m, route, &o.versions[at])
	if who := e.who; route.Data && e.dataErr == nil && who.resourceVersion != strconv.FormatInt(e.Revision, 10) {
		c.violate(Invention, m, "its data has resource version %q", who.resourceVersion)
	}
	return true
}

// trueAbsence judges a delete that was deduced: the object must have been gone
// already at the event's revision. That is one less than a version of the
// namesake where there was one by then, and else one at which no object of that
// name was there to be listed.
func (c *checker) trueAbsence(m *Message, route *Route, o *object) bool {
	e := m.Event
	// An object that is not selected at that revision may be found to be gone
	// when it is asked for after that.
	if e.Revision < o.death && !route.Partial {
		c.violate(Invention, m, "it was deleted later, at revision %d", o.death)
		return false
	}
	for _, namesake := range c.past.byName[place{o.resource, o.key}] {
		if !namesake.thereAt(e.Revision) || route.Partial { // it may be one that is not selected
			continue
		}
		if _, ok := namesake.at(e.Revision + 1); !ok {
			c.violate(Invention, m, "%s has its name then, and is not the next version", namesake.uid)
			return false
		}
	}
	if !route.Data || e.dataErr != nil || e.who.bare {
		return true
	}
	known := slices.ContainsFunc(o.versions, func(v Version) bool { return v.Content.differences(e.Content) == "" })
	if !known {
		c.violate(Invention, m, "its data is that of no version")
	}
	return true
}

func (c *checker) sameData(m *Message, route *Route, v *Version) {
	if !route.Data || m.Event.dataErr != nil {
		return
	}
	if fields := v.Content.differences(m.Event.Content); fields != "" {
		c.violate(Invention, m, "its data is not that of revision %d: these fields differ: %s", v.Revision, fields)
	}
}
