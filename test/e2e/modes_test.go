//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

// TestStructuredOverCoreNATS shows the other content mode and the other way of
// NATS: what a subscriber of core NATS gets is an event that the CloudEvents
// SDK reads.
func TestStructuredOverCoreNATS(t *testing.T) {
	w := newWorld(t)
	w.kind.create(t)
	subscription, err := w.stream.conn.SubscribeSync("things.>")
	if err != nil {
		t.Fatal(err)
	}
	b := startBridge(t, config{
		kubeconfig: w.cp.AdminKubeconfig(),
		body: "routes:\n" + w.kind.route("test") +
			fmt.Sprintf("sinks:\n  main: {nats: {url: %q, mode: structured, subject: \"things.{event}.{name}\"}}\n", w.nats.URL()),
	})
	b.waitState(t, w.kind.name, "test", "running")
	one := w.kind.add(t, "one", map[string]any{"size": int64(1)})

	var m *nats.Msg
	if m, err = subscription.NextMsg(patience); err != nil {
		t.Fatal(err)
	}
	if m.Subject != "things.created.one" {
		t.Errorf("subject %q", m.Subject)
	}
	if diff := cmp.Diff(nats.Header{"Content-Type": {"application/cloudevents+json"}}, m.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	var e event.Event
	if err := json.Unmarshal(m.Data, &e); err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Error(err)
	}
	if want := string(one.GetUID()) + "." + one.GetResourceVersion() + ".test"; e.ID() != want || e.Extensions()["sequence"] != fmt.Sprintf("%020s", one.GetResourceVersion()) {
		t.Errorf("id %q, sequence %v, want id %q", e.ID(), e.Extensions()["sequence"], want)
	}
	var object map[string]any
	if err := e.DataAs(&object); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"size": float64(1)}, object["spec"]); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}
