//go:build linux

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/crbridge/crbridge/test/poll"
)

// network is a bridge with a network of its own. Pods are on it, and the
// machine has its first address there. Nothing is routed in or out.
type network struct {
	link     string
	bridge   netip.Prefix // the machine's address, and the network's length
	services netip.Prefix // cluster IPs: the network's beginning
	pods     [2]netip.Addr
}

// at returns the machine's address in the network with that port.
func (n network) at(port int) string {
	return net.JoinHostPort(n.bridge.Addr().String(), strconv.Itoa(port))
}

// newNetwork makes a bridge of that name.
func newNetwork(ctx context.Context, link string) (network, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return network{}, err
	}
	routes, err := ip(ctx, "-4", "route", "show", "table", "all")
	if err != nil {
		return network{}, err
	}
	var taken []netip.Prefix
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			taken = append(taken, prefix.Masked())
		}
	}
	n, err := choose(link, append(taken, destinations(routes)...))
	if err != nil {
		return n, err
	}
	for _, args := range [][]string{
		{"link", "add", link, "type", "bridge"},
		{"address", "add", n.bridge.String(), "dev", link},
		{"link", "set", link, "up"},
	} {
		if _, err := ip(ctx, args...); err != nil {
			return n, err
		}
	}
	return n, nil
}

// destinations returns where routes lead to that are shown by ip, except for
// default routes and the like: what is nearer goes before them.
func destinations(routes []byte) []netip.Prefix {
	var found []netip.Prefix
	for field := range bytes.FieldsSeq(routes) {
		if prefix, err := netip.ParsePrefix(string(field)); err == nil && prefix.Bits() >= 8 {
			found = append(found, prefix)
		}
	}
	return found
}

// choose returns a network that overlaps with none of those that are taken.
func choose(link string, taken []netip.Prefix) (network, error) {
	overlaps := func(candidate netip.Prefix) bool {
		for _, prefix := range taken {
			if prefix.Overlaps(candidate) {
				return true
			}
		}
		return false
	}
	// The second block is for a machine with a VPN that has all of the first: it
	// is set aside for measuring devices.
	for _, block := range []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("198.18.0.0/15")} {
		count := 1 << (24 - block.Bits())
		first := rand.IntN(count)
		for i := range count {
			base := block.Addr().As4()
			number := (first + i) % count
			address := func(last byte) netip.Addr {
				return netip.AddrFrom4([4]byte{base[0], base[1] + byte(number>>8), byte(number), last})
			}
			if overlaps(netip.PrefixFrom(address(0), 24)) {
				continue
			}
			return network{
				link:     link,
				bridge:   netip.PrefixFrom(address(1), 24),
				services: netip.PrefixFrom(address(0), 26),
				pods:     [2]netip.Addr{address(64), address(254)},
			}, nil
		}
	}
	return network{}, errors.New("node: no network is free in 10.0.0.0/8 and 198.18.0.0/15: this machine's addresses and routes cover them")
}

// removeLink removes a bridge, once the links of the pods are gone from it: the
// kernel takes them away a moment after the pods.
func removeLink(ctx context.Context, link string) error {
	if _, err := os.Stat("/sys/class/net/" + link); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := poll.Until(ctx, patience, "links of pods are left at "+link, func(context.Context) error {
		ports, err := os.ReadDir("/sys/class/net/" + link + "/brif")
		if err != nil {
			return err
		}
		if len(ports) > 0 {
			return fmt.Errorf("%d links, as %s", len(ports), ports[0].Name())
		}
		return nil
	})
	_, deleteErr := ip(ctx, "link", "delete", link)
	return errors.Join(err, deleteErr)
}

func ip(ctx context.Context, args ...string) ([]byte, error) { return output(ctx, "ip", args...) }

// output runs a command of the system and returns what it prints.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/env", append([]string{"PATH=" + systemPath, name}, args...)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return out, fmt.Errorf("%s %v: %w", name, args, err)
	}
	return out, nil
}
