package sources

import (
	"slices"
	"sync"
	"time"
)

// Feeds lets those who follow the same objects share one watch. The zero value
// is ready.
//
// Whoever follows begins with a watch of its own, unless there is one that is
// at its position, and lists, surveys and resumes by itself. When it has come as
// far as another watch of the same objects, it goes on with that one and closes
// its own. So what is shared is only ever a watch that works: at the first sign
// of trouble (a watch that is refused, history that is gone) everybody has a
// watch of its own again, from its own position, and finds out for itself. Who
// does not take what a shared watch brings, while others wait for more of it,
// has to go on with a watch of its own after slowPatience.
type Feeds struct {
	mu     sync.Mutex
	groups map[selected]*group
}

// selected is what is followed. Those who follow the same can share.
type selected struct {
	resource  Resource
	selection Selection
}

// group are the feeds of the same objects. What is said to be the group's is
// guarded by mu, also in feeds and readers.
type group struct {
	selected selected

	mu      sync.Mutex
	feeds   []*feed // that may still bring something, oldest first
	serials int
	members int // guarded by Feeds.mu
}

// join counts one in who follows.
func (s *Feeds) join(what selected) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[what]
	if g == nil {
		g = &group{selected: what}
		if s.groups == nil {
			s.groups = map[selected]*group{}
		}
		s.groups[what] = g
	}
	g.members++
	return g
}

// quit counts it out.
func (s *Feeds) quit(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.members--; g.members == 0 {
		delete(s.groups, g.selected)
	}
}

// aloneAfterSlow is for how long one that held others up goes on by itself at
// least, so that it does not hold them up again and again.
const aloneAfterSlow = 30 * time.Second

// enter gives the reader a feed that is where it is, if there is one.
func (g *group) enter(r *reader) *feed {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !r.mayShare() {
		return nil
	}
	f := g.covering(r.position, func(*feed) bool { return true })
	if f != nil {
		f.attach(r)
	}
	return f
}

// feedOf is the feed that the reader has, if it has one.
func (g *group) feedOf(r *reader) *feed {
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.feed
}

// begin registers a feed for the one reader that it is made for, and tells
// where it is to begin.
func (g *group) begin(f *feed, r *reader) Start {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serials++
	f.serial = g.serials
	g.feeds = append(g.feeds, f)
	f.attach(r)
	return r.start()
}

// abandon takes the reader's feed back, which nothing was started for.
func (g *group) abandon(r *reader) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.feed.detach(r)
}

// end takes a feed out that brings nothing more. The lock is held.
func (g *group) end(f *feed) {
	f.over = true
	g.feeds = slices.DeleteFunc(g.feeds, func(other *feed) bool { return other == f })
}

// covering is the feed, among those that are wanted, that tells of all that
// follows the position, and is not behind it: a reader that is ahead would have
// to wait for it. The lock is held.
func (g *group) covering(position uint64, wanted func(*feed) bool) (best *feed) {
	for _, f := range g.feeds {
		if f.open() && f.base <= position && position <= f.head && wanted(f) &&
			(best == nil || len(f.readers) > len(best.readers)) {
			best = f
		}
	}
	return best
}

// better is a feed that the reader should go on with: one that more share, or
// of two that as many do the older one, so that nobody goes back and forth.
// The lock is held.
func (g *group) better(r *reader) *feed {
	own := r.feed
	if len(g.feeds) < 2 || !own.open() || !r.mayShare() {
		return nil
	}
	return g.covering(r.position, func(f *feed) bool {
		return f != own && (len(f.readers) > len(own.readers) || len(f.readers) == len(own.readers) && f.serial < own.serial)
	})
}

// show has the readers of other feeds look whether they can go on with the
// reader's, now that it has taken everything. The lock is held.
func (g *group) show(r *reader) {
	if len(g.feeds) < 2 || r.shown == r.position {
		return
	}
	r.shown = r.position
	for _, f := range g.feeds {
		if f == r.feed {
			continue
		}
		for _, other := range f.readers {
			other.wake()
		}
	}
}
