package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestWindow(t *testing.T) {
	s := &Sink{subject: subject(t, template), mode: Binary, jetstream: &JetStreamOptions{Stream: "K8S"}}
	distinct := func(n int) (batch []events.Event) {
		for i := range n {
			batch = append(batch, change(t, fmt.Sprint("object", i), 1))
		}
		return batch
	}
	sized := func(e events.Event, size int) events.Event {
		e.DataEncoded = []byte(strings.Repeat("x", size))
		return e
	}
	const maximum = 2 << 20
	for _, test := range []struct {
		why   string
		batch []events.Event
		want  int
	}{
		{"one event", distinct(1), 1},
		{"distinct objects go together", distinct(10), 10},
		{"no two of one object", batchOf(change(t, "a", 1), change(t, "b", 1), change(t, "a", 2), change(t, "c", 1)), 2},
		{"bounded in number", distinct(windowEvents + 1), windowEvents},
		{
			"bounded in bytes",
			batchOf(sized(change(t, "a", 1), windowBytes/2), sized(change(t, "b", 1), windowBytes/2), change(t, "c", 1)), 1,
		},
		{"an event above the bound goes alone", batchOf(sized(change(t, "a", 1), windowBytes+1), change(t, "b", 1)), 1},
		{"ends before an event that cannot go", batchOf(change(t, "a", 1), sized(change(t, "b", 1), maximum)), 1},
	} {
		w, err := s.window(test.batch, limit{maximum, "the test"})
		if err != nil {
			t.Errorf("%s: %v", test.why, err)
			continue
		}
		if len(w.messages) != test.want {
			t.Errorf("%s: %d messages, want %d", test.why, len(w.messages), test.want)
		}
		for i, m := range w.messages {
			if got, want := m.Header.Get(jetstream.MsgIDHeader), test.batch[i].ID(); got != want {
				t.Errorf("%s: message %d has Nats-Msg-Id %q, want %q", test.why, i, got, want)
			}
		}
	}
}

func TestTooLarge(t *testing.T) {
	server := natstest.Start(t, "")
	for _, o := range []Options{options(t, server), func() Options {
		core := options(t, server)
		core.Name, core.JetStream = "core", nil
		return core
	}()} {
		t.Run(o.Name, func(t *testing.T) {
			s := open(t, o)
			publish(t, s, change(t, "before", 1))
			large := change(t, "large", 1)
			enlarge(&large)
			p := s.Publisher(sinks.Flow{})
			durable, err := p.Publish(t.Context(), batchOf(change(t, "before", 2), large, change(t, "after", 1)))
			var limit *sinks.TooLargeError
			if !errors.As(err, &limit) || durable != 1 {
				t.Fatalf("Publish returned %d and %v", durable, err)
			}
			want := fmt.Sprintf("sink %s: event uid-large.1.orders of default/large is too large: it has %d bytes, and the server's max_payload allows 1048576",
				o.Name, limit.Size)
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if limit.Size <= int64(len(large.DataEncoded)) {
				t.Errorf("the size %d leaves out the headers", limit.Size)
			}
			if last := s.Status().LastError; last != "" {
				t.Errorf("one event is too large, and the whole sink says %q", last)
			}
		})
	}
}

// What nats-server counts as a message's size is what the sink counts.
func TestLargestEventIsTaken(t *testing.T) {
	server := natstest.Start(t, "")
	s := open(t, options(t, server))
	e := change(t, "one", 1)
	publish(t, s, e)
	p := s.Publisher(sinks.Flow{})
	var limit *sinks.TooLargeError
	e = change(t, "one", 2)
	enlarge(&e)
	if _, err := p.Publish(t.Context(), batchOf(e)); !errors.As(err, &limit) {
		t.Fatal(err)
	}
	e.DataEncoded = e.DataEncoded[limit.Size-limit.Limit:]
	publish(t, s, e)
}

func TestDuplicateCountsAsDurable(t *testing.T) {
	server := natstest.Start(t, "")
	s := open(t, options(t, server))
	a, b := change(t, "a", 1), change(t, "b", 1)
	publish(t, s, a, b)
	durable, err := s.Publisher(sinks.Flow{}).Publish(t.Context(), batchOf(a, b, change(t, "c", 1)))
	if durable != 3 || err != nil {
		t.Errorf("Publish returned %d and %v", durable, err)
	}
	if got := len(storedMessages(t, streamsOf(t, client(t, server.URL())), "K8S")); got != 3 {
		t.Errorf("%d messages are stored, want 3", got)
	}
}

const permissions = `
authorization {users: [
  {user: admin, password: admin}
  {user: bridge, password: bridge, permissions: {publish: {deny: [%s]}, subscribe: {deny: [%s]}}}
]}`

// asBridge has the sink log in as the user bridge.
func asBridge(t *testing.T, o *Options) {
	o.Auth = Auth{UserFile: file(t, "bridge\n"), PasswordFile: file(t, "bridge\n")}
}

func TestDeniedSubjectIsToldAndOthersGoOn(t *testing.T) {
	server := natstest.Start(t, fmt.Sprintf(permissions, `"k8s.*.*.*.*.secret"`, ""))
	o := options(t, server)
	asBridge(t, &o)
	var log journal
	o.Logger = log.logger()
	s := open(t, o)
	publish(t, s, change(t, "a", 1))
	p := s.Publisher(sinks.Flow{})
	batch := batchOf(change(t, "a", 2), change(t, "secret", 1), change(t, "b", 2))
	said := "the server does not permit the bridge to publish to k8s.demo.shop_example_com.orders.default.secret (it says: Permissions Violation)"
	for range 3 {
		durable, err := p.Publish(t.Context(), batch)
		if want := "sink main: event uid-secret.1.orders: " + said; durable != 1 || err == nil || err.Error() != want {
			t.Fatalf("Publish returned %d and\n%v, want 1 and\n%s", durable, err, want)
		}
	}
	untilStatus(t, s, "sink main: "+said)
	publish(t, s, change(t, "c", 1)) // another flow
	if n := strings.Count(log.String(), "not permit"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	server.Reload(t, fmt.Sprintf(permissions, `"nothing"`, ""))
	publish(t, s, batch...)
	if last := s.Status().LastError; last != "" {
		t.Errorf("it is permitted now, and the status says %q", last)
	}
}

func TestDeniedAPIIsTold(t *testing.T) {
	server := natstest.Start(t, fmt.Sprintf(permissions, `"$JS.API.STREAM.CREATE.>"`, ""))
	o := options(t, server)
	asBridge(t, &o)
	s := open(t, o)
	want := "sink main: stream K8S: the server does not permit the bridge to publish to $JS.API.STREAM.CREATE.K8S (it says: Permissions Violation)"
	if got := publishOnce(t, s); got != want {
		t.Errorf("Publish says\n%q, want\n%q", got, want)
	}
	server.Reload(t, fmt.Sprintf(permissions, `"nothing"`, ""))
	publish(t, s, change(t, "one", 1))
	if last := s.Status().LastError; last != "" {
		t.Errorf("it is permitted now, and the status says %q", last)
	}
}

func TestDeniedInboxIsTold(t *testing.T) {
	server := natstest.Start(t, fmt.Sprintf(permissions, "", `"_INBOX.>"`))
	o := options(t, server)
	asBridge(t, &o)
	s := open(t, o)
	want := "the server does not permit the bridge to subscribe to _INBOX.> (it says: Permissions Violation)"
	if got := publishOnce(t, s); !strings.Contains(got, want) {
		t.Errorf("Publish says\n%q, without\n%q", got, want)
	}
	untilStatus(t, s, want)
}

func TestCoreNATSSaysThatItIsAtMostOnce(t *testing.T) {
	var log journal
	o := options(t, natstest.Start(t, ""))
	o.JetStream, o.Logger = nil, log.logger()
	s := open(t, o)
	publish(t, s, change(t, "one", 1))
	if n := strings.Count(log.String(), "at most once"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}

func TestCloseFreesThoseWhoWait(t *testing.T) {
	server := natstest.Start(t, "")
	s := mustOpen(t, options(t, server))
	publish(t, s, change(t, "one", 1))
	server.Pause(t)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if durable, err := s.Publisher(sinks.Flow{}).Publish(t.Context(), batchOf(change(t, "two", 1))); durable != 0 || err == nil {
			t.Errorf("Publish returned %d and %v", durable, err)
		}
	})
	eventually(t, "a batch is on its way", func() (string, bool) {
		s.publishing.mu.Lock()
		defer s.publishing.mu.Unlock()
		return "", s.publishing.inside == 1
	})
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close while a batch is on its way, with little time, returned %v", err)
	}
	waiting.Wait() // long before the server's time to answer is over
	if err := s.Close(closingContext(t)); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func BenchmarkPublish(b *testing.B) {
	server := natstest.Start(b, "")
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("batches of %d", size), func(b *testing.B) {
			s := open(b, options(b, server))
			batch := make([]events.Event, size)
			data := []byte(`{"spec":"` + strings.Repeat("x", 500) + `"}`)
			publish(b, s, change(b, "warm", 1))
			p := s.Publisher(sinks.Flow{})
			n := 0
			for b.Loop() {
				n++
				b.StopTimer()
				for i := range batch {
					batch[i] = change(b, fmt.Sprint("object", size, "-", i), n)
					batch[i].DataEncoded = data
				}
				b.StartTimer()
				if _, err := p.Publish(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
