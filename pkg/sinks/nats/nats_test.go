package nats

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
)

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	for _, test := range []struct {
		why    string
		change func(*Options)
		want   string
	}{
		{"nowhere to go", func(o *Options) { o.URLs = nil }, "sink main: no url"},
		{"not a URL; it may hold a password", func(o *Options) { o.URLs = []string{"nats://u:pass%zz@h"} }, "sink main: url 1 of 1 is not like nats://host:4222"},
		{
			"a secret outside of a file", func(o *Options) { o.URLs = []string{"nats://a:4222", "nats://u:pass@b:4222"} },
			"sink main: url 2 of 2, with host b:4222, holds a user: credentials are in files",
		},
		{"no subject", func(o *Options) { o.Subject = nil }, "sink main: no subject"},
		{"no such mode", func(o *Options) { o.Mode = "batched" }, `sink main: mode "batched": there are binary and structured`},
		{
			"two kinds of credentials", func(o *Options) { o.Auth = Auth{TokenFile: "t", NKeyFile: "n"} },
			"sink main: auth: one of credentialsFile, nkeyFile, userFile with passwordFile, tokenFile, not several",
		},
		{"a user without a password", func(o *Options) { o.Auth = Auth{UserFile: "u"} }, "sink main: auth: userFile and passwordFile go together"},
		{"a certificate without a key", func(o *Options) { o.TLS = settings.TLS{CertFile: "c"} }, "sink main: tls: certFile and keyFile go together"},
		{"a stream that no server takes", func(o *Options) { o.JetStream.Stream = "a.b" }, `sink main: stream "a.b": a stream's name has no white space and none of . * > / \`},
		{"no such storage", func(o *Options) { o.JetStream.Storage = "disk" }, `sink main: storage "disk": there are file and memory`},
	} {
		o := Options{Name: "main", URLs: []string{"nats://a"}, Subject: subject(t, template), JetStream: &JetStream{Stream: "K8S"}}
		test.change(&o)
		if _, err := Open(o); err == nil || err.Error() != test.want {
			t.Errorf("%s: Open says\n%v, want\n%s", test.why, err, test.want)
		}
	}
}

func TestStateIsLoggedOncePerChange(t *testing.T) {
	server := natstest.New(t, "")
	var log settingstest.LogBook
	registry := prometheus.NewRegistry()
	metrics, err := sinks.NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, server)
	o.Logger, o.Metrics = log.Logger(slog.LevelInfo), metrics
	s := open(t, o)
	registry.MustRegister(sinks.NewSet(map[string]sinks.Sink{"main": s}))
	connected := func(want string) {
		t.Helper()
		text := "# HELP bridge_sink_connected Whether the sink is connected: 1 if it is, else 0.\n" +
			"# TYPE bridge_sink_connected gauge\nbridge_sink_connected{sink=\"main\"} " + want + "\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text), "bridge_sink_connected"); err != nil {
			t.Error(err)
		}
	}
	refused := "sink main: no server can be reached: dial " + server.Address + ": connection refused"
	untilStatus(t, s, refused)
	connected("0")
	server.Start(t)
	publish(t, s, change(t, "one", 1))
	connected("1")
	server.Kill(t)
	untilStatus(t, s, refused)
	connected("0")
	server.Start(t)
	publish(t, s, change(t, "one", 2))
	for words, want := range map[string]int{
		"connection refused": 2, "sink connected": 2, "the server closed the connection": 1, "stream created": 1,
	} {
		if got := strings.Count(log.String(), words); got != want {
			t.Errorf("%q is logged %d times, want %d", words, got, want)
		}
	}
	if t.Failed() {
		t.Log(log.String())
	}
}
