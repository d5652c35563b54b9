package nats

import (
	"log/slog"
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

// coreOptions are those of a sink to core NATS.
func coreOptions(t *testing.T, server *natstest.Server) Options {
	o := options(t, server)
	o.JetStream = nil
	return o
}

// listen subscribes, and returns when the server knows.
func listen(t *testing.T, nc *natsgo.Conn, subject string) *natsgo.Subscription {
	t.Helper()
	heard, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return heard
}

// arrived are all messages that the server had for a subscription.
func arrived(t *testing.T, nc *natsgo.Conn, heard *natsgo.Subscription) (all []*natsgo.Msg) {
	t.Helper()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	n, _, err := heard.Pending()
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		m, err := heard.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// TestUnheardEvents shows that what nobody listens to is counted, event by
// event, and that nothing else is.
func TestUnheardEvents(t *testing.T) {
	server := natstest.Start(t, "")
	registry := prometheus.NewRegistry()
	metrics, err := sinks.NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	var log settingstest.LogBook
	o := coreOptions(t, server)
	o.Logger, o.Metrics = log.Logger(slog.LevelInfo), metrics
	s := open(t, o)
	counted := func(want string) {
		t.Helper()
		text := "# HELP bridge_events_unheard_total Events published to core NATS while nobody subscribed to their subject.\n" +
			"# TYPE bridge_events_unheard_total counter\nbridge_events_unheard_total{sink=\"main\"} " + want + "\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text), "bridge_events_unheard_total"); err != nil {
			t.Error(err)
		}
	}
	const last = "bridge_events_unheard_last_timestamp_seconds"
	counted("0")
	if n, err := testutil.GatherAndCount(registry, last); err != nil || n != 0 {
		t.Errorf("%d series, %v: it says when, and it never was", n, err)
	}
	publish(t, s, change(t, "one", 1), change(t, "two", 1), change(t, "three", 1))
	counted("3")
	if n, err := testutil.GatherAndCount(registry, last); err != nil || n != 1 {
		t.Errorf("%d series, %v: it does not say when", n, err)
	}
	const note = " events reached nobody, the last at "
	if notes := s.Status().Notes; len(notes) != 1 || !strings.HasPrefix(notes[0], "3"+note) || !strings.HasSuffix(notes[0], ": nobody subscribed to k8s.demo.shop_example_com.orders.default.three") {
		t.Errorf("the notes are %q", notes)
	}

	nc := client(t, server.URL())
	heard := listen(t, nc, "k8s.*.*.*.*.two")
	answering, err := nc.Subscribe("k8s.*.*.*.*.one", func(m *natsgo.Msg) {
		_ = m.Respond([]byte("thank you")) // an answer is none to the bridge
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	publish(t, s, change(t, "one", 2), change(t, "two", 2), change(t, "three", 2), change(t, "two", 3))
	counted("4")
	if got := len(arrived(t, nc, heard)); got != 2 {
		t.Errorf("%d were heard", got)
	}
	if err := answering.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	publish(t, s, change(t, "one", 3))
	counted("5")
	if got := strings.Count(log.String(), "events reach nobody"); got != 1 {
		t.Errorf("logged %d times, want once a minute:\n%s", got, log.String())
	}
}

// TestCoreWithoutInbox: where the server does not say what reaches nobody,
// events are delivered all the same, on one connection.
func TestCoreWithoutInbox(t *testing.T) {
	server := natstest.Start(t, `authorization {users: [
		{user: bridge, password: b, permissions: {publish: "k8s.>", subscribe: {deny: [">"]}}}
		{user: test, password: t}
	]}`)
	o := coreOptions(t, server)
	o.Auth = Auth{UserFile: file(t, "bridge"), PasswordFile: file(t, "b")}
	s := open(t, o)
	heard := listen(t, client(t, server.URL(), natsgo.UserInfo("test", "t")), "k8s.>")
	for version := 1; version <= 3; version++ {
		publish(t, s, change(t, "one", version))
		if _, err := heard.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"events that reach nobody are not counted: the server does not permit the bridge to subscribe to _INBOX.>"}
	if status := s.Status(); len(status.Notes) != 1 || status.Notes[0] != want[0] || status.LastError != "" {
		t.Errorf("the status is %+v", status)
	}
	select {
	case <-s.current.Load().inboxDenied:
		t.Error("the connection is to be replaced")
	default:
	}
}

// TestCoreDenied: what the server does not let through counts as not
// delivered, and what is behind it is not sent again and again.
func TestCoreDenied(t *testing.T) {
	users := func(publish string) string {
		return `authorization {users: [
			{user: bridge, password: b, permissions: {publish: ` + publish + `, subscribe: "_INBOX.>"}}
			{user: test, password: t}
		]}`
	}
	server := natstest.Start(t, users(`{allow: ["k8s.>"], deny: ["k8s.*.*.*.*.two"]}`))
	o := coreOptions(t, server)
	o.Auth = Auth{UserFile: file(t, "bridge"), PasswordFile: file(t, "b")}
	s := open(t, o)
	nc := client(t, server.URL(), natsgo.UserInfo("test", "t"))
	heard := listen(t, nc, "k8s.>")
	publish(t, s, change(t, "one", 1)) // it is connected
	batch := batchOf(change(t, "one", 2), change(t, "two", 1), change(t, "three", 1), change(t, "two", 2))
	const denied = "sink main: the server does not permit the bridge to publish to k8s.demo.shop_example_com.orders.default.two (it says: Permissions Violation)"
	p := publisher(t, s)
	const attempts = 5
	for attempt := range attempts {
		durable, err := p.Publish(t.Context(), batch)
		if err == nil || err.Error() != denied || durable != 1 && attempt == 0 || durable != 0 && attempt > 0 {
			t.Fatalf("attempt %d returned %d and %v", attempt, durable, err)
		}
		batch = batch[durable:]
	}
	if status := s.Status(); status.LastError != denied {
		t.Errorf("the status is %+v", status)
	}
	server.Reload(t, users(`"k8s.>"`))
	deliver(t, p, batch...)
	eventually(t, "all is well", func() (string, bool) { last := s.Status().LastError; return last, last == "" })
	got := map[string]int{}
	for _, m := range arrived(t, nc, heard) {
		e := decodeBinary(t, m)
		got[e.ID()]++
	}
	for _, want := range []string{id("one", 1), id("one", 2), id("two", 1), id("two", 2)} {
		if got[want] != 1 {
			t.Errorf("%s came %d times", want, got[want])
		}
	}
	if behind := id("three", 1); got[behind] != 2 { // once before it was known that two is denied
		t.Errorf("%s came %d times", behind, got[behind])
	}
}
