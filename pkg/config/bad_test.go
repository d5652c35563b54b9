package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A good configuration, for rows to be put into.
const (
	goodCluster = "cluster: demo\n"
	goodRoutes  = "routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]\n"
	goodSinks   = "sinks: {main: {nats: {url: 'nats://nats:4222'}}}\n"
	good        = goodCluster + goodRoutes + goodSinks
)

var (
	longLine = "{" + strings.Repeat("ä: b, ", 200) + "}}\n"
	longName = strings.Repeat("long-", 20) + "name"
)

// top is a good configuration with more after it, from line 4 on.
func top(more string) string { return good + more }

// route is one with more keys in its only route, from line 6 on.
func route(more string) string {
	return goodCluster + "routes:\n- name: orders\n  crds: [orders.shop.example.com]\n  sinks: [main]\n" +
		indent("  ", more) + goodSinks
}

// natsWith is one with more keys in its only sink, from line 6 on.
func natsWith(more string) string {
	return goodCluster + goodRoutes + "sinks:\n main:\n  nats:\n" + indent("   ", more) + "   url: nats://nats:4222\n"
}

// stream is one with more keys in its only stream, from line 7 on.
func stream(more string) string {
	return natsWith("jetstream:\n" + indent(" ", more) + " stream: K8S")
}

func indent(by, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}

// badRow is a configuration that is wrong, and all that is to be said of it.
type badRow struct {
	reason  string
	content string
	environ []string
	want    string
}

func TestBad(t *testing.T) {
	for _, row := range slices.Concat(badRows, badRules) {
		t.Run(row.reason, func(t *testing.T) {
			_, err := load("f", []byte(row.content), row.environ)
			if err == nil {
				t.Fatalf("loaded without an error:\n%s", row.content)
			}
			if diff := cmp.Diff(row.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s\nof\n%s", diff, row.content)
			}
		})
	}
}
