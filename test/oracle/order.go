package oracle

// name is what was told of one object name, by one route.
type name struct {
	last *Message // the newest event
	life *life    // of the object that it was about
}

// order judges an event's place behind the others of its name. One that is out
// of place is not what the next is compared with.
//
// Versions under one name only grow, also from an object to its namesake. An
// event of a requested resync repeats a version, so that it may have the one
// that the event before it had.
func (c *checker) order(m *Message, l *life) {
	e := m.Event
	key := nameKey{l.flow, e.subject()}
	before := c.names[key]
	if before == nil {
		c.names[key] = &name{last: m, life: l}
		return
	}
	last := before.last.Event
	switch {
	case l.end != nil:
		c.violate(Order, m, "follows the object's end, %s", l.end.what())
		return
	case before.life != l && len(l.told) > 0:
		c.violate(Order, m, "its namesake %s has been told of, in %s", last.uid(), before.last.what())
		return
	case e.at() < last.at(), e.at() == last.at() && e.Resync == 0:
		c.violate(Order, m, "follows %s", before.last.what())
		return
	case before.life == l && beginning(e) && !l.route.Partial:
		c.violate(Order, m, "the object's first event was %s", l.told[0].what())
		return
	case before.life != l && before.life.end == nil && l.route.sends(Deleted) && !before.life.is(Deselected):
		c.violate(Order, m, "its namesake %s is not deleted yet; its last event is %s", last.uid(), before.last.what())
	}
	before.last, before.life = m, l
}

// beginning says that the event can only be an object's first.
func beginning(e *Event) bool {
	return e.Kind == Created || e.Kind == Existing && e.Resync == 0
}
