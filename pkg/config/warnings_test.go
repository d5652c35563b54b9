package config

import (
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

		byRoute   = "sinks: {main: {nats: {url: nats://a, subject: 'k8s.{route}.{name}'}}}\n"
		byVersion = "sinks: {main: {nats: {url: nats://a, subject: 'k8s.{version}.{name}'}}}\n"
		two       = "sinks: {main: {nats: {url: nats://a}}, other: {nats: {url: nats://a, subject: 'other.{name}'}}}\n"

		overlapping        = `routes "a" and "b" can select the same CRD and both go to sink "main", on the same subjects: put {route} into its subject, "k8s.{cluster}.{group}.{resource}.{namespace}.{name}", to tell them apart`
		overlappingVersion = `routes "a" and "b" can select the same CRD and both go to sink "main", on the same subjects: put {route} into its subject, "k8s.{version}.{name}", to tell them apart`
		open               = ` is reached from outside of the machine and server.auth is none: whoever reaches it can read metrics, status and API`
	)
	for _, row := range []struct {
		reason  string
		content string
		want    []string
	}{
		{"nothing to warn of", good, nil},
		{"a name and its group, one sink, the same subjects", head + a + b + goodSinks, []string{overlapping}},
		{"the route is in the subject", head + a + b + byRoute, nil},
		{"different versions, with the version in the subject", head + a1 + b2 + byVersion, nil},
		{"a default version may be the other's", head + a1 + b + byVersion, []string{overlappingVersion}},
		{"different CRDs", head + a + c + goodSinks, nil},
		{"different sinks", head + a + d + two, nil},
		{"the server on all addresses", top("server: {address: ':8080'}\n"), []string{`server.address: ":8080"` + open}},
		{"the server on an address of the machine", top("server: {address: '10.0.0.1:8080'}\n"), []string{`server.address: "10.0.0.1:8080"` + open}},
		{"the server on a name", top("server: {address: 'example.com:8080'}\n"), []string{`server.address: "example.com:8080"` + open}},
		{"loopback by its name and by IPv6", top("server: {address: 'localhost:8080'}\nhealth: {address: '[::1]:8080'}\n"), nil},
	} {
		t.Run(row.reason, func(t *testing.T) {
			if diff := cmp.Diff(row.want, loaded(t, row.content).Warnings()); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
