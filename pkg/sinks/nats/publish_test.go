package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestWindow(t *testing.T) {
	p := &streamPublisher{
		sink:  &Sink{subject: subject(t, template), mode: sinks.Binary, jetstream: &JetStream{Stream: "K8S"}},
		fence: 7, subject: "control",
	}
	distinct := func(n int) (batch []events.Event) {
		for i := range n {
			batch = append(batch, change(t, fmt.Sprint("object", i), 1))
		}
		return batch
	}
	sized := func(e events.Event, size int) events.Event {
		e.Data = []byte(strings.Repeat("x", size))
		return e
	}
	const maximum = 2 << 20
	pipelined, atomic := facts{fenced: true, replicas: 1}, facts{fenced: true, replicas: 3, atomic: true}
	for _, test := range []struct {
		why    string
		facts  facts
		batch  []events.Event
		stored []int // of the batch
		want   []int // of the batch
		covers int
		atomic bool
	}{
		{"one event", pipelined, distinct(1), nil, []int{0}, 1, false},
		{"distinct objects go together", pipelined, distinct(3), nil, []int{0, 1, 2}, 3, false},
		{"no two of one object", pipelined, batchOf(change(t, "a", 1), change(t, "b", 1), change(t, "a", 2), change(t, "c", 1)), nil, []int{0, 1}, 2, false},
		{"as a whole, in any number of one object", atomic, batchOf(change(t, "a", 1), change(t, "a", 2)), nil, []int{0, 1}, 2, true},
		{"one event is a whole already", atomic, distinct(1), nil, []int{0}, 1, false},
		{"what is stored is left out", atomic, distinct(4), []int{0, 2}, []int{1, 3}, 4, true},
		{"all but one is stored", atomic, distinct(3), []int{0, 2}, []int{1}, 3, false},
		{"all is stored", pipelined, distinct(3), []int{0, 1, 2}, nil, 3, false},
		{"an object's stored event makes no room needed", pipelined, batchOf(change(t, "a", 1), change(t, "a", 2)), []int{0}, []int{1}, 2, false},
		{
			"a small batch of an unreplicated stream is faster in pieces", facts{fenced: true, replicas: 1, atomic: true},
			distinct(atomicFrom - 1), nil, upTo(atomicFrom - 1), atomicFrom - 1, false,
		},
		{
			"a large one is not", facts{fenced: true, replicas: 1, atomic: true},
			distinct(atomicFrom), nil, upTo(atomicFrom), atomicFrom, true,
		},
		{"one by one, as replicas refuse two checks at a time", facts{fenced: true, replicas: 3}, distinct(3), nil, []int{0}, 1, false},
		{"without a fence there is nothing to check", facts{replicas: 3}, distinct(3), nil, []int{0, 1, 2}, 3, false},
		{"bounded in number", pipelined, distinct(windowEvents + 1), nil, upTo(windowEvents), windowEvents, false},
		{
			"bounded in bytes", pipelined,
			batchOf(sized(change(t, "a", 1), windowBytes/2), sized(change(t, "b", 1), windowBytes/2), change(t, "c", 1)), nil, []int{0}, 1, false,
		},
		{"an event above the bound goes alone", pipelined, batchOf(sized(change(t, "a", 1), windowBytes+1), change(t, "b", 1)), nil, []int{0}, 1, false},
		{"ends before an event that cannot go", atomic, batchOf(change(t, "a", 1), sized(change(t, "b", 1), maximum)), nil, []int{0}, 1, false},
	} {
		p.stored = map[string]struct{}{}
		for _, i := range test.stored {
			p.stored[test.batch[i].ID()] = struct{}{}
		}
		w, err := p.window(test.batch, test.facts, limit{maximum, "the test"})
		if err != nil {
			t.Errorf("%s: %v", test.why, err)
			continue
		}
		if w.covers != test.covers || w.atomic != test.atomic {
			t.Errorf("%s: covers %d, atomic is %t; want %d and %t", test.why, w.covers, w.atomic, test.covers, test.atomic)
		}
		var want []string
		for _, i := range test.want {
			want = append(want, test.batch[i].ID())
		}
		if diff := cmp.Diff(want, w.ids); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.why, diff)
		}
		for i, m := range w.messages {
			if got := m.Header.Get(jetstream.MsgIDHeader); got != want[i] {
				t.Errorf("%s: message %d has Nats-Msg-Id %q, want %q", test.why, i, got, want[i])
			}
			fence := test.facts.fenced && (i == 0 || !w.atomic)
			if got := m.Header.Get(jetstream.ExpectedLastSubjSeqHeader); (got == "7") != fence {
				t.Errorf("%s: message %d expects %q as the last sequence of the control subject", test.why, i, got)
			}
		}
	}
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
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
			p := publisher(t, s)
			durable, err := p.Publish(t.Context(), batchOf(change(t, "before", 2), large, change(t, "after", 1)))
			var limit *sinks.TooLargeError
			if !errors.As(err, &limit) || durable != 1 {
				t.Fatalf("Publish returned %d and %v", durable, err)
			}
			want := fmt.Sprintf("sink %s: event %s of default/large is too large: it has %d bytes, and the server's max_payload allows 1048576",
				o.Name, id("large", 1), limit.Size)
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if limit.Size <= int64(len(large.Data)) {
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
	p := publisher(t, s)
	var limit *sinks.TooLargeError
	e = change(t, "one", 2)
	enlarge(&e)
	if _, err := p.Publish(t.Context(), batchOf(e)); !errors.As(err, &limit) {
		t.Fatal(err)
	}
	e.Data = e.Data[limit.Size-limit.Limit:]
	publish(t, s, e)
}

func TestDuplicateCountsAsDurable(t *testing.T) {
	server := natstest.Start(t, "")
	s := open(t, options(t, server))
	a, b := change(t, "a", 1), change(t, "b", 1)
	publish(t, s, a, b)
	durable, err := publisher(t, s).Publish(t.Context(), batchOf(a, b, change(t, "c", 1)))
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
	var log settingstest.LogBook
	o.Logger = log.Logger(slog.LevelInfo)
	s := open(t, o)
	publish(t, s, change(t, "a", 1))
	p := publisher(t, s)
	batch := batchOf(change(t, "a", 2), change(t, "secret", 1), change(t, "b", 2))
	said := "the server does not permit the bridge to publish to k8s.demo.shop_example_com.orders.default.secret (it says: Permissions Violation)"
	for range 3 {
		durable, err := p.Publish(t.Context(), batch)
		if want := "sink main: event " + id("secret", 1) + ": " + said; durable != 1 || err == nil || err.Error() != want {
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
	var log settingstest.LogBook
	o := options(t, natstest.Start(t, ""))
	o.JetStream, o.Logger = nil, log.Logger(slog.LevelInfo)
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
		if durable, err := publisher(t, s).Publish(t.Context(), batchOf(change(t, "two", 1))); durable != 0 || err == nil {
			t.Errorf("Publish returned %d and %v", durable, err)
		}
	})
	eventually(t, "a batch is on its way", func() (string, bool) {
		return "", s.publishing.Inside() == 1
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
			p := publisher(b, s)
			n := 0
			for b.Loop() {
				n++
				b.StopTimer()
				for i := range batch {
					batch[i] = change(b, fmt.Sprint("object", size, "-", i), n)
					batch[i].Data = data
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
