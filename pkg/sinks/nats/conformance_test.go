package nats

import (
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
	"github.com/crbridge/crbridge/pkg/sinks/sinktest"
)

func TestConformanceOfJetStream(t *testing.T) {
	start := func(t *testing.T) sinktest.Harness {
		server := natstest.Start(t, "")
		h := harness(t, server, func() Options { return options(t, server) })
		h.OpenForgetful = harness(t, server, func() Options {
			o := options(t, server)
			o.JetStream.DuplicateWindow = 100 * time.Millisecond // the least that nats-server takes
			return o
		}).Open
		h.OncePerID, h.Durable = true, true
		h.Stored = func(t *testing.T) (stored []event.Event) {
			nc := client(t, server.URL())
			defer nc.Close()
			for _, m := range storedMessages(t, streamsOf(t, nc), "K8S") {
				stored = append(stored, decodeBinary(t, m))
			}
			return stored
		}
		return h
	}
	sinktest.Run(t, start)
	sinktest.RunJournal(t, start)
}

func TestConformanceOfCoreNATS(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Harness {
		server := natstest.Start(t, "")
		h := harness(t, server, func() Options {
			o := options(t, server)
			o.JetStream = nil
			return o
		})
		nc := client(t, server.URL())
		messages, err := nc.SubscribeSync("k8s.>")
		if err != nil {
			t.Fatal(err)
		}
		if err := messages.SetPendingLimits(-1, -1); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil { // the server has the subscription
			t.Fatal(err)
		}
		h.Restart = func(t *testing.T) {
			server.Start(t)
			eventually(t, "the subscriber is back", func() (string, bool) { return nc.Status().String(), nc.Flush() == nil })
		}
		var stored []event.Event
		h.Stored = func(t *testing.T) []event.Event {
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			for pending, _, _ := messages.Pending(); pending > 0; pending-- {
				m, err := messages.NextMsg(patience)
				if err != nil {
					t.Fatal(err)
				}
				stored = append(stored, decodeBinary(t, m))
			}
			return stored
		}
		return h
	})
}

func harness(_ *testing.T, server *natstest.Server, o func() Options) sinktest.Harness {
	return sinktest.Harness{
		Leaks: []goleak.Option{natstest.NotOurs()},
		Open: func(t *testing.T) sinks.Sink {
			o := o()
			o.Cluster = sinktest.Cluster
			return mustOpen(t, o)
		},
		Kill:    func(t *testing.T) { server.Kill(t) },
		Restart: func(t *testing.T) { server.Start(t) },
		Pause:   func(t *testing.T) { server.Pause(t) },
		Resume:  func(t *testing.T) { server.Resume(t) },
		Refuse:  func(e *events.Event) { enlarge(e) },
	}
}

// mustOpen leaves it to the caller to close the sink.
func mustOpen(t *testing.T, o Options) *Sink {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
