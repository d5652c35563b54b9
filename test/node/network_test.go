//go:build linux

package node

import (
	"net/netip"
	"slices"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		name  string
		taken []string
		in    string // where the network must be; empty: nowhere
	}{
		{"nothing is taken", nil, "10.0.0.0/8"},
		{"all but one network, as on a machine with many", without(10, 77), "10.77.0.0/16"},
		{"a VPN that has all of 10.0.0.0/8", []string{"10.0.0.0/8"}, "198.18.0.0/15"},
		{"IPv6 is nothing to do with it", []string{"::/0"}, "10.0.0.0/8"},
		{"everything is taken", []string{"10.0.0.0/8", "198.0.0.0/8"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, prefix := range test.taken {
				taken = append(taken, netip.MustParsePrefix(prefix))
			}
			n, err := choose("crb1", taken)
			if test.in == "" {
				if err == nil {
					t.Errorf("chose %v, of what is taken", n.bridge)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			whole := n.bridge.Masked()
			if !netip.MustParsePrefix(test.in).Overlaps(whole) || slices.ContainsFunc(taken, whole.Overlaps) {
				t.Errorf("chose %v, not in %s or taken", whole, test.in)
			}
			// The first of the services' addresses is that of Service kubernetes.
			if n.services.Masked().Addr().Next() != n.bridge.Addr() {
				t.Errorf("services %v, the bridge has %v", n.services, n.bridge)
			}
			for _, pod := range n.pods {
				if !whole.Contains(pod) || n.services.Contains(pod) {
					t.Errorf("pods from %v on, services %v, network %v", pod, n.services, whole)
				}
			}
		})
	}
}

// without returns all networks of 16 bits that begin with first, except for one.
func without(first, free int) (prefixes []string) {
	for second := range 256 {
		if second != free {
			prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(first), byte(second)}), 16).String())
		}
	}
	return prefixes
}

func TestDestinations(t *testing.T) {
	got := destinations([]byte(`default via 192.0.2.1 dev eth0
0.0.0.0/1 via 10.8.0.1 dev tun0
10.8.0.0/24 dev tun0 proto kernel scope link src 10.8.0.2
local 10.8.0.2 dev tun0 table local proto kernel scope host src 10.8.0.2
`))
	if want := []netip.Prefix{netip.MustParsePrefix("10.8.0.0/24")}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v: the default route, also in halves, is no network", got, want)
	}
}
