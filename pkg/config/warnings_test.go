package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWarnings(t *testing.T) {
	const (
		head = "cluster: demo\nroutes:\n"
		a    = "- {name: a, crds: [orders.shop.example.com], sinks: [main]}\n"
		b    = "- {name: b, crds: ['*.shop.example.com'], sinks: [main]}\n"
		a1   = "- {name: a, version: v1, crds: [orders.shop.example.com], sinks: [main]}\n"
		b2   = "- {name: b, version: v2, crds: ['*.shop.example.com'], sinks: [main]}\n"
		c    = "- {name: c, crds: [items.shop.example.com], sinks: [main]}\n"
		d    = "- {name: d, crds: [orders.shop.example.com], sinks: [other]}\n"

		deleted = "- {name: a, events: [deleted], crds: [orders.shop.example.com], sinks: [main]}\n"
		rest    = "- {name: b, events: [created, updated], crds: [orders.shop.example.com], sinks: [main]}\n"
		both    = "- {name: a, crds: [orders.shop.example.com], sinks: [main, other]}\n"

		inShop  = "- {name: a, namespaces: [shop], crds: [orders.shop.example.com], sinks: [main]}\n"
		inStage = "- {name: b, namespaces: [stage], crds: ['*.shop.example.com'], sinks: [main]}\n"
		web     = "- {name: a, labelSelector: app=web, crds: [orders.shop.example.com], sinks: [main]}\n"
		web3    = "- {name: c, labelSelector: app=web, crds: [orders.shop.example.com], sinks: [main]}\n"
		notWeb  = "- {name: b, labelSelector: app!=web, crds: ['*.shop.example.com'], sinks: [main]}\n"

		stored    = "sinks: {main: {nats: {url: nats://a, jetstream: {stream: K8S}}}}\n"
		byRoute   = "sinks: {main: {nats: {url: nats://a, subject: 'k8s.{route}.{name}', jetstream: {stream: K8S}}}}\n"
		byVersion = "sinks: {main: {nats: {url: nats://a, subject: 'k8s.{version}.{name}', jetstream: {stream: K8S}}}}\n"
		two       = "sinks: {main: {nats: {url: nats://a, jetstream: {stream: K8S}}}, other: {nats: {url: nats://a, subject: 'other.{name}', jetstream: {stream: Other}}}}\n"
		core      = "sinks: {main: {nats: {url: nats://a}}, other: {nats: {url: nats://a, subject: 'other.{name}'}}}\n"
		mixed     = "sinks: {main: {nats: {url: nats://a, jetstream: {stream: K8S}}}, other: {nats: {url: nats://a, subject: 'other.{name}'}}}\n"
		kept      = "state: {sink: main}\n"

		overlapping        = `routes "a" and "b" can select the same CRD and both go to sink "main", on the same subjects: put {route} into its subject, "k8s.{cluster}.{group}.{resource}.{namespace}.{name}", to tell them apart`
		overlappingVersion = `routes "a" and "b" can select the same CRD and both go to sink "main", on the same subjects: put {route} into its subject, "k8s.{version}.{name}", to tell them apart`
		forgets            = ` has no jetstream, and state.sink names none that keeps its ledgers: after a restart or failover the bridge does not know what it sent there, so it tells of all objects again, as existing, and not of those deleted meanwhile`
		open               = ` is reached from outside of the machine and server.auth is none: whoever reaches it can read metrics, status and API; auth: kubernetes lets those in who have a token of the cluster`
	)
	for _, row := range []struct {
		reason  string
		content string
		want    []string
	}{
		{"nothing to warn of", head + a + stored, nil},
		{"a name and its group, one sink, the same subjects", head + a + b + stored, []string{overlapping}},
		{"three of them: one warning", head + a + b + web3 + stored, []string{strings.Replace(overlapping, "and \"b\"", "and \"b\", and 2 other pairs of routes,", 1)}},
		{"the route is in the subject", head + a + b + byRoute, nil},
		{"different versions, with the version in the subject", head + a1 + b2 + byVersion, nil},
		{"a default version may be the other's", head + a1 + b + byVersion, []string{overlappingVersion}},
		{"different CRDs", head + a + c + stored, nil},
		{"different namespaces", head + inShop + inStage + stored, nil},
		{"a namespace in all of them", head + inShop + b + stored, []string{overlapping}},
		{"an object can change from one label selector to the other", head + web + notWeb + stored, []string{overlapping}},
		{"different sinks", head + a + d + two, nil},
		{"different events of one object can overtake each other", head + deleted + rest + stored, []string{overlapping}},
		{"a sink without a stream", good, []string{`sink "main"` + forgets}},
		{"one warning for a sink of two routes", head + a + c + core, []string{`sink "main"` + forgets}},
		{"two sinks without a stream", head + d + c + core, []string{`sink "other"` + forgets, `sink "main"` + forgets}},
		{"one of two sinks without a stream", head + both + mixed, []string{`sink "other"` + forgets}},
		{"its ledgers are kept in the other", head + both + mixed + kept, nil},
		{"no route leads to it", head + a + mixed, nil},
		{"the state is kept where nothing needs it", head + a + stored + kept, nil},
		{"the server on all addresses", head + a + stored + "server: {address: ':8080'}\n", []string{`server.address: ":8080"` + open}},
		{"the server on an address of the machine", head + a + stored + "server: {address: '10.0.0.1:8080'}\n", []string{`server.address: "10.0.0.1:8080"` + open}},
		{"the server on a name", head + a + stored + "server: {address: 'example.com:8080'}\n", []string{`server.address: "example.com:8080"` + open}},
		{"loopback by its name and by IPv6", head + a + stored + "server: {address: 'localhost:8080'}\nhealth: {address: '[::1]:8080'}\n", nil},
		{"all at once, overlapping routes last", head + a + b + goodSinks + "server: {address: ':8080'}\n", []string{
			`server.address: ":8080"` + open, `sink "main"` + forgets, overlapping,
		}},
	} {
		t.Run(row.reason, func(t *testing.T) {
			if diff := cmp.Diff(row.want, loaded(t, row.content).Warnings()); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
