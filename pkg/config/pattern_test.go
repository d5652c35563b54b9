package config

import (
	"testing"

	"github.com/crbridge/crbridge/pkg/events"
)

func TestCRDPattern(t *testing.T) {
	const orders = "orders.shop.example.com"
	for _, row := range []struct {
		reason   string
		pattern  CRDPattern
		crd      string
		matches  bool
		wildcard bool
	}{
		{"a name means itself", orders, orders, true, false},
		{"and no other", orders, "items.shop.example.com", false, false},
		{"a group means its CRDs", "*.shop.example.com", orders, true, true},
		{"not those of a group below it", "*.example.com", orders, false, true},
		{"not those of a group above it", "*.shop.example.com", "orders.example.com", false, true},
		{"not those of a group that ends alike", "*.shop.example.com", "orders.workshop.example.com", false, true},
		{"the star means all", "*", orders, true, true},
		{"no pattern means nothing", "", orders, false, false},
	} {
		t.Run(row.reason, func(t *testing.T) {
			if got := row.pattern.Matches(row.crd); got != row.matches {
				t.Errorf("%q.Matches(%q) = %t", row.pattern, row.crd, got)
			}
			if got := row.pattern.IsWildcard(); got != row.wildcard {
				t.Errorf("%q.IsWildcard() = %t", row.pattern, got)
			}
		})
	}
}

func TestOverlap(t *testing.T) {
	type patterns = []CRDPattern
	const a, b, group, other = "a.example.com", "b.example.com", "*.example.com", "*.example.org"
	for _, row := range []struct {
		reason string
		x, y   Route
		want   bool
	}{
		{"the same name", Route{CRDs: patterns{a}}, Route{CRDs: patterns{a}}, true},
		{"two names", Route{CRDs: patterns{a}}, Route{CRDs: patterns{b}}, false},
		{"a name in a group", Route{CRDs: patterns{a}}, Route{CRDs: patterns{group}}, true},
		{"a name in a group that leaves it out", Route{CRDs: patterns{a}}, Route{CRDs: patterns{group}, ExcludeCRDs: patterns{a}}, false},
		{"a group is not used up by a name that is left out", Route{CRDs: patterns{group}}, Route{CRDs: patterns{group}, ExcludeCRDs: patterns{a}}, true},
		{"two groups", Route{CRDs: patterns{group}}, Route{CRDs: patterns{other}}, false},
		{"a group in everything", Route{CRDs: patterns{group}}, Route{CRDs: patterns{"*"}}, true},
		{"everything but that group", Route{CRDs: patterns{group}}, Route{CRDs: patterns{"*"}, ExcludeCRDs: patterns{group}}, false},
		{"everything but a group, twice", Route{CRDs: patterns{"*"}, ExcludeCRDs: patterns{other}}, Route{CRDs: patterns{"*"}, ExcludeCRDs: patterns{group}}, true},
		{"one that leaves everything out", Route{CRDs: patterns{"*"}, ExcludeCRDs: patterns{"*"}}, Route{CRDs: patterns{"*"}}, false},
		{"namespaces that have one in common", Route{CRDs: patterns{a}, Namespaces: []string{"x", "y"}}, Route{CRDs: patterns{a}, Namespaces: []string{"y"}}, true},
		{"namespaces that have none in common", Route{CRDs: patterns{a}, Namespaces: []string{"x"}}, Route{CRDs: patterns{group}, Namespaces: []string{"y"}}, false},
		{"all namespaces, and one of them", Route{CRDs: patterns{a}, Namespaces: []string{"x"}}, Route{CRDs: patterns{group}}, true},
		{"the second of several", Route{CRDs: patterns{b, a}}, Route{CRDs: patterns{other, a}}, true},
	} {
		t.Run(row.reason, func(t *testing.T) {
			if got := overlap(&row.x, &row.y); got != row.want {
				t.Errorf("overlap(x, y) = %t", got)
			}
			if got := overlap(&row.y, &row.x); got != row.want {
				t.Errorf("overlap(y, x) = %t", got)
			}
		})
	}
}

func TestRouteSelects(t *testing.T) {
	r := Route{CRDs: []CRDPattern{"*.example.com", "c.example.org"}, ExcludeCRDs: []CRDPattern{"b.example.com"}}
	for crd, want := range map[string]bool{
		"a.example.com": true,
		"b.example.com": false, // left out
		"c.example.org": true,
		"d.example.org": false, // never named
	} {
		if got := r.Selects(crd); got != want {
			t.Errorf("Selects(%q) = %t", crd, got)
		}
	}
}

func TestRouteAdmits(t *testing.T) {
	r := Route{Events: []events.Type{events.Created, events.Deleted}}
	for _, typ := range events.Types() {
		want := typ == events.Created || typ == events.Deleted
		if got := r.Admits(typ); got != want {
			t.Errorf("Admits(%q) = %t", typ, got)
		}
	}
}
