package sources

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/crbridge/crbridge/pkg/object"
)

const (
	// logBytes is what a feed holds of what its watch has brought, at least one
	// change: enough for readers that take turns at two cores, and little for
	// flows that are blocked.
	logBytes = 32 << 10
	// entryBytes is what an entry takes besides the object's JSON.
	entryBytes = 256
	// slowPatience is for how long, in all, a reader may have others wait that
	// have taken everything and have nothing else to do, until it has taken
	// everything itself. lookAgain is how often it is looked whether they have.
	slowPatience = 250 * time.Millisecond
	lookAgain    = 50 * time.Millisecond
)

// feed is an informer and those who read what it brings. It is the informer's
// handler. What the watch brings goes into a log that each reader reads at its
// own pace, and that the informer adds to when there is room. Lists go to the
// handler directly: a feed that lists has one reader.
type feed struct {
	group *group
	// stop ends the informer, and does not wait. done is closed when nothing of
	// it is left; failed, which is set before, is why it could not go on.
	stop   func()
	done   chan struct{}
	failed error
	// freed holds a token for the informer's goroutine when it waits.
	freed chan struct{}

	// The group's.
	serial  int
	readers []*reader
	entries []entry
	first   uint64 // the number of entries[0]; numbers begin with 0
	bytes   int
	base    uint64 // all that the API server told after it is in the log
	head    uint64 // all up to it has been put into the log
	works   bool   // a watch was granted, and nothing is amiss
	listed  bool   // a list has come before that
	over    bool   // nothing more comes, and nobody may join
	waiting bool   // the informer's goroutine waits for readers
	caught  int    // readers that have taken everything
}

// entry is something that a watch brought.
type entry struct {
	tell    func(Handler, context.Context, *object.Object) // nil: progress
	object  *object.Object
	text    string // the resource version, as it came
	version uint64 // the same; where the text cannot be read, that of what came before
	left    int    // readers that have not taken it
}

func (e *entry) size() int {
	if e.object == nil {
		return entryBytes
	}
	return entryBytes + len(e.object.JSON)
}

var (
	_ Handler = (*feed)(nil)
	_ gate    = (*feed)(nil)
)

var errDissolved = errors.New("those who shared the watch go on by themselves")

func newFeed(g *group) *feed {
	return &feed{group: g, done: make(chan struct{}), freed: make(chan struct{}, 1)}
}

func (f *feed) end() uint64 { return f.first + uint64(len(f.entries)) }

// Changed implements Handler.
func (f *feed) Changed(ctx context.Context, o *object.Object) {
	f.add(ctx, entry{tell: Handler.Changed, object: o, text: o.ResourceVersion})
}

// Deleted implements Handler.
func (f *feed) Deleted(ctx context.Context, o *object.Object) {
	f.add(ctx, entry{tell: Handler.Deleted, object: o, text: o.ResourceVersion})
}

// Progressed implements Handler.
func (f *feed) Progressed(ctx context.Context, resourceVersion string) {
	f.add(ctx, entry{text: resourceVersion})
}

// add puts something into the log, when there is room or nobody is left. Where
// the feed ends before, it is not told: it comes again from where each reader
// is.
func (f *feed) add(ctx context.Context, e entry) {
	version, _ := strconv.ParseUint(e.text, 10, 64) // the handler tells of one that cannot be read
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	e.version = max(version, f.head)
	fits := func() bool {
		f.trim(e.size())
		return len(f.entries) == 0 || f.bytes+e.size() <= logBytes
	}
	if !f.await(ctx, fits) {
		return
	}
	for _, r := range f.readers {
		r.wary = false
	}
	e.left = len(f.readers)
	f.entries = append(f.entries, e)
	f.bytes += e.size()
	f.head = e.version
	f.caught = 0
	for _, r := range f.readers {
		r.wake()
	}
}

// trim drops what everybody has taken. What others may need that are about to
// join stays, as long as there is room for so much more. The lock is held.
func (f *feed) trim(room int) {
	n := 0
	for ; n < len(f.entries) && f.entries[n].left == 0; n++ {
		if len(f.group.feeds) > 1 && f.bytes+room <= logBytes {
			break
		}
		f.base = max(f.base, f.entries[n].version)
		f.bytes -= f.entries[n].size()
	}
	f.first += uint64(n)
	f.entries = slices.Delete(f.entries, 0, n)
}

// await waits until it is so, and tells whether it was before the feed ended.
// Readers that others have to wait for too long are left to themselves. The
// lock is held, but not while it waits.
func (f *feed) await(ctx context.Context, so func() bool) bool {
	for !so() {
		if f.over || ctx.Err() != nil {
			return false
		}
		slow, waitedFor := f.slow()
		patience := time.Duration(math.MaxInt64)
		if len(slow) > 0 {
			patience = lookAgain
		}
		for _, r := range slow {
			patience = min(patience, slowPatience-r.held)
		}
		began := time.Now()
		f.wait(ctx, patience)
		for _, r := range slow {
			// Nor is one slow whom nobody waits for any more.
			if !waitedFor || f.over || f.caught == 0 || r.feed != f || r.next == f.end() {
				continue
			}
			if r.held += time.Since(began); r.held >= slowPatience {
				f.detach(r)
				r.alone = time.Now().Add(aloneAfterSlow)
			}
		}
	}
	return !f.over && ctx.Err() == nil
}

// wait waits until a reader has gone on, at most for so long. The lock is held,
// but not while it waits.
func (f *feed) wait(ctx context.Context, atMost time.Duration) {
	f.waiting = true
	f.group.mu.Unlock()
	timer := time.NewTimer(atMost)
	select {
	case <-f.freed:
	case <-timer.C:
	case <-ctx.Done():
	}
	timer.Stop()
	f.group.mu.Lock()
	f.waiting = false
}

// slow are the readers that have something to take while others have taken
// everything. It tells whether they are waited for: those others may still be
// busy with what they have. The lock is held.
func (f *feed) slow() (slow []*reader, waitedFor bool) {
	if f.caught == 0 {
		return nil, false
	}
	for _, r := range f.readers {
		if r.next < f.end() {
			slow = append(slow, r)
		} else {
			waitedFor = waitedFor || !r.handler.Busy()
		}
	}
	return slow, waitedFor
}

// attach gives the feed one reader more. The lock is held.
func (f *feed) attach(r *reader) {
	r.feed, r.held = f, 0
	r.next = f.end()
	for r.next > f.first && f.entries[r.next-1-f.first].version > r.position {
		r.next--
		f.entries[r.next-f.first].left++
	}
	if r.next == f.end() {
		f.caught++
	}
	f.readers = append(f.readers, r)
	f.free() // one that waits for the others has to see that this one waits as well
}

// detach takes a reader away, with what it has not taken. The lock is held.
func (f *feed) detach(r *reader) {
	for n := r.next; n < f.end(); n++ {
		f.entries[n-f.first].left--
	}
	if r.next == f.end() {
		f.caught--
	}
	r.feed = nil
	f.readers = slices.DeleteFunc(f.readers, func(other *reader) bool { return other == r })
	if len(f.readers) == 0 && !f.over {
		f.group.end(f)
	}
	f.free()
}

// took notes that a reader has taken its next entry. The lock is held.
func (f *feed) took(r *reader) {
	e := &f.entries[r.next-f.first]
	e.left--
	if e.left == 0 {
		f.trim(0)
	}
	r.next++
	if r.next == f.end() {
		f.caught++
		r.held = 0
		f.free() // one that waits for the others has to see that this one waits as well
	} else if f.bytes <= logBytes/2 {
		f.free() // not for each entry, lest everybody wakes up for each
	}
}

// free has the informer's goroutine look again, if it waits. The lock is held.
func (f *feed) free() {
	if f.waiting {
		wake(f.freed)
	}
}

// drained tells whether everybody has taken everything. The lock is held.
func (f *feed) drained() bool { return f.caught == len(f.readers) }

// dissolve sends everybody on alone, when they have taken what there is. The
// lock is held.
func (f *feed) dissolve() {
	if f.over {
		return
	}
	f.group.end(f)
	f.free()
	for _, r := range f.readers {
		r.wary = true
		r.wake()
	}
	f.stop()
}

// one is the only reader, if there is only one. The lock is held.
func (f *feed) one() *reader {
	if len(f.readers) == 1 {
		return f.readers[0]
	}
	return nil
}

// beforeList implements gate: a feed that several share makes no list.
func (f *feed) beforeList(ctx context.Context) error {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	f.works = false
	if len(f.readers) > 1 {
		f.dissolve()
	}
	if !f.await(ctx, f.drained) {
		return errDissolved
	}
	return nil
}

// beforeWatch implements gate: what a watch brought is taken before it is told
// what became of that watch.
func (f *feed) beforeWatch(ctx context.Context) error {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	if !f.await(ctx, f.drained) {
		return errDissolved
	}
	return nil
}

// granted implements gate.
func (f *feed) granted(resourceVersion string) {
	version, err := strconv.ParseUint(resourceVersion, 10, 64)
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	if err != nil || f.over {
		return
	}
	if r := f.one(); r != nil && !f.works {
		// Nothing is in the log that anybody waits for, see beforeWatch.
		f.first, f.entries, f.bytes = f.end(), nil, 0
		r.next = f.first
		r.position, f.base, f.head = version, version, version
	}
	f.works = true
	for _, r := range f.readers {
		r.wary = r.wary && !f.listed
		r.wake() // there may be a better feed
	}
}

// Condition implements Handler: trouble is for each reader to find out about.
func (f *feed) Condition(err error) {
	f.group.mu.Lock()
	r := f.one()
	if err != nil {
		f.works = false
		if r == nil {
			f.dissolve()
		}
	}
	f.group.mu.Unlock()
	if r != nil {
		r.handler.Condition(err)
	}
}

// ListStarted implements Handler.
func (f *feed) ListStarted(ctx context.Context, resourceVersion string) error {
	if r := f.lister(); r != nil {
		return r.handler.ListStarted(ctx, resourceVersion)
	}
	return errDissolved
}

// Listed implements Handler.
func (f *feed) Listed(ctx context.Context, o *object.Object) {
	if r := f.lister(); r != nil {
		r.handler.Listed(ctx, o)
	}
}

// Knows implements Handler.
func (f *feed) Knows(ctx context.Context) bool {
	r := f.lister()
	return r != nil && r.handler.Knows(ctx)
}

// Unchanged implements Handler.
func (f *feed) Unchanged(ctx context.Context, o *object.Object) bool {
	r := f.lister()
	return r != nil && r.handler.Unchanged(ctx, o)
}

// ListFinished implements Handler.
func (f *feed) ListFinished(ctx context.Context, resourceVersion string) {
	r := f.lister()
	if r == nil {
		return
	}
	r.handler.ListFinished(ctx, resourceVersion)
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	// The first list of one that is behind is its survey. After another, which
	// tells everything, there is nothing that a watch has to catch up with.
	r.behind = r.behind && !f.listed
	f.listed = true
}

// CaughtUp implements Handler.
func (f *feed) CaughtUp(ctx context.Context) {
	r := f.lister()
	if r == nil {
		return
	}
	r.handler.CaughtUp(ctx)
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	r.behind = false
	r.wake()
}

// open tells whether others may join. The lock is held.
func (f *feed) open() bool {
	r := f.one()
	return f.works && !f.over && (r == nil || r.mayShare())
}

// Busy implements Handler. Nobody asks a feed.
func (f *feed) Busy() bool { return false }

// lister is whose list it is; nobody's where it has gone.
func (f *feed) lister() *reader {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	return f.one()
}

// wake leaves a token for one who waits.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
