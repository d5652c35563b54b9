package nats

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

// publishOnce claims the flow and publishes one event as soon as there is a connection, and
// returns the words of the error.
func publishOnce(t *testing.T, s *Sink) string {
	t.Helper()
	eventually(t, "the sink is connected", func() (string, bool) { return s.Status().LastError, s.Status().Connected })
	p := s.Publisher(orders)
	_, err := p.(journal.Journal).Claim(t.Context(), &ledger{})
	if err == nil {
		_, err = p.Publish(t.Context(), batchOf(change(t, "one", 1)))
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestMissingStreamIsCreated(t *testing.T) {
	for _, test := range []struct {
		why    string
		change func(*JetStream)
		want   func(*jetstream.StreamConfig)
	}{
		{
			"defaults", func(*JetStream) {}, func(*jetstream.StreamConfig) {},
		},
		{
			"all options", func(o *JetStream) {
				o.Subjects = []string{"k8s.>", "crbridge.K8S.>"}
				o.Storage, o.MaxAge, o.MaxBytes, o.MaxMsgsPerSubject = Memory, time.Hour, 1<<20, 3
				o.DuplicateWindow = time.Minute
			},
			func(c *jetstream.StreamConfig) {
				c.Subjects = []string{"k8s.>", "crbridge.K8S.>"}
				c.Storage, c.MaxAge, c.MaxBytes, c.MaxMsgsPerSubject = jetstream.MemoryStorage, time.Hour, 1<<20, 3
				c.Duplicates = time.Minute
			},
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, "")
			o := options(t, server)
			test.change(o.JetStream)
			s := open(t, o)
			publish(t, s, change(t, "one", 1))
			stream, err := streamsOf(t, client(t, server.URL())).Stream(t.Context(), "K8S")
			if err != nil {
				t.Fatal(err)
			}
			want := jetstream.StreamConfig{
				Name:        "K8S",
				Description: "Changes of custom resources as CloudEvents, written by crbridge.",
				Subjects:    []string{"k8s.*.*.*.*.*", "crbridge.K8S.>"},
				Replicas:    1, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxConsumers: -1, MaxMsgSize: -1,
				Duplicates: 2 * time.Minute, AllowDirect: true, AllowAtomicPublish: true,
			}
			test.want(&want)
			got := stream.CachedInfo().Config
			got.Metadata = nil // the server's version and the like
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("stream (-want +got):\n%s", diff)
			}
			if notes := s.Status().Notes; len(notes) > 0 {
				t.Errorf("a stream that the sink made itself differs: %q", notes)
			}
		})
	}
}

func TestStreamThatDoesNotFit(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	fits := func() jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}}
	}
	for _, test := range []struct {
		why    string
		stream func(*jetstream.StreamConfig)
		seal   bool
		want   string
	}{
		{
			why:    "events would go nowhere",
			stream: func(c *jetstream.StreamConfig) { c.Subjects = []string{"other.>"} },
			want:   "subjects are [other.>], needed is k8s.*.*.*.*.*",
		},
		{
			why:    "events of some namespaces would go nowhere",
			stream: func(c *jetstream.StreamConfig) { c.Subjects = []string{"k8s.*.*.*.b.*", "k8s.*.*.*.a.*"} },
			want:   "subjects are [k8s.*.*.*.a.* k8s.*.*.*.b.*], needed is k8s.*.*.*.*.*",
		},
		{
			why:    "a work queue forgets what was read, and with it what was delivered",
			stream: func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
			want:   "retention is workqueue, needed is limits: events must stay when they were read",
		},
		{
			why:    "interest retention forgets even more",
			stream: func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy },
			want:   "retention is interest, needed is limits: events must stay when they were read",
		},
		{
			why:    "a sealed stream takes nothing for ever",
			stream: func(*jetstream.StreamConfig) {}, seal: true,
			want: "sealed is true, needed is false: a sealed stream takes nothing any more",
		},
		{
			why:    "no acknowledgement, no knowledge",
			stream: func(c *jetstream.StreamConfig) { c.NoAck = true },
			want:   "no_ack is true, needed is false: without an acknowledgement nothing is known to be durable",
		},
		{
			why: "an acknowledgement would come before the write",
			stream: func(c *jetstream.StreamConfig) {
				c.PersistMode = jetstream.AsyncPersistMode
			},
			want: "persist_mode is async, needed is default: an acknowledgement must mean that the event is written",
		},
		{
			why:    "counters only",
			stream: func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true },
			want:   "allow_msg_counter is true, needed is false: such a stream takes counters only",
		},
		{
			why: "an object's flow would stop after some events",
			stream: func(c *jetstream.StreamConfig) {
				c.Discard, c.DiscardNewPerSubject, c.MaxMsgsPerSubject = jetstream.DiscardNew, true, 5
			},
			want: "discard_new_per_subject is true, needed is false: an object with 5 events would take no more",
		},
		{
			why: "subscribers would look in the wrong place",
			stream: func(c *jetstream.StreamConfig) {
				c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "k8s.demo.>", Destination: "moved.>"}
			},
			want: "subject_transform is from k8s.demo.> to moved.>, needed is none that takes k8s.*.*.*.*.*: " +
				"events would be stored under other subjects",
		},
		{
			why: "all that is wrong is told at once",
			stream: func(c *jetstream.StreamConfig) {
				c.Subjects, c.NoAck = []string{"other.>"}, true
			},
			want: "subjects are [other.>], needed is k8s.*.*.*.*.*; " +
				"no_ack is true, needed is false: without an acknowledgement nothing is known to be durable",
		},
		{
			why: "a transform of other subjects concerns nobody",
			stream: func(c *jetstream.StreamConfig) {
				c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "k8s.short", Destination: "moved"}
			},
			want: "",
		},
		{
			why: "mere differences do not keep events out",
			stream: func(c *jetstream.StreamConfig) {
				c.Storage, c.MaxAge, c.MaxMsgs = jetstream.MemoryStorage, time.Hour, 10
			},
			want: "",
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			config := fits()
			test.stream(&config)
			created, err := js.CreateStream(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := js.DeleteStream(closingContext(t), "K8S"); err != nil {
					t.Error(err)
				}
			})
			if test.seal {
				config = created.CachedInfo().Config
				config.Sealed = true
				if _, err := js.UpdateStream(t.Context(), config); err != nil {
					t.Fatal(err)
				}
			}
			s := open(t, options(t, server))
			got, want := publishOnce(t, s), test.want
			if want != "" {
				want = "sink main: stream K8S does not fit: " + want
			}
			if got != want {
				t.Errorf("Publish says\n%q, want\n%q", got, want)
			}
			if status := s.Status().LastError; status != want {
				t.Errorf("Status says\n%q, want\n%q", status, want)
			}
			if after, err := js.Stream(t.Context(), "K8S"); err != nil {
				t.Error(err)
			} else if diff := cmp.Diff(created.CachedInfo().Config, after.CachedInfo().Config); diff != "" && !test.seal {
				t.Errorf("the sink changed the stream (-before +after):\n%s", diff)
			}
		})
	}
}

func TestMirrorDoesNotFit(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	for _, config := range []jetstream.StreamConfig{
		{Name: "ORIGIN", Subjects: []string{"k8s.>"}},
		{Name: "K8S", Mirror: &jetstream.StreamSource{Name: "ORIGIN"}},
	} {
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	want := "sink main: stream K8S does not fit: mirror is ORIGIN, and a mirror takes nothing but what its origin has: name the origin"
	if got := publishOnce(t, open(t, options(t, server))); got != want {
		t.Errorf("Publish says\n%q, want\n%q", got, want)
	}
}

func TestStreamThatCannotBeMade(t *testing.T) {
	for _, test := range []struct {
		why    string
		config string
		other  []string // subjects of a stream OTHER
		change func(*JetStream)
		want   string
	}{
		{
			why:    "not allowed to create",
			change: func(o *JetStream) { o.Create = false },
			want: "sink main: stream K8S: it does not exist, and jetstream.create is false: " +
				"create it, or set jetstream.create to true",
		},
		{
			why:    "two streams cannot share a subject",
			other:  []string{"k8s.demo.>"},
			change: func(*JetStream) {},
			want: "sink main: stream K8S: it does not exist and cannot be created: stream OTHER has subjects of k8s.*.*.*.*.*, " +
				"and no two streams can share a subject; use that stream, or another subject",
		},
		{
			why:    "more replicas than there are servers",
			change: func(o *JetStream) { o.Replicas = 3 },
			want: "sink main: stream K8S: it does not exist and cannot be created: " +
				"the server says: replicas > 1 not supported in non-clustered mode (10074)",
		},
		{
			why:    "a server without JetStream",
			config: "jetstream: disabled",
			change: func(*JetStream) {},
			want:   "sink main: stream K8S: no JetStream answers: is it enabled for this account?",
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			server := natstest.Start(t, test.config)
			if test.other != nil {
				js := streamsOf(t, client(t, server.URL()))
				if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: test.other}); err != nil {
					t.Fatal(err)
				}
			}
			o := options(t, server)
			test.change(o.JetStream)
			if got := publishOnce(t, open(t, o)); got != test.want {
				t.Errorf("Publish says\n%q, want\n%q", got, test.want)
			}
		})
	}
}

func TestStreamThatDiffersIsNotedOnce(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"k8s.>"}, MaxAge: time.Hour, Duplicates: time.Minute,
		MaxBytes: 1 << 20, MaxMsgs: 1000, MaxMsgsPerSubject: 2, MaxMsgSize: 1 << 16, Discard: jetstream.DiscardNew,
	}); err != nil {
		t.Fatal(err)
	}
	var log settingstest.LogBook
	o := options(t, server)
	o.Logger = log.Logger(slog.LevelInfo)
	o.JetStream.Replicas, o.JetStream.Storage = 3, Memory
	s := open(t, o)
	publish(t, s, change(t, "one", 1))
	want := []string{
		"storage of stream K8S is file, and the configuration has memory; an existing stream is not changed",
		"num_replicas of stream K8S is 1, and the configuration has 3; an existing stream is not changed",
		"max_age of stream K8S is 1h0m0s, and the configuration has 0s; an existing stream is not changed",
		"max_bytes of stream K8S is 1048576, and the configuration has unlimited; an existing stream is not changed",
		"max_msgs_per_subject of stream K8S is 2, and the configuration has unlimited; an existing stream is not changed",
		"duplicate_window of stream K8S is 1m0s, and the configuration has 2m0s; an existing stream is not changed",
		"max_msgs of stream K8S is 1000: older events go when it is full",
		"max_msg_size of stream K8S is 65536 bytes: a larger event comes with its metadata alone",
		"discard of stream K8S is new: when it is full, flows stop until there is room",
		"subjects of stream K8S are [k8s.>], without crbridge.K8S.>: flows have no fence against a second bridge",
	}
	if diff := cmp.Diff(want, s.Status().Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	server.Stop(t)
	server.Start(t) // the sink looks at the stream again
	publish(t, s, change(t, "one", 2))
	for _, note := range want {
		if n := strings.Count(log.String(), note); n != 1 {
			t.Errorf("logged %d times: %s", n, note)
		}
	}
	large := change(t, "large", 1)
	large.Data = []byte(`"` + strings.Repeat("x", 1<<16) + `"`)
	_, err := publisher(t, s).Publish(t.Context(), batchOf(large))
	if limit := new(sinks.TooLargeError); !errors.As(err, &limit) || limit.Limit != 65536 || limit.Source != "the stream's max_msg_size" {
		t.Errorf("an event above max_msg_size: %v", err)
	}
}

func TestStreamIsMadeAgain(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	s := open(t, options(t, server))
	publish(t, s, change(t, "one", 1))
	if err := js.DeleteStream(t.Context(), "K8S"); err != nil {
		t.Fatal(err)
	}
	publish(t, s, change(t, "one", 2))
	if got := len(storedMessages(t, js, "K8S")); got != 1 {
		t.Errorf("%d messages are in the new stream, want 1", got)
	}
	if last := s.Status().LastError; last != "" {
		t.Errorf("the stream is back, and the status says %q", last)
	}
}

// A stream of another name may take over the subjects while the bridge runs:
// its acknowledgements say nothing of ours.
func TestAnotherStreamsAckDoesNotCount(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	s := open(t, options(t, server))
	publish(t, s, change(t, "one", 1))
	if err := js.DeleteStream(t.Context(), "K8S"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"k8s.>"}}); err != nil {
		t.Fatal(err)
	}
	e := change(t, "one", 2)
	durable, err := publisher(t, s).Publish(t.Context(), batchOf(e))
	want := "sink main: stream K8S does not take event " + id("one", 2) + ": expected stream does not match (10060)"
	if durable != 0 || err == nil || err.Error() != want {
		t.Errorf("Publish returned %d and %v, want %s", durable, err, want)
	}
	_, err = publisher(t, s).Publish(t.Context(), batchOf(e))
	if err == nil || !strings.Contains(err.Error(), "stream OTHER has subjects of k8s.*.*.*.*.*") {
		t.Errorf("the second time Publish returned %v, which does not name the other stream", err)
	}
}

func TestBridgesThatCreateAtOnce(t *testing.T) {
	const bridges = 8
	server := natstest.Start(t, "")
	var all sync.WaitGroup
	for n := range bridges {
		o := options(t, server)
		o.JetStream.MaxAge = time.Duration(n/2+1) * time.Hour // some agree with each other, some do not
		s := open(t, o)
		own := sinks.Flow{Route: fmt.Sprint("route", n), CRD: orders.CRD}
		all.Go(func() {
			p := s.Publisher(own)
			claim(t, p, nil)
			deliver(t, p, changeOf(t, own, events.Updated, "object", 1))
		})
	}
	all.Wait()
	if got := len(storedMessages(t, streamsOf(t, client(t, server.URL())), "K8S")); got != bridges {
		t.Errorf("%d messages are stored, want %d", got, bridges)
	}
}

func TestFullStreamIsToldAndRecovers(t *testing.T) {
	server := natstest.Start(t, "")
	js := streamsOf(t, client(t, server.URL()))
	config := jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}, MaxMsgs: 4, Discard: jetstream.DiscardNew}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	s := open(t, options(t, server))
	publish(t, s, change(t, "a", 1), change(t, "b", 1))
	batch := batchOf(change(t, "a", 2), change(t, "b", 2), change(t, "c", 2))
	durable, err := publisher(t, s).Publish(t.Context(), batch)
	const full = ": maximum messages exceeded (10077): the stream is full and discards new messages; make room, raise that limit, or have it discard old ones"
	want := "sink main: stream K8S does not take event " + id("b", 2) + full
	if durable != 1 || err == nil || err.Error() != want {
		t.Errorf("Publish returned %d and %v, want 1 and %s", durable, err, want)
	}
	if got, want := s.Status().LastError, "sink main: stream K8S does not take events"+full; got != want {
		t.Errorf("LastError is %q, want %q", got, want)
	}
	config.MaxMsgs = 10
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	publish(t, s, batch...)
	if last := s.Status().LastError; last != "" {
		t.Errorf("there is room, and the status says %q", last)
	}
	var stored []string
	for _, m := range storedMessages(t, js, "K8S") {
		stored = append(stored, m.Header.Get(jetstream.MsgIDHeader))
	}
	slices.Sort(stored)
	if diff := cmp.Diff(slices.Sorted(slices.Values([]string{id("a", 1), id("a", 2), id("b", 1), id("b", 2), id("c", 2)})), stored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
}

// TestStatusTellsTheStream: how full it is, what it may hold and what it does
// then, in the words of sinks.Stream, and when that was seen.
func TestStatusTellsTheStream(t *testing.T) {
	server := natstest.Start(t, "")
	s := open(t, options(t, server))
	eventually(t, "the sink is connected", func() (string, bool) { return s.Status().LastError, s.Status().Connected })
	if got := s.Status().Stream; got != nil {
		t.Errorf("nobody has looked yet, and the stream is %+v", got)
	}
	_, err := streamsOf(t, client(t, server.URL())).CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}, MaxBytes: 1 << 20, MaxMsgs: -1, MaxAge: 2 * time.Second,
		Duplicates: time.Second, Discard: jetstream.DiscardNew,
	})
	if err != nil {
		t.Fatal(err)
	}
	if words := publishOnce(t, s); words != "" {
		t.Fatal(words)
	}
	want := sinks.Stream{Name: "K8S", Storage: "file", Replicas: 1, MaxBytes: 1 << 20, MaxAge: 2 * time.Second, DiscardsNew: true}
	eventually(t, "the stream is looked at again", func() (string, bool) {
		got := *s.Status().Stream
		full := got.Messages > 0 && got.Bytes > 0 && !got.Oldest.IsZero() && got.Fresh()
		got.Messages, got.Bytes, got.Oldest, got.Looked = 0, 0, time.Time{}, time.Time{}
		return fmt.Sprintf("%+v", got), full && got == want
	})
	old := *s.Status().Stream
	if old.Looked = old.Looked.Add(-2 * lookEvery); old.Fresh() {
		t.Error("how the stream was two looks ago counts for how it is")
	}
}

func TestStructuredModeInStream(t *testing.T) {
	server := natstest.Start(t, "")
	o := options(t, server)
	o.Mode = sinks.Structured
	publish(t, open(t, o), change(t, "one", 1))
	m := storedMessages(t, streamsOf(t, client(t, server.URL())), "K8S")[0]
	if got := m.Subject; got != "k8s.demo.shop_example_com.orders.default.one" {
		t.Errorf("subject is %s", got)
	}
	if got := m.Header.Get(jetstream.MsgIDHeader); got != id("one", 1) {
		t.Errorf("Nats-Msg-Id is %q", got)
	}
	if !json.Valid(m.Data) || m.Header.Get("Content-Type") != "application/cloudevents+json" {
		t.Errorf("not a structured event: %q %s", m.Header, m.Data)
	}
}
