package flow

import (
	"maps"
	"slices"
	"strings"
)

// allNamespaces is the watch of a flow whose route names no namespaces.
const allNamespaces = ""

// watched is how far one of a flow's watches has come. That there is one says
// that a complete list of what it watches has been durable.
type watched struct {
	// position is the resource version up to which everything is durable; 0
	// where there is none to watch from.
	position uint64
	// held are ends that a watch from position may contradict. Neither end nor
	// until is smaller than the one's before.
	held []held
}

// held is the end of an object that had left a selection, and was gone when the
// API server was asked. Until the watch has come to the moment of the answer it
// may tell that the object came back into the selection, and went. Nobody is
// told of that, as the end has been told: so it must be remembered until then,
// and the position that is recorded stays before it.
type held struct {
	end   uint64 // the version of the end
	until uint64 // the version of the answer
}

// durable is the position that a restart may go on from.
func (w *watched) durable() uint64 {
	if len(w.held) > 0 {
		return min(w.position, w.held[0].end-1)
	}
	return w.position
}

// hold remembers an end. An earlier one is remembered as of no later version,
// so that the first is the lowest.
func (w *watched) hold(end, until uint64) {
	for i := len(w.held) - 1; i >= 0 && w.held[i].end > end; i-- {
		w.held[i].end = end
	}
	w.held = append(w.held, held{end: end, until: until})
}

// reach moves the position, and tells whether durable has changed.
func (w *watched) reach(position uint64) bool {
	before := w.durable()
	w.position = max(w.position, position)
	for len(w.held) > 0 && w.held[0].until <= w.position {
		w.held = w.held[1:]
	}
	return w.durable() != before
}

// watches are a flow's, by namespace.
type watches map[string]*watched

// of is the watch that tells of the object with the key; nil where none does.
func (w watches) of(key string) *watched {
	if all, ok := w[allNamespaces]; ok {
		return all
	}
	namespace, _, _ := strings.Cut(key, "/")
	return w[namespace]
}

// least is where all of them have come to, 0 where there is none.
func (w watches) least() uint64 {
	least := uint64(0)
	first := true
	for _, one := range w {
		if first || one.durable() < least {
			least, first = one.durable(), false
		}
	}
	return least
}

// most is how far one of them has come.
func (w watches) most() (most uint64) {
	for _, one := range w {
		most = max(most, one.position)
	}
	return most
}

// positions are the positions that a restart may go on from: that of the watch
// of all namespaces, or those of single ones.
func (w watches) positions() (all uint64, single map[string]uint64) {
	if one, ok := w[allNamespaces]; ok {
		return one.durable(), nil
	}
	if len(w) == 0 {
		return 0, nil
	}
	single = map[string]uint64{}
	for namespace, one := range w {
		single[namespace] = one.durable()
	}
	return 0, single
}

// watching makes the watches those of the given namespaces. Where the route
// selects otherwise than before, one of a namespace takes over from that of all
// namespaces, and a survey tells what was not selected. Any other that is new
// begins with a list: what of its objects was told before, and ended, is only
// remembered beyond the position of the watch that told it.
func (w watches) watching(namespaces []string, reselected bool) watches {
	next := watches{}
	all := w[allNamespaces]
	for _, namespace := range namespaces {
		switch one, ok := w[namespace]; {
		case ok:
			next[namespace] = one
		case reselected && all != nil:
			next[namespace] = &watched{position: all.position, held: slices.Clone(all.held)}
		}
	}
	return next
}

// equal tells whether they are for the same namespaces.
func (w watches) equal(other watches) bool {
	return maps.EqualFunc(w, other, func(*watched, *watched) bool { return true })
}
