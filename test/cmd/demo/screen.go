//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// screen prints what the demo does, a line at a time, from any goroutine.
type screen struct {
	colour bool

	mu  sync.Mutex // keeps lines whole
	out io.Writer
}

// newScreen returns a screen that has colours if out is a terminal, unless the
// user wants none (https://no-color.org).
func newScreen(out io.Writer) *screen {
	file, isFile := out.(*os.File)
	return &screen{
		colour: isFile && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		out:    out,
	}
}

// SGR parameters (ECMA-48).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

var changeColours = map[string]string{
	"existing": cyan, "created": green, "updated": yellow, "deleted": red, "deselected": red,
}

func (s *screen) step(format string, args ...any) {
	s.line(s.paint(bold, "==> "+fmt.Sprintf(format, args...)))
}

func (s *screen) note(format string, args ...any) {
	s.line(s.paint(dim, "    "+fmt.Sprintf(format, args...)))
}

func (s *screen) alarm(text string) {
	s.line(s.paint(red, "bridge: "+text))
}

// The columns of events.
const columns = "%-8s  %s  %-18s  %9s  %s"

func (s *screen) heading() {
	s.line(s.paint(dim, fmt.Sprintf(columns, "TIME", "CHANGE  ", "SUBJECT", "VERSION", "DATA")))
}

func (s *screen) event(e event) {
	change := s.paint(changeColours[e.change], fmt.Sprintf("%-8s", e.change))
	s.line(fmt.Sprintf(columns, e.time, change, e.subject, e.version, e.data))
}

// Write prints the progress of builds as notes. Each call has whole lines.
func (s *screen) Write(p []byte) (int, error) {
	for line := range strings.SplitSeq(strings.TrimRight(string(p), "\n"), "\n") {
		s.note("%s", line)
	}
	return len(p), nil
}

func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintln(s.out, text)
}

func (s *screen) paint(colour, text string) string {
	if !s.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// alarms picks the warnings and errors out of the bridge's log and shows them.
// Only one goroutine may write to it.
type alarms struct {
	screen *screen
	line   []byte // the unfinished last line
}

func (a *alarms) Write(p []byte) (int, error) {
	a.line = append(a.line, p...)
	for {
		line, rest, whole := bytes.Cut(a.line, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		if bytes.Contains(line, []byte("level=WARN")) || bytes.Contains(line, []byte("level=ERROR")) {
			a.screen.alarm(string(line))
		}
		a.line = rest
	}
}
