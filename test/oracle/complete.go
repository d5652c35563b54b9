package oracle

import "slices"

// gaps judges whether what was told of an object leaves versions out that the
// bridge could have had.
func (c *checker) gaps(l *life) {
	if l.route.Partial {
		c.needless(l)
		return
	}
	at := -1 // position of the newest version that was told
	for i, m := range l.byVersion() {
		switch {
		case m.Event.Kind == Deleted:
			c.gapBeforeDeath(m, l, at, i == 0)
		case i == 0:
			at, _ = l.object.at(m.Event.Revision)
			c.gapBeforeFirst(m, l, at)
		default:
			next, _ := l.object.at(m.Event.Revision)
			if next > at+1 && l.route.sends(Updated) {
				c.gapBetween(m, l.object.versions[at+1:next])
			}
			at = next
		}
	}
	c.needless(l)
}

// gapBetween judges versions that lie between two that were told.
func (c *checker) gapBetween(m *Message, missing []Version) {
	if !m.Event.Coalesced {
		c.violate(NoGap, m, "%d versions before it are missing, the first at revision %d, and it does not say that it is coalesced", len(missing), missing[0].Revision)
		return
	}
	if count, first := c.notLost(missing); count > 0 {
		c.violate(NoGap, m, "%d versions before it are missing that were not lost, the first at revision %d", count, first)
	}
}

// gapBeforeFirst judges what came before the first version that was told.
func (c *checker) gapBeforeFirst(m *Message, l *life, at int) {
	switch m.Event.Kind {
	case Existing: // stands for all that was before
	case Created:
		// It tells the creation, unless a list has found the object.
		c.gapBeforeSeen(m, l, l.object.versions[:at])
	case Updated:
		c.untoldBeginning(m, l, at)
	}
}

// untoldBeginning judges a life whose first event is about a later version, as
// it may be where the route leaves beginnings out. What was not told then is
// the creation, or what a list has found.
func (c *checker) untoldBeginning(m *Message, l *life, until int) {
	listed := c.listedBy(l.flow, l.route)
	appeared := listed > 0 && l.object.born() > listed
	if l.route.sends(Created) && (l.route.sends(Existing) || appeared) {
		c.violate(NoGap, m, "nothing was told of the object's beginning, at revision %d", l.object.born())
		return
	}
	if until > 1 && l.route.sends(Updated) {
		c.gapBeforeSeen(m, l, l.object.versions[1:until])
	}
}

// gapBeforeSeen judges versions from before the bridge knew the object: they
// are not missed if they were lost, or are older than the flow's first list.
func (c *checker) gapBeforeSeen(m *Message, l *life, missing []Version) {
	listed := c.listedBy(l.flow, l.route)
	if listed == 0 {
		return // it is not known when the flow began
	}
	count, first := c.notLost(slices.DeleteFunc(slices.Clone(missing), func(v Version) bool { return v.Revision <= listed }))
	if count > 0 {
		c.violate(NoGap, m, "%d versions before it are missing that were not lost, the first at revision %d", count, first)
	}
}

// gapBeforeDeath judges what came between the newest version that was told and
// the deletion. A deletion that a watch has told of follows everything.
func (c *checker) gapBeforeDeath(m *Message, l *life, at int, first bool) {
	versions := l.object.versions
	if first {
		if l.route.sends(Created) && l.route.sends(Existing) {
			c.violate(DeleteComplete, m, "nothing else was told of the object")
			return
		}
		c.untoldBeginning(m, l, len(versions))
		return
	}
	missing := versions[at+1:]
	if len(missing) == 0 || !l.route.sends(Updated) {
		return
	}
	if !m.Event.Inferred {
		c.violate(NoGap, m, "%d versions before it are missing, the first at revision %d", len(missing), missing[0].Revision)
		return
	}
	if count, first := c.notLost(missing); count > 0 {
		c.violate(NoGap, m, "%d versions before it are missing that were not lost, the first at revision %d", count, first)
	}
}

// needless judges events that say that something was lost.
func (c *checker) needless(l *life) {
	if l.route.Changing {
		return // what it did not select is deduced afterwards
	}
	before := int64(0)
	for _, m := range l.byVersion() {
		e := m.Event
		switch {
		case e.Coalesced && !c.lostWithin(l.object.resource, before, e.Revision):
			c.violate(CoalescedWithoutNeed, m, "nothing was lost after revision %d", before)
		case e.Inferred && !c.lost(l.object.resource, l.object.death):
			c.violate(InferredWithoutNeed, m, "its deletion at revision %d was not lost", l.object.death)
		}
		before = e.Revision
	}
}

// listedBy is a revision at which the flow's first list was done; 0 if none is
// known. See [Route].
func (c *checker) listedBy(flow flowKey, route *Route) int64 {
	seen := c.listed[flow]
	if flow.generation < len(c.recording.Generations)-1 || route.Listed == 0 {
		return seen
	}
	if seen == 0 {
		return route.Listed
	}
	return min(seen, route.Listed)
}
