package repeat_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/internal/repeat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is a log without the times of its lines.
type book struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *book) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSuffix(b.buf.String(), "\n"), "\n")
}

func (b *book) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, b.lines()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func newLogger(o repeat.Options) (*slog.Logger, *repeat.Handler, *book) {
	b := &book{}
	start := time.Now()
	h := repeat.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case a.Key == slog.TimeKey && len(groups) == 0:
			return slog.String("at", a.Value.Time().Sub(start).String())
		case a.Value.Kind() == slog.KindTime:
			return slog.String(a.Key, a.Value.Time().Sub(start).String())
		}
		return a
	}}), o)
	return slog.New(h), h, b
}

var options = repeat.Options{
	Level: slog.LevelWarn, Window: time.Minute, Lines: 100, Varying: []string{"object"}, States: []string{"state"}, Changes: 3,
}

func TestRepeatedLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, h, b := newLogger(options)
		for range 13 {
			log.Warn("it fails", "error", errors.New("no route"))
			time.Sleep(time.Second)
		}
		b.expect(t, `at=0s level=WARN msg="it fails" error="no route"`)
		time.Sleep(time.Minute)
		synctest.Wait()
		b.expect(t,
			`at=0s level=WARN msg="it fails" error="no route"`,
			`at=1m0s level=WARN msg="it fails" error="no route" repeated=12 since=0s`)

		// What goes on is summed up once a minute, and what is over is told at
		// once when it comes back.
		log.Warn("it fails", "error", errors.New("no route"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		log.Warn("it fails", "error", errors.New("no route"))
		b.expect(t,
			`at=0s level=WARN msg="it fails" error="no route"`,
			`at=1m0s level=WARN msg="it fails" error="no route" repeated=12 since=0s`,
			`at=2m0s level=WARN msg="it fails" error="no route" repeated=1 since=1m0s`,
			`at=3m13s level=WARN msg="it fails" error="no route"`)
		h.Flush()
	})
}

func TestWhatIsEqual(t *testing.T) {
	for _, row := range []struct {
		why    string
		first  func(*slog.Logger)
		second func(*slog.Logger)
		lines  int
	}{
		{"the same", func(l *slog.Logger) { l.Warn("m", "error", "e") }, func(l *slog.Logger) { l.Warn("m", "error", "e") }, 1},
		{"another error", func(l *slog.Logger) { l.Warn("m", "error", "e") }, func(l *slog.Logger) { l.Warn("m", "error", "f") }, 2},
		{"another message", func(l *slog.Logger) { l.Warn("m") }, func(l *slog.Logger) { l.Warn("n") }, 2},
		{"another level", func(l *slog.Logger) { l.Warn("m") }, func(l *slog.Logger) { l.Error("m") }, 2},
		{"another flow, by the logger", func(l *slog.Logger) { l.With("crd", "a").Warn("m") }, func(l *slog.Logger) { l.With("crd", "b").Warn("m") }, 2},
		{"the same flow, by two loggers", func(l *slog.Logger) { l.With("crd", "a").Warn("m") }, func(l *slog.Logger) { l.With("crd", "a").Warn("m") }, 1},
		{"another group", func(l *slog.Logger) { l.WithGroup("g").Warn("m", "k", 1) }, func(l *slog.Logger) { l.Warn("m", "k", 1) }, 2},
		{"another object, which may vary", func(l *slog.Logger) { l.Warn("m", "object", "a") }, func(l *slog.Logger) { l.Warn("m", "object", "b") }, 1},
		{"texts that are cut elsewhere", func(l *slog.Logger) { l.Warn("m", "a", "bc") }, func(l *slog.Logger) { l.Warn("m", "ab", "c") }, 2},
		{"a state, of which a few pass", func(l *slog.Logger) { l.Warn("m", "state", "a") }, func(l *slog.Logger) { l.Warn("m", "state", "a") }, 2},
		{"information, which always passes", func(l *slog.Logger) { l.Info("m") }, func(l *slog.Logger) { l.Info("m") }, 2},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, h, b := newLogger(options)
				row.first(log)
				row.second(log)
				if got := len(b.lines()); got != row.lines {
					t.Errorf("%d lines, not %d: %q", got, row.lines, b.lines())
				}
				h.Flush()
			})
		})
	}
}

// TestChangesOfState shows that something that comes and goes is told of at
// once when it begins, then in one line a minute, and last as it is.
func TestChangesOfState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, h, b := newLogger(options)
		flow := log.With("crd", "a")
		for range 6 {
			flow.Warn("is blocked", "state", "blocked", "reason", "full")
			time.Sleep(time.Second)
			flow.Info("is running", "state", "running")
			time.Sleep(time.Second)
		}
		log.With("crd", "b").Info("is running", "state", "running") // another's state is another's
		flow.Info("something else")                                 // and no state is none
		want := []string{
			`at=0s level=WARN msg="is blocked" crd=a state=blocked reason=full`,
			`at=1s level=INFO msg="is running" crd=a state=running`,
			`at=2s level=WARN msg="is blocked" crd=a state=blocked reason=full`,
			`at=12s level=INFO msg="is running" crd=b state=running`,
			`at=12s level=INFO msg="something else" crd=a`,
		}
		b.expect(t, want...)
		time.Sleep(49 * time.Second)
		synctest.Wait()
		want = append(want, `at=1m0s level=INFO msg="is running" crd=a state=running repeated=9 since=0s`)
		b.expect(t, want...)

		// It goes on: none of the next window passes at once.
		flow.Warn("is blocked", "state", "blocked", "reason", "gone")
		b.expect(t, want...)
		time.Sleep(time.Minute)
		synctest.Wait()
		want = append(want, `at=2m0s level=WARN msg="is blocked" crd=a state=blocked reason=gone repeated=1 since=1m0s`)
		b.expect(t, want...)

		// It has been over for a window: the next change is told at once.
		time.Sleep(time.Minute)
		synctest.Wait()
		flow.Info("is running", "state", "running")
		want = append(want, `at=3m1s level=INFO msg="is running" crd=a state=running`)
		b.expect(t, want...)
		h.Flush()
		b.expect(t, want...)
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, h, b := newLogger(options)
		flow := log.With("crd", "orders.shop.example.com")
		flow.Warn("too large", "object", "a")
		flow.Warn("too large", "object", "b")
		time.Sleep(time.Second)
		h.Flush()
		want := []string{
			`at=0s level=WARN msg="too large" crd=orders.shop.example.com object=a`,
			`at=1s level=WARN msg="too large" crd=orders.shop.example.com object=b repeated=1 since=0s`,
		}
		b.expect(t, want...)
		h.Flush()
		time.Sleep(time.Hour)
		b.expect(t, want...)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options
		o.Lines = 2
		log, h, b := newLogger(o)
		log.Warn("a")
		log.Warn("a")
		log.Warn("b")
		log.Warn("c") // a makes way, and is told first
		log.Warn("b")
		log.Warn("a") // and comes as if it were new; b makes way
		h.Flush()
		b.expect(t,
			"at=0s level=WARN msg=a", "at=0s level=WARN msg=b",
			"at=0s level=WARN msg=a repeated=1 since=0s", "at=0s level=WARN msg=c",
			"at=0s level=WARN msg=b repeated=1 since=0s", "at=0s level=WARN msg=a")
	})
}

// TestNothingIsLost shows that every line is told or counted, whoever logs.
func TestNothingIsLost(t *testing.T) {
	o := options
	o.Window, o.Lines = time.Millisecond, 5
	log, h, b := newLogger(o)
	const loggers, each = 8, 500
	var all sync.WaitGroup
	for n := range loggers {
		all.Go(func() {
			mine := log.With("crd", fmt.Sprint(n))
			for i := range each {
				mine.Warn("m", "object", i)
			}
		})
	}
	all.Wait()
	h.Flush()
	told := 0
	for _, line := range b.lines() {
		_, count, summed := strings.Cut(line, " repeated=")
		if !summed {
			told++
			continue
		}
		var n int
		if _, err := fmt.Sscan(strings.Fields(count)[0], &n); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		told += n
	}
	if told != loggers*each {
		t.Errorf("%d lines are told or counted, not %d", told, loggers*each)
	}
}
