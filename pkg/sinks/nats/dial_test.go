package nats

import (
	"slices"
	"testing"
)

// TestServersToTry shows the order: what is configured comes before what was
// heard of, and each of the two in any order.
func TestServersToTry(t *testing.T) {
	d := newDialer(&Options{URLs: []string{"nats://a", "nats://b", "nats://c"}})
	d.discovered = []server{{"nats://10.0.0.1:4222", "a"}, {"nats://10.0.0.2:4222", "a"}}
	first := map[server]bool{}
	for range 200 {
		all := d.servers()
		for _, u := range d.urls {
			if !slices.Contains(all[:3], server{url: u}) {
				t.Fatalf("%s is not among the first three of %v", u, all)
			}
		}
		for _, s := range d.discovered {
			if !slices.Contains(all[3:], s) {
				t.Fatalf("%v is not among the last two of %v", s, all)
			}
		}
		first[all[0]], first[all[3]] = true, true
	}
	if len(first) != 5 {
		t.Errorf("only %v were ever the first of their part", first)
	}
}

func TestNameOfACertificate(t *testing.T) {
	for _, test := range []struct {
		why  string
		of   server
		want string
	}{
		{"one that is configured", server{url: "tls://nats.example.com:4222"}, "nats.example.com"},
		{"one that another told of", server{url: "tls://10.0.0.1:4222", certificate: "nats.example.com"}, "nats.example.com"},
		{"an IP address with a port", server{url: "nats://[::1]:4222"}, "::1"},
	} {
		if got := test.of.named(); got != test.want {
			t.Errorf("%s: %q, want %q", test.why, got, test.want)
		}
	}
}
