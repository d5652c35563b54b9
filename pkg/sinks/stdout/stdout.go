// Package stdout is the sink for a first look: it writes each event as a line
// of JSON, a CloudEvent in its JSON format, to the standard output.
//
// An event counts as durable when it is written; what becomes of it then is up
// to whoever reads. Where a write fails in the middle of a line, the next one
// begins a new line. The bridge's log is on stderr. Where the output is a pipe
// whose reader ends, so does the bridge, as programs do.
package stdout

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Settings are the keys of a sink that writes to the standard output: none.
type Settings struct{}

// Validate implements sinks.Settings.
func (*Settings) Validate(settings.Path, settings.Report) {}

// KeepsLedgers implements sinks.Settings: what is written cannot be read again.
func (*Settings) KeepsLedgers() bool { return false }

// Files implements sinks.Settings.
func (*Settings) Files() []string { return nil }

// Same implements sinks.Settings. There is one standard output.
func (*Settings) Same(other sinks.Settings) string {
	if _, is := other.(*Settings); !is {
		return ""
	}
	return "standard output"
}

// Open implements sinks.Settings.
func (*Settings) Open(env sinks.Environment) (sinks.Sink, error) { return open(os.Stdout, env), nil }

// Check implements sinks.Settings.
func (*Settings) Check(context.Context, sinks.Environment) ([]sinks.Finding, error) {
	return []sinks.Finding{{
		What: "standard output", Result: "events count as delivered when they are written there", Warn: true,
	}}, nil
}

// Sink writes lines. Whoever reads slowly holds up all its flows.
type Sink struct {
	name       string
	problems   *sinks.Problems
	lines      chan line
	publishing sinks.Gate
	closing    sync.Once
	done       chan struct{} // closed when nobody wants anything to be written any more
}

// line is what is to be written, and who wants to know whether it was.
type line struct {
	text    []byte
	written chan error // has room for the answer
}

func open(w io.Writer, env sinks.Environment) *Sink {
	log := env.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Sink{
		name: env.Name, problems: sinks.NewProblems(log.With("sink", env.Name), sinks.Connection+1),
		lines: make(chan line), done: make(chan struct{}),
	}
	s.problems.Connect("standard output", nil)
	go s.write(w)
	return s
}

// write writes one line after the other. It may wait for a reader for ever, and
// nothing can end that, so that nobody waits for it.
func (s *Sink) write(w io.Writer) {
	broken := false // a line is there in part
	for {
		select {
		case l := <-s.lines:
			if broken {
				l.text = append([]byte{'\n'}, l.text...)
			}
			n, err := w.Write(l.text)
			broken = n > 0 && n < len(l.text) || broken && n == 0
			if err != nil {
				err = fmt.Errorf("standard output: %w", err)
				s.problems.Disconnect(err.Error())
			} else {
				s.problems.Connect("standard output", nil)
			}
			l.written <- err
		case <-s.done:
			return
		}
	}
}

// Publisher implements sinks.Sink.
func (s *Sink) Publisher(sinks.Flow) sinks.Publisher { return publisher{s} }

// Keeper implements sinks.Sink: what is written cannot be read again.
func (s *Sink) Keeper() sinks.Keeper { return nil }

// Status implements sinks.Sink.
func (s *Sink) Status() sinks.Status { return s.problems.Status("stdout", s.name) }

// Reconnect implements sinks.Sink. There are no files to read.
func (s *Sink) Reconnect() {}

// Close refuses new batches and waits for those that are being written, for as
// long as ctx allows. It may be called again.
func (s *Sink) Close(ctx context.Context) error {
	err := s.publishing.Close(ctx)
	s.closing.Do(func() {
		close(s.done)
		s.problems.Closed()
	})
	if err != nil {
		return fmt.Errorf("sink %s: closed before all was written: %w", s.name, err)
	}
	return nil
}

type publisher struct{ sink *Sink }

// Publish implements sinks.Publisher. A line that is being written when ctx
// ends may be written all the same.
func (p publisher) Publish(ctx context.Context, batch []events.Event) (durable int, err error) {
	s := p.sink
	fail := func(err error) error { return fmt.Errorf("sink %s: %w", s.name, err) }
	if !s.publishing.Enter() {
		return 0, fail(sinks.ErrClosed)
	}
	defer s.publishing.Leave()
	for ; durable < len(batch); durable++ {
		text, err := encode(&batch[durable])
		if err != nil {
			return durable, fail(err)
		}
		if err := s.put(ctx, text); err != nil {
			return durable, fail(err)
		}
	}
	return durable, nil
}

// put has a line written.
func (s *Sink) put(ctx context.Context, text []byte) error {
	l := line{text: text, written: make(chan error, 1)}
	select {
	case s.lines <- l:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done:
		return sinks.ErrClosed
	}
	select {
	case err := <-l.written:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done:
		return sinks.ErrClosed
	}
}

func encode(e *events.Event) ([]byte, error) {
	whole := e.CloudEvent()
	if err := whole.Validate(); err != nil {
		return nil, fmt.Errorf("event %s is none: %w", e.ID(), err)
	}
	var text bytes.Buffer
	text.Grow(e.Size())
	if err := event.WriteJson(&whole, &text); err != nil {
		return nil, fmt.Errorf("event %s as JSON: %w", e.ID(), err)
	}
	text.WriteByte('\n')
	return text.Bytes(), nil
}
