package stdout

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/sinktest"
)

func TestConformance(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Harness {
		p := newPipe(t)
		var resume func(*testing.T)
		return sinktest.Harness{
			Open:    func(*testing.T) sinks.Sink { return open(p.w, sinks.Environment{Name: "main"}) },
			Stored:  p.events,
			Kill:    p.stop,
			Restart: p.read,
			Pause:   func(t *testing.T) { resume = p.pause(t) },
			Resume:  func(t *testing.T) { resume(t) },
			Refuse:  func(e *events.Event) { *e = events.Event{} },
			Local:   true,
			Durable: true, // what is in a pipe outlives its reader
		}
	})
}

// one is an event.
func one(t *testing.T, name string) events.Event {
	t.Helper()
	e, err := events.New(
		events.Origin{Cluster: "test", Group: "shop.example.com", Version: "v1", Kind: "Order", Resource: "orders", Namespaced: true, Route: "orders"}, nil,
		events.Change{
			Type: events.Created, Namespace: "default", Name: name, UID: "u-" + name, ResourceVersion: 7, Observed: time.Unix(1, 0),
			Object: &object.Object{JSON: []byte(`{"spec":{"text":"two\nlines, \u00fc and \u2028"}}`)},
		})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// torn is an output that breaks in the middle of the first line.
type torn struct {
	text strings.Builder
	room int
}

var errFull = errors.New("no space left on device")

func (o *torn) Write(p []byte) (int, error) {
	if o.room > 0 && len(p) > o.room {
		n, _ := o.text.Write(p[:o.room])
		o.room = 0
		return n, errFull
	}
	return o.text.Write(p)
}

func TestTornLine(t *testing.T) {
	out := &torn{room: 100}
	s := open(out, sinks.Environment{Name: "main"})
	batch := []events.Event{one(t, "first"), one(t, "second")}
	durable, err := s.Publisher(sinks.Flow{}).Publish(t.Context(), batch)
	if want := "sink main: standard output: no space left on device"; durable != 0 || err == nil || err.Error() != want {
		t.Fatalf("Publish returned %d and %v, want %s", durable, err, want)
	}
	if status := s.Status(); status.Connected || status.LastError != "sink main: standard output: no space left on device" {
		t.Errorf("the status is %+v", status)
	}
	if durable, err := s.Publisher(sinks.Flow{}).Publish(t.Context(), batch); durable != 2 || err != nil {
		t.Fatalf("Publish returned %d and %v", durable, err)
	}
	if status := s.Status(); !status.Connected || status.LastError != "" {
		t.Errorf("the status is %+v", status)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.text.String(), "\n"), "\n")
	if len(lines) != 3 || len(lines[0]) != 100 {
		t.Fatalf("the lines are %q", lines)
	}
	for i, name := range []string{"first", "second"} {
		var e event.Event
		if err := event.ReadJson(&e, strings.NewReader(lines[1+i])); err != nil || !strings.HasSuffix(e.Subject(), "/"+name) {
			t.Errorf("line %q is %v, %v", lines[1+i], e, err)
		}
	}
}

// TestCloseWaitsForNobody: an output that nobody reads must not keep the
// bridge from its end.
func TestCloseWaitsForNobody(t *testing.T) {
	p := newPipe(t)
	resume := p.pause(t)
	defer resume(t)
	s := open(p.w, sinks.Environment{Name: "main"})
	published := make(chan error, 1)
	go func() {
		_, err := s.Publisher(sinks.Flow{}).Publish(t.Context(), []events.Event{one(t, "first")})
		published <- err
	}()
	for s.publishing.Inside() == 0 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close returned %v", err)
	}
	select {
	case err := <-published:
		if !errors.Is(err, sinks.ErrClosed) {
			t.Errorf("Publish returned %v", err)
		}
	case <-time.After(patience):
		t.Error("Publish waits on")
	}
	if _, err := s.Publisher(sinks.Flow{}).Publish(t.Context(), nil); !errors.Is(err, sinks.ErrClosed) {
		t.Errorf("Publish of a closed sink returned %v", err)
	}
}
