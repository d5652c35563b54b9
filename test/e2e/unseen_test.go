//go:build unix

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/monitoring"
)

// The scenarios of TestAlerts in which Prometheus does not see it happen: it was
// before the first scrape, or bridges were away or took turns.

// beforeTheFirstScrape starts bridges where there is an object that is too large,
// for which a route's expression fails, and to whose events nobody listens. All
// that is over when they are first scraped.
func beforeTheFirstScrape(t *testing.T, observe observe) {
	w := newWorld(t)
	k := w.kind
	k.create(t)
	k.add(t, "large", map[string]any{"blob": strings.Repeat("x", 9000)})
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: "max_payload: 8192"})
	w.stream = subscribe(t, server)
	r := startReplicas(t, k, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + k.route("test") +
		k.route("fails", `when: "object.spec.nothing == 1"`, "payload: {content: metadata}") +
		fmt.Sprintf("  - {name: core, crds: [%s], sinks: [core], payload: {content: metadata}}\n", k.name) +
		fmt.Sprintf("sinks:\n  main: {nats: {url: %[1]q, jetstream: {stream: K8S}}}\n  core: {nats: {url: %[1]q, subject: 'core.{group}.{namespace}.{name}'}}\n", server.URL())})
	r.leader.happened(t, "bridge_when_errors_total", "bridge_events_oversize_total", "bridge_events_unheard_total")
	r.leader.settled(t)

	o := observe(t, r.leader, r.standby)
	o.fire(t, "CRBridgeEventsCut", "CRBridgeEventsUnheard", "CRBridgeExpressionFails")
	// Another bridge has seen nothing of it, and it is no less true.
	if err := r.leader.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.lead(t)
	r.leader.settled(t)
	o.hold(t, 30*time.Minute, "CRBridgeEventsCut", "CRBridgeEventsUnheard", "CRBridgeExpressionFails")
	if err := r.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.connected(t)
	o.fire(t)
	o.calm(t)
}

// bridgesAndLedger stops both bridges beside those of another installation, and
// purges the stream before they start again. It is told once: not by the next
// leader, not after a time without scrapes, and not after a restart.
func bridgesAndLedger(t *testing.T, observe observe) {
	w := newWorld(t)
	w.kind.create(t)
	r := w.replicas(t)
	r.leader.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.stream.wait(t, w.kind.name, 1)
	r.leader.settled(t)
	other := w.bridge(t, newKind(t, w.cp.Admin()).route("other"))
	other.waitConnected(t)
	o := observe(t, r.leader, r.standby)
	o.Watch(monitoring.Pod("elsewhere", "crbridge-other", other.server+"/metrics"))
	o.calm(t)

	for _, b := range []*bridge{r.standby, r.leader} {
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	o.fire(t, "CRBridgeAbsent")
	if !o.fires("CRBridgeAbsent", "namespace", "crbridge-system") || o.fires("CRBridgeAbsent", "namespace", "elsewhere") {
		t.Errorf("of two installations another is absent: %+v", o.Alerts())
	}
	never := observe(t, r.leader, r.standby) // has not scraped any
	never.fire(t, "CRBridgeAbsent")
	w.purge(t)
	w.kind.set(t, "one", "size", 1)
	if err := r.leader.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expectMarked(t, "updated default/one coalesced")
	r.leader.settled(t)
	if err := r.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.standby.waitRole(t, "standby")
	r.connected(t)
	o.fire(t, "CRBridgeLedgerLost")
	never.fire(t, "CRBridgeLedgerLost")

	if err := r.leader.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.lead(t)
	r.leader.settled(t)
	o.hold(t, 30*time.Minute, "CRBridgeLedgerLost")
	o.fire(t)
	if err := r.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.connected(t)
	o.calm(t)
}

// unscraped has bridges that lost a ledger not be reached for some minutes, and
// restarts them.
func unscraped(t *testing.T, observe observe) {
	w := newWorld(t)
	w.kind.create(t)
	r := w.replicas(t)
	r.leader.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.stream.wait(t, w.kind.name, 1)
	for _, b := range []*bridge{r.standby, r.leader} {
		if err := b.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.purge(t)
	for _, b := range []*bridge{r.leader, r.standby} {
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b == r.leader {
			b.waitRole(t, "leader")
			b.settled(t)
		}
	}
	r.connected(t)
	o := observe(t, r.leader, r.standby)
	o.fire(t, "CRBridgeLedgerLost")
	o.fire(t)
	o.calm(t)
	o.away(true)
	if err := o.Pass(t.Context(), 3*time.Minute); err != nil { // CRBridgeAbsent takes 5
		t.Fatal(err)
	}
	o.away(false)
	o.calm(t)
	o.calm(t)
	if err := r.leader.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.lead(t)
	r.leader.settled(t)
	if err := r.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.connected(t)
	o.calm(t)
}

// flappingCRDs deletes and creates CRDs over and over, one that a route names
// and one that a wildcard brings. Neither flow has a series meanwhile.
func flappingCRDs(t *testing.T, observe observe) {
	const often = 8
	w := newWorld(t)
	named, matched := w.kind, newKind(t, w.cp.Admin())
	named.create(t)
	matched.create(t)
	r := w.replicas(t, named.route("named"), fmt.Sprintf("  - {name: matched, crds: ['*.%s'], sinks: [main]}\n", matched.group))
	routes := map[string]*kind{"named": named, "matched": matched}
	for route, k := range routes {
		r.leader.waitState(t, k.name, route, "running")
	}
	o := observe(t, r.leader, r.standby)
	o.calm(t)

	for range often {
		for _, k := range routes {
			k.remove(t)
		}
		for route, k := range routes {
			eventually(t, func() error {
				if f := r.leader.flow(t, k.name, route); f.State != "waiting" && f.State != "none" {
					return fmt.Errorf("%+v", f)
				}
				return nil
			})
			if left := r.leader.seriesOf(t, k.name); len(left) > 0 {
				t.Fatalf("series of a flow that waits: %v", left)
			}
		}
		if left := r.leader.seriesOf(t, "*."+matched.group); len(left) > 0 {
			t.Fatalf("series of a wildcard: %v", left)
		}
		if err := o.Scrape(t.Context()); err != nil {
			t.Fatal(err)
		}
		for route, k := range routes {
			k.create(t)
			r.leader.waitState(t, k.name, route, "running")
		}
		if err := o.Scrape(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	o.fire(t, "CRBridgeFlowRestarts")
	for route := range routes {
		if !o.fires("CRBridgeFlowRestarts", "route", route) {
			t.Errorf("route %s is not among those that start again and again: %+v", route, o.Alerts())
		}
	}
	o.fire(t)
	o.calm(t)
}
