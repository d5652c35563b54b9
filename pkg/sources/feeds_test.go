package sources

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crbridge/crbridge/pkg/object"
)

// server is an API server whose every version is a change of one object. It
// has history from oldest on.
type server struct {
	mu      sync.Mutex
	version uint64
	oldest  uint64
	changed chan struct{}
	down    bool
	watches int
	opened  int // watches that were granted, ever
	cut     chan struct{}
	expires bool // watches that end say that their history is gone
}

func newServer() *server {
	return &server{version: 100, changed: make(chan struct{}), cut: make(chan struct{})}
}

func (s *server) write(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version += uint64(n)
	close(s.changed)
	s.changed = make(chan struct{})
}

// compact forgets the history up to now.
func (s *server) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = s.version
}

// end ends all watches. They are refused while it is down.
func (s *server) end(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endWatches(down, false)
}

// expire forgets the history with so many changes that no watch has brought
// yet, and has all watches say so.
func (s *server) expire(changes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version += uint64(changes)
	s.oldest = s.version
	s.endWatches(s.down, true)
}

// endWatches needs mu.
func (s *server) endWatches(down, expired bool) {
	s.down, s.expires = down, expired
	close(s.cut)
	s.cut = make(chan struct{})
}

func (s *server) now() (version uint64, changed, cut chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version, s.changed, s.cut
}

var (
	errDown = errors.New("the API server is down")
	errGone = errors.New("history is gone")
)

func (s *server) grant(position uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.down:
		return errDown
	case position < s.oldest:
		return errGone
	}
	s.watches++
	s.opened++
	return nil
}

func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches--
}

// open is what Cluster.open is for the real one: it keeps the order in which an
// informer lists, watches and asks.
func (s *server) open(f *feed, from Start) error {
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() {
		defer close(f.done)
		s.inform(ctx, f, from)
	}()
	return nil
}

func (s *server) inform(ctx context.Context, f *feed, from Start) {
	position, _ := strconv.ParseUint(from.Position, 10, 64)
	survey, behind := from.Survey, false
	for ctx.Err() == nil {
		if position == 0 || survey {
			version, err := s.list(ctx, f)
			if err != nil {
				pause(ctx)
				continue
			}
			if position == 0 {
				position = version
			}
			survey, behind = false, survey // once, whatever becomes of the watch
		}
		if f.beforeWatch(ctx) != nil {
			return
		}
		switch err := s.grant(position); {
		case errors.Is(err, errGone):
			// It is granted all the same, and the first that it brings is that.
			behind = false
			f.Condition(nil)
			f.granted(strconv.FormatUint(position, 10))
			time.Sleep(time.Millisecond)
			position = 0
			continue
		case err != nil:
			f.Condition(err)
			pause(ctx)
			continue
		}
		f.Condition(nil)
		f.granted(strconv.FormatUint(position, 10))
		if behind {
			behind = false
			f.CaughtUp(ctx)
		}
		position = s.watch(ctx, f, position)
		s.release()
	}
}

// pause is a backoff.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

func (s *server) list(ctx context.Context, f *feed) (uint64, error) {
	if err := f.beforeList(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	version, down := s.version, s.down
	s.mu.Unlock()
	if down {
		f.Condition(errDown)
		return 0, errDown
	}
	text := strconv.FormatUint(version, 10)
	if err := f.ListStarted(ctx, text); err != nil {
		return 0, err
	}
	f.Listed(ctx, &object.Object{ResourceVersion: text})
	f.ListFinished(ctx, text)
	return version, ctx.Err()
}

// watch brings changes of 1 KiB until the watch is cut or ctx is done, and a
// bookmark after a minute without. It tells how far it has come.
func (s *server) watch(ctx context.Context, f *feed, position uint64) uint64 {
	json := make([]byte, 1<<10)
	for ctx.Err() == nil {
		version, changed, cut := s.now()
		if position < version {
			position++
			o := &object.Object{ResourceVersion: strconv.FormatUint(position, 10), JSON: json}
			if position%10 == 0 {
				f.Deleted(ctx, o)
			} else {
				f.Changed(ctx, o)
			}
			select {
			case <-cut:
				return s.after(position)
			default:
			}
			continue
		}
		select {
		case <-changed:
		case <-time.After(time.Minute):
			f.Progressed(ctx, strconv.FormatUint(position, 10))
		case <-cut:
			return s.after(position)
		case <-ctx.Done():
		}
	}
	return position
}

// after is where one can go on from after a watch that was cut at a position.
func (s *server) after(position uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expires {
		return 0
	}
	return position
}

// follower is a handler that knows what has to come next.
type follower struct {
	mu      sync.Mutex
	at      uint64
	wrong   []string
	lists   int
	surveys int
	took    int           // changes
	pace    time.Duration // for each change
	blocked chan struct{} // closed: not
	busy    bool
	err     error
}

func newFollower() *follower {
	f := &follower{blocked: make(chan struct{})}
	close(f.blocked)
	return f
}

func (f *follower) ListStarted(context.Context, string) error { return nil }
func (f *follower) Listed(context.Context, *object.Object)    {}
func (f *follower) Knows(context.Context) bool                { return false }
func (f *follower) Unchanged(context.Context, *object.Object) bool {
	return false
}

func (f *follower) ListFinished(_ context.Context, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	version, _ := strconv.ParseUint(text, 10, 64)
	if f.surveys > 0 {
		f.surveys--
		return
	}
	if version < f.at {
		f.wrong = append(f.wrong, fmt.Sprintf("list at %d after %d", version, f.at))
	}
	f.at = version
	f.lists++
}

func (f *follower) Changed(ctx context.Context, o *object.Object) { f.take(ctx, o, false) }
func (f *follower) Deleted(ctx context.Context, o *object.Object) { f.take(ctx, o, true) }

func (f *follower) take(ctx context.Context, o *object.Object, deleted bool) {
	f.mu.Lock()
	pace, blocked := f.pace, f.blocked
	f.mu.Unlock()
	if pace > 0 {
		time.Sleep(pace)
	}
	select {
	case <-blocked:
	case <-ctx.Done():
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	version, _ := strconv.ParseUint(o.ResourceVersion, 10, 64)
	if version != f.at+1 || deleted != (version%10 == 0) {
		f.wrong = append(f.wrong, fmt.Sprintf("%d (deleted: %v) after %d", version, deleted, f.at))
	}
	f.at = version
	f.took++
}

func (f *follower) Progressed(_ context.Context, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if version, _ := strconv.ParseUint(text, 10, 64); version != f.at {
		f.wrong = append(f.wrong, fmt.Sprintf("all up to %d was told, after %d", version, f.at))
	}
}

func (f *follower) CaughtUp(context.Context) {}

func (f *follower) Busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.busy
}

func (f *follower) Condition(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// takes has it take so long for each change.
func (f *follower) takes(pace time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pace = pace
}

func (f *follower) isBusy(busy bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = busy
}

func (f *follower) block() (unblock func()) {
	blocked := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocked = blocked
	return func() { close(blocked) }
}

func (f *follower) has(version uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at == version
}

// crowd are some who follow the same at one server.
type crowd struct {
	t      *testing.T
	server *server
	feeds  Feeds
	all    []*follower
	stops  []func()
}

func (c *crowd) follow(from Start) *follower {
	f := newFollower()
	f.at, _ = strconv.ParseUint(from.Position, 10, 64)
	if from.Survey {
		f.surveys = 1
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g := c.feeds.join(selected{})
		defer c.feeds.quit(g)
		if err := newReader(from, f).follow(ctx, g, c.server.open); err != nil {
			c.t.Error(err)
		}
	}()
	c.all = append(c.all, f)
	c.stops = append(c.stops, func() {
		cancel()
		<-done
	})
	return f
}

// close ends all, and fails where somebody heard what was not next, or where
// something is left.
func (c *crowd) close() {
	for _, stop := range c.stops {
		stop()
	}
	for i, f := range c.all {
		for _, wrong := range f.wrong {
			c.t.Errorf("follower %d: %s", i, wrong)
		}
	}
	if len(c.feeds.groups) > 0 || c.server.watches > 0 {
		c.t.Errorf("%d groups and %d watches are left", len(c.feeds.groups), c.server.watches)
	}
}

func (c *crowd) watches(want int) {
	c.t.Helper()
	synctest.Wait()
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	if c.server.watches != want {
		c.t.Errorf("there are %d watches, want %d", c.server.watches, want)
	}
}

// at fails unless each of them has heard of everything, without as much as an
// instant having passed.
func (c *crowd) at(who ...*follower) {
	c.t.Helper()
	synctest.Wait()
	for _, f := range who {
		if !f.has(c.server.version) {
			c.t.Errorf("one is at %d, and the API server at %d", f.at, c.server.version)
		}
	}
}

// feed tells how many read the only feed, and what it holds.
func (c *crowd) feed() (readers, held int) {
	c.t.Helper()
	g := c.feeds.join(selected{})
	defer c.feeds.quit(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.feeds) != 1 {
		c.t.Fatalf("there are %d feeds, want 1", len(g.feeds))
	}
	return len(g.feeds[0].readers), g.feeds[0].bytes
}

func crowded(t *testing.T, test func(t *testing.T, c *crowd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{t: t, server: newServer()}
		defer c.close()
		test(t, c)
	})
}

// TestFeedsAreShared: whoever is at the same place goes on with one watch, and
// each hears of everything once.
func TestFeedsAreShared(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		for range 5 {
			c.follow(Start{})
		}
		c.watches(1)
		c.server.write(1000)
		c.at(c.all...)
		c.watches(1)
		// Where one goes, also the one whose watch it was, the others stay.
		for _, stop := range c.stops[:4] {
			stop()
			c.server.write(10)
			c.at(c.all[4])
			c.watches(1)
		}
		c.stops[4]()
		c.watches(0)
	})
}

// TestLateFollowerJoins: one that resumes where the others are needs no watch
// of its own; one that is behind has one until it has caught up.
func TestLateFollowerJoins(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		c.follow(Start{})
		synctest.Wait()
		c.follow(Start{Position: "100"})
		c.at(c.all...)
		if c.server.opened != 1 {
			c.t.Errorf("%d watches were opened, want 1", c.server.opened)
		}
		c.server.write(500)
		c.at(c.all...)
		c.follow(Start{Position: "100"})
		synctest.Wait()
		c.watches(1)
		c.server.write(1)
		c.at(c.all...)
		if c.server.opened != 2 {
			c.t.Errorf("%d watches were opened, want 2", c.server.opened)
		}
	})
}

// TestOneAheadDoesNotWait: a follower does not join a watch that has not come
// as far as it has, until that has.
func TestOneAheadDoesNotWait(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		c.server.write(1000)
		behind := c.follow(Start{Position: "100"})
		unblock := behind.block()
		synctest.Wait()
		ahead := c.follow(Start{Position: "1100"})
		c.server.write(10)
		c.at(ahead)
		c.watches(2)
		unblock()
		c.at(behind)
		c.watches(1)
	})
}

// TestSlowFollowerLeaves: one that takes nothing, or little, holds the others
// up for slowPatience at most, comes back through its own position, and shares
// again when it has shown for a while that it keeps up.
func TestSlowFollowerLeaves(t *testing.T) {
	for name, pace := range map[string]time.Duration{"blocked": 0, "slow": slowPatience / 10} {
		t.Run(name, func(t *testing.T) {
			crowded(t, func(_ *testing.T, c *crowd) {
				slow, other, third := c.follow(Start{}), c.follow(Start{}), c.follow(Start{})
				c.watches(1)
				unblock := func() { slow.takes(0) }
				if slow.takes(pace); pace == 0 {
					unblock = slow.block()
				}
				c.server.write(1000)
				time.Sleep(slowPatience + pace)
				c.at(other, third)
				for range 10 { // from now on they are not held up at all
					c.server.write(1000)
					c.at(other, third)
				}
				unblock()
				time.Sleep(pace)
				c.at(slow)
				c.watches(2)
				time.Sleep(aloneAfterSlow)
				c.server.write(1)
				c.at(c.all...)
				c.watches(1)
			})
		})
	}
}

// TestBusyFollowersAreNotHeldUp: as long as the others have something to do one
// may be slow; when one of them has not, it has to leave.
func TestBusyFollowersAreNotHeldUp(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		slow, other, third := c.follow(Start{}), c.follow(Start{}), c.follow(Start{})
		c.watches(1)
		other.isBusy(true)
		third.isBusy(true)
		unblock := slow.block()
		c.server.write(1000)
		time.Sleep(time.Minute)
		if other.has(c.server.version) {
			c.t.Error("one that is slow was left while nobody waited for it")
		}
		third.isBusy(false)
		time.Sleep(slowPatience + 2*lookAgain)
		c.at(other, third)
		unblock()
		c.at(c.all...)
	})
}

// TestJoiningABlockedFeed: one that joins a watch whose only other reader is
// blocked, and which waits for that one, gets on all the same.
func TestJoiningABlockedFeed(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		blocked := c.follow(Start{})
		c.follow(Start{})
		c.watches(1)
		unblock := blocked.block()
		c.server.write(1)
		c.at(c.all[1])
		c.stops[1]()
		c.server.end(false) // the next watch waits until all is taken
		synctest.Wait()
		late := c.follow(Start{Position: "101"})
		synctest.Wait()
		if readers, _ := c.feed(); readers != 2 {
			c.t.Fatalf("the feed has %d readers; the late one has not joined", readers)
		}
		time.Sleep(slowPatience + lookAgain)
		c.server.write(10)
		c.at(late)
		unblock()
		c.at(blocked, late)
	})
}

// TestSlowOnesLeaveTogether: several that are blocked at different places have
// the others wait no longer than one.
func TestSlowOnesLeaveTogether(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		for range 5 {
			c.follow(Start{})
		}
		c.watches(1)
		other := c.all[4]
		var unblock []func()
		for _, f := range c.all[:4] {
			unblock = append(unblock, f.block())
			c.server.write(1)
			c.at(other)
		}
		c.server.end(false) // the next watch waits until all is taken
		time.Sleep(slowPatience + lookAgain)
		c.server.write(1)
		c.at(other)
		for _, f := range unblock {
			f()
		}
		c.at(c.all...)
	})
}

// TestAllBlocked: where nobody takes anything nobody is sent away, and the one
// watch is not read on.
func TestAllBlocked(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		for range 3 {
			c.follow(Start{})
		}
		c.watches(1)
		var unblock []func()
		for _, f := range c.all {
			unblock = append(unblock, f.block())
		}
		c.server.write(10_000)
		time.Sleep(time.Hour)
		c.watches(1)
		if _, held := c.feed(); held > logBytes {
			c.t.Errorf("%d bytes are held, want at most %d", held, logBytes)
		}
		for _, f := range unblock {
			f()
		}
		c.at(c.all...)
		c.watches(1)
	})
}

// TestTroubleIsEverybodysOwn: after trouble each has asked the API server for
// itself, nobody has missed anything, and they share again.
func TestTroubleIsEverybodysOwn(t *testing.T) {
	for _, test := range []struct {
		name   string
		reason string
		cause  func(s *server)
		lists  int
	}{
		{"watch ends", "API servers end each watch after some minutes; nobody needs to know", func(s *server) { s.end(false) }, 1},
		{"watch tells that history is gone", "a list, when what came before is taken", func(s *server) {
			s.expire(100)
			time.Sleep(time.Second)
		}, 2},
		{"server down", "a refused watch", func(s *server) {
			s.end(true)
			time.Sleep(10 * time.Second)
			s.write(50)
			s.end(false)
			time.Sleep(time.Second)
		}, 1},
		{"history gone", "each lists for itself", func(s *server) {
			s.end(true)
			s.write(50)
			s.compact()
			s.end(false)
			time.Sleep(time.Second)
		}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			crowded(t, func(_ *testing.T, c *crowd) {
				for range 4 {
					c.follow(Start{})
				}
				c.server.write(10)
				c.at(c.all...)
				test.cause(c.server)
				c.server.write(10)
				c.at(c.all...)
				c.watches(1)
				for i, f := range c.all {
					if f.lists != test.lists || f.err != nil {
						c.t.Errorf("%s: follower %d has heard %d lists and the condition %v, want %d and none", test.reason, i, f.lists, f.err, test.lists)
					}
				}
			})
		})
	}
}

// TestSurveyIsNotShared: who surveys has a watch of its own until it has caught
// up.
func TestSurveyIsNotShared(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		c.server.write(10)
		c.follow(Start{Position: "110"})
		synctest.Wait()
		c.follow(Start{Position: "105", Survey: true})
		c.server.write(1)
		c.at(c.all...)
		c.watches(1)
		if c.server.opened != 2 {
			c.t.Errorf("%d watches were opened, want 2", c.server.opened)
		}
	})
}

// TestSurveyWithoutHistory: a survey whose watch has no history is followed by a
// list that tells everything, and then by what is shared.
func TestSurveyWithoutHistory(t *testing.T) {
	crowded(t, func(_ *testing.T, c *crowd) {
		c.server.write(10)
		c.server.compact()
		f := c.follow(Start{Position: "105", Survey: true})
		time.Sleep(time.Second)
		c.follow(Start{})
		c.server.write(1)
		c.at(c.all...)
		c.watches(1)
		if f.lists != 1 {
			c.t.Errorf("%d lists beside the survey, want 1", f.lists)
		}
	})
}

// TestFullLog shows that a watch that waits because the log is full goes on when
// half of it is free, and not for each change that everybody has taken.
func TestFullLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &group{}
		f := newFeed(g)
		readers := []*reader{newReader(Start{Position: "1"}, newFollower()), newReader(Start{Position: "1"}, newFollower())}
		g.begin(f, readers[0])
		g.mu.Lock()
		f.attach(readers[1])
		g.mu.Unlock()
		const size = 1 << 10
		e := entry{object: &object.Object{JSON: make([]byte, size-entryBytes)}, text: "2"}
		for range logBytes / size {
			f.add(t.Context(), e)
		}
		added := make(chan struct{})
		go func() {
			f.add(t.Context(), e)
			close(added)
		}()
		taken := 0
		for {
			synctest.Wait()
			select {
			case <-added:
				if want := logBytes / size / 2; taken != want {
					t.Errorf("the watch goes on when %d changes were taken, want %d", taken, want)
				}
				return
			default:
			}
			if taken++; taken == logBytes/size {
				t.Fatal("the watch does not go on when all was taken but one change")
			}
			g.mu.Lock()
			for _, r := range readers {
				f.took(r)
			}
			g.mu.Unlock()
		}
	})
}

// TestFeedsAtRandom: whatever happens, everybody hears of everything once, in
// order, and they end up with one watch.
func TestFeedsAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		crowded(t, func(_ *testing.T, c *crowd) {
			random := rand.New(rand.NewPCG(seed, 1))
			unblock := map[*follower]func(){}
			for range 60 {
				switch n := random.IntN(20); {
				case n < 8:
					c.server.write(random.IntN(200))
				case n < 10 && len(c.all) < 8:
					from := Start{}
					if version, _, _ := c.server.now(); random.IntN(2) == 0 && version > c.server.oldest {
						position := c.server.oldest + random.Uint64N(version-c.server.oldest) + 1
						from = Start{Position: strconv.FormatUint(position, 10), Survey: random.IntN(4) == 0}
					}
					c.follow(from)
				case n < 12 && len(c.all) > 0:
					f := c.all[random.IntN(len(c.all))]
					if release := unblock[f]; release != nil {
						release()
						delete(unblock, f)
						break
					}
					unblock[f] = f.block()
				case n == 12 && len(c.all) > 0:
					c.all[random.IntN(len(c.all))].takes(time.Duration(random.IntN(3)) * 5 * time.Millisecond)
				case n == 13:
					c.server.end(random.IntN(2) == 0)
				case n == 14:
					c.server.compact()
					if random.IntN(2) == 0 {
						c.server.expire(random.IntN(50))
					}
				case n == 15 && len(c.stops) > 0:
					c.stops[random.IntN(len(c.stops))]()
				default:
					time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
				}
			}
			for _, release := range unblock {
				release()
			}
			c.server.end(false)
			time.Sleep(2 * time.Minute)
			c.server.write(1)
			time.Sleep(2 * time.Minute)
			c.server.write(1)
			time.Sleep(time.Minute)
			c.watches(min(1, len(c.feeds.groups)))
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
