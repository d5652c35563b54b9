package http

import (
	nethttp "net/http"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/sinktest"
)

func TestConformance(t *testing.T) {
	const refused = `"refuse me"`
	for _, mode := range []sinks.Mode{sinks.Binary, sinks.Structured} {
		t.Run(string(mode), func(t *testing.T) {
			sinktest.Run(t, func(t *testing.T) sinktest.Harness {
				r := newReceiver(t)
				r.answer = func(w nethttp.ResponseWriter, _ *nethttp.Request, e *event.Event) bool {
					if string(e.Data()) == refused {
						nethttp.Error(w, "not that", nethttp.StatusBadRequest)
						return false
					}
					return true
				}
				r.start(t)
				return sinktest.Harness{
					Open: func(t *testing.T) sinks.Sink {
						s := settingsFor(r)
						s.Mode = mode
						sink, err := Open(s, sinks.Environment{Name: "main", Cluster: sinktest.Cluster})
						if err != nil {
							t.Fatal(err)
						}
						return sink
					},
					Stored:  func(*testing.T) []event.Event { return r.all() },
					Kill:    func(*testing.T) { r.kill() },
					Restart: r.start,
					Pause:   func(*testing.T) { r.pause() },
					Resume:  func(*testing.T) { r.resume() },
					Refuse:  func(e *events.Event) { e.Data = []byte(refused) },
					Durable: true, // what it has taken outlives its end
				}
			})
		})
	}
}
