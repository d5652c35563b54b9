package sources

import (
	"context"
	"strconv"
	"time"
)

// reader is one who follows: it hands to a Handler what feeds bring, one feed
// after the other.
type reader struct {
	handler Handler
	news    chan struct{} // holds a token when there may be something to do
	// ended are feeds of which something may be left.
	ended []*feed

	// The group's.
	position uint64 // all up to it was handed over; 0: a list is to be
	behind   bool   // a survey was made, or is to be, and the watch has to catch up with it
	alone    time.Time
	// wary: a watch that it shared has ended in trouble. Until a watch of its own
	// has brought something, or follows a list, it may end in the same: an API
	// server grants a watch of which it has no history, and then says so.
	wary  bool
	feed  *feed  // that it reads, if any
	next  uint64 // the number of the entry that it takes next
	held  time.Duration
	shown uint64 // where it was when it last had the readers of other feeds look
}

func newReader(from Start, handler Handler) *reader {
	r := &reader{handler: handler, news: make(chan struct{}, 1)}
	// A position that cannot be read is none.
	r.position, _ = strconv.ParseUint(from.Position, 10, 64)
	r.behind = from.Survey && r.position != 0
	return r
}

// follow reads until ctx is done. open starts what brings a feed something, from
// a start on.
func (r *reader) follow(ctx context.Context, g *group, open func(*feed, Start) error) error {
	defer r.await()
	for ctx.Err() == nil {
		f := g.enter(r)
		if f != nil {
			r.handler.Condition(nil) // as the watch that it goes on with was granted
		} else {
			r.await() // lest it has more than one watch
			f = newFeed(g)
			from := g.begin(f, r)
			if err := open(f, from); err != nil {
				g.abandon(r)
				return err
			}
		}
		for ; f != nil; f = g.feedOf(r) {
			if err := r.read(ctx, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// start is where a feed of the reader's own begins. The lock is held.
func (r *reader) start() Start {
	if r.position == 0 {
		return Start{}
	}
	return Start{Position: strconv.FormatUint(r.position, 10), Survey: r.behind}
}

// mayShare tells whether the reader may go on with a feed that is not its own.
// The lock is held.
func (r *reader) mayShare() bool {
	return r.position != 0 && !r.behind && !r.wary && !time.Now().Before(r.alone)
}

func (r *reader) wake() { wake(r.news) }

// read hands over what the feed brings, until ctx is done, the feed is of no
// more use to this reader, or has failed. Then the reader has another feed, or
// none.
func (r *reader) read(ctx context.Context, f *feed) error {
	g := f.group
	g.mu.Lock()
	defer g.mu.Unlock()
	for r.feed == f {
		switch {
		case ctx.Err() != nil:
			r.leave()
		case r.next < f.end():
			e := f.entries[r.next-f.first]
			g.mu.Unlock()
			handed := r.hand(ctx, e)
			g.mu.Lock()
			if !handed {
				continue
			}
			r.position = max(r.position, e.version)
			if r.feed == f {
				f.took(r)
			}
		case f.over:
			r.leave()
		default:
			if better := g.better(r); better != nil {
				r.leave()
				better.attach(r)
				continue
			}
			g.show(r)
			g.mu.Unlock()
			select {
			case <-r.news:
			case <-ctx.Done():
			case <-f.done:
			}
			g.mu.Lock()
			select {
			case <-f.done:
				if r.feed == f {
					r.leave()
					return f.failed
				}
			default:
			}
		}
	}
	return nil
}

// hand hands an entry over, and tells whether that was done before ctx ended.
func (r *reader) hand(ctx context.Context, e entry) bool {
	if e.tell == nil {
		r.handler.Progressed(ctx, e.text)
	} else {
		e.tell(r.handler, ctx, e.object)
	}
	return ctx.Err() == nil
}

// leave gives up the feed. The lock is held.
func (r *reader) leave() {
	f := r.feed
	f.detach(r)
	if len(f.readers) == 0 {
		f.stop()
		r.ended = append(r.ended, f)
	}
}

// await waits until nothing is left of feeds that the reader was the last to
// leave.
func (r *reader) await() {
	for _, f := range r.ended {
		<-f.done
	}
	r.ended = nil
}
