// Package repeat sums up log lines that repeat. It is a slog.Handler in front
// of another one: of lines that are equal it passes on the first at once, and
// at the end of each window one that says how many there were since. Of the
// changes of one thing's state it passes on the first few, and at the end of
// each window the last. It knows nothing of what the lines are about.
package repeat

import (
	"container/list"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// The keys of a line that sums up others: how many there were besides those
// that were passed on, and since when.
const (
	RepeatedKey = "repeated"
	SinceKey    = "since"
)

// Options are what a Handler sums up, and for how long.
type Options struct {
	// Level is the lowest that is summed up; what is below passes, but for
	// changes of states.
	Level slog.Level
	// Window is how long equal lines are withheld before they are summed up.
	Window time.Duration
	// Lines is how many different lines are remembered at most. When there is
	// another one, the one whose window ends first is summed up before its
	// time: nothing is lost, it is told sooner.
	Lines int
	// Varying are keys of attributes in which equal lines may differ, such as
	// the name of an object. A line that sums up others has those of the last.
	Varying []string
	// States are keys of attributes of which a line has one, whatever its
	// level, which tells that something has changed its state. What that is say
	// the attributes of the logger, and the lines about it are summed up
	// together: of something that goes from state to state and back no two are
	// equal.
	States []string
	// Changes is how many of one thing's are passed on in a window before the
	// rest is withheld. The line that sums it up is the last of them: what is
	// told last is how the thing is, at the latest when the window is over.
	Changes int
}

// Handler sums up lines. All that are made of it with WithAttrs and WithGroup
// sum up together. Lines are equal where level, message and attributes are,
// those of the logger included; what tells of states is what Options says.
// All its methods may be called concurrently.
type Handler struct {
	*sums
	next  slog.Handler
	scope *scope
}

// scope is what WithAttrs and WithGroup have added. It is put into words only
// where there is a line to be summed up.
type scope struct {
	before *scope
	group  string
	attrs  []slog.Attr
}

// sums are the lines that are remembered.
type sums struct {
	Options

	mu    sync.Mutex
	lines map[string]*list.Element // of *line, by what makes lines equal
	order *list.List               // by when their windows end
	timer *time.Timer              // until the first window's end; nil while there is none
}

// line is one that was passed on, or a few, and those like it that were not.
type line struct {
	key    string
	began  time.Time // of the window
	passed int
	count  int             // withheld
	ctx    context.Context // of the last, for its values
	last   slog.Record
	next   slog.Handler
}

// New makes a Handler that passes lines on to next.
func New(next slog.Handler, o Options) *Handler {
	return &Handler{next: next, sums: &sums{Options: o, lines: map[string]*list.Element{}, order: list.New()}}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{next: h.next.WithAttrs(attrs), sums: h.sums, scope: &scope{before: h.scope, attrs: attrs}}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{next: h.next.WithGroup(name), sums: h.sums, scope: &scope{before: h.scope, group: name}}
}

// Handle implements slog.Handler. What withholds a line also writes it later:
// an error of that is nobody's to hear.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	withheld := false
	switch {
	case h.changes(r):
		withheld = h.withhold(ctx, h.whose(), max(1, h.Changes), r, h.next)
	case r.Level >= h.Level:
		withheld = h.withhold(ctx, h.key(r), 1, r, h.next)
	}
	if withheld {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// Flush sums up all that is withheld, and forgets what was passed on.
func (h *Handler) Flush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.order.Len() > 0 {
		h.end(h.order.Front())
	}
	h.schedule()
}

// withhold takes note of a line, and tells whether it is one to be summed up:
// so many pass.
func (s *sums) withhold(ctx context.Context, key string, pass int, r slog.Record, next slog.Handler) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, known := s.lines[key]; known {
		l := e.Value.(*line)
		if l.passed < pass {
			l.passed++
			return false
		}
		l.count++
		l.ctx, l.last, l.next = context.WithoutCancel(ctx), r.Clone(), next
		return true
	}
	for s.order.Len() >= max(1, s.Lines) {
		s.end(s.order.Front())
	}
	s.lines[key] = s.order.PushBack(&line{key: key, began: time.Now(), passed: 1})
	s.schedule()
	return false
}

// schedule sees to the end of the first window. It needs mu.
func (s *sums) schedule() {
	first := s.order.Front()
	if first == nil {
		if s.timer != nil {
			s.timer.Stop()
			s.timer = nil
		}
		return
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(first.Value.(*line).began.Add(s.Window)), s.over)
	}
}

// over ends the windows that are over. A line that went on repeating gets
// another one, in which none passes.
func (s *sums) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	now := time.Now()
	for e := s.order.Front(); e != nil && now.Sub(e.Value.(*line).began) >= s.Window; e = s.order.Front() {
		l := e.Value.(*line)
		again := l.count > 0
		s.end(e)
		if again {
			s.lines[l.key] = s.order.PushBack(&line{key: l.key, began: now, passed: l.passed})
		}
	}
	s.schedule()
}

// end sums up what was withheld of a line. It needs mu, under which it writes,
// lest an equal line that comes now be told first.
func (s *sums) end(e *list.Element) {
	l := s.order.Remove(e).(*line)
	delete(s.lines, l.key)
	if l.count == 0 {
		return
	}
	r := l.last
	r.Time = time.Now()
	r.AddAttrs(slog.Int(RepeatedKey, l.count), slog.Time(SinceKey, l.began))
	_ = l.next.Handle(l.ctx, r) // there is nobody to tell
}

// changes tells whether a line says that something has changed its state.
func (s *sums) changes(r slog.Record) (changes bool) {
	r.Attrs(func(a slog.Attr) bool {
		changes = slices.Contains(s.States, a.Key)
		return !changes
	})
	return changes
}

// whose is what all lines about the states of one thing have in common.
func (h *Handler) whose() string {
	var b strings.Builder
	b.WriteString("states") // no level is called like that
	h.scope.write(&b, h.Varying)
	return b.String()
}

// key is what equal lines have in common.
func (h *Handler) key(r slog.Record) string {
	var b strings.Builder
	b.WriteString(r.Level.String())
	part(&b, r.Message)
	h.scope.write(&b, h.Varying)
	r.Attrs(func(a slog.Attr) bool {
		write(&b, a, h.Varying)
		return true
	})
	return b.String()
}

func (s *scope) write(b *strings.Builder, varying []string) {
	if s == nil {
		return
	}
	s.before.write(b, varying)
	if s.group != "" {
		part(b, s.group)
	}
	for _, a := range s.attrs {
		write(b, a, varying)
	}
}

func write(b *strings.Builder, a slog.Attr, varying []string) {
	if slices.Contains(varying, a.Key) {
		return
	}
	part(b, a.Key)
	part(b, a.Value.Resolve().String())
}

// part is set apart from others by a byte that no text has.
func part(b *strings.Builder, text string) {
	b.WriteByte(0xff)
	b.WriteString(text)
}
