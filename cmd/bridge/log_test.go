package main

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// logBook is a log that is read while it is written.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.buf.String()), "\n")
}

// TestFlappingSinkIsSummedUp shows that a sink that comes and goes does not fill
// the log, and that the log ends with how it is.
func TestFlappingSinkIsSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var book logBook
		l := newLoggers(config.Log{Level: "info", Format: config.LogText}, &book)
		problems := sinks.NewProblems(l.logger.With("sink", "main"), sinks.Connection+1)
		for range 20 {
			problems.Disconnect("refused")
			problems.Connect("127.0.0.1:4222", nil)
		}
		first := `level=WARN msg="sink does not take events" sink=main connected=false reason=refused`
		if got := book.lines(); len(got) != 10 || !strings.HasSuffix(got[0], first) {
			t.Errorf("%d lines, the first is %s", len(got), got[0])
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		last := `level=INFO msg="sink connected" sink=main connected=true server=127.0.0.1:4222 repeated=30 `
		if got := book.lines(); len(got) != 11 || !strings.Contains(got[10], last) {
			t.Errorf("a minute later: %d lines, the last is %s", len(got), got[len(got)-1])
		}
		l.repeats.Flush()
	})
}
