package config

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// CRDPattern says which CRDs are meant: "orders.shop.example.com" is the one
// of that name, "*.shop.example.com" every one of exactly that group, "*"
// every one.
type CRDPattern string

const anyCRD CRDPattern = "*"

// Matches tells whether the CRD with this name, <plural>.<group>, is meant.
func (p CRDPattern) Matches(crdName string) bool {
	return p.covers(CRDPattern(crdName))
}

// IsWildcard tells whether p may mean more than one CRD.
func (p CRDPattern) IsWildcard() bool {
	return p == anyCRD || strings.HasPrefix(string(p), "*.")
}

// group is the API group of a pattern other than "*".
func (p CRDPattern) group() string {
	_, group, _ := strings.Cut(string(p), ".")
	return group
}

// covers tells whether p means everything that q means.
func (p CRDPattern) covers(q CRDPattern) bool {
	switch {
	case p == anyCRD || p == q:
		return true
	case q == anyCRD || !p.IsWildcard():
		return false
	}
	return p.group() == q.group()
}

// valid applies the rules that the API server has for a CRD's name and group:
// a group has at least one dot in it.
func (p CRDPattern) valid() bool {
	if p == anyCRD {
		return true
	}
	plural, group, _ := strings.Cut(string(p), ".")
	return (plural == "*" || len(validation.IsDNS1035Label(plural)) == 0) &&
		strings.Contains(group, ".") &&
		len(validation.IsDNS1123Subdomain(group)) == 0 &&
		len(p) <= validation.DNS1123SubdomainMaxLength
}

// overlap tells whether there can be an object that both routes select, going
// by CRDs and namespaces.
func overlap(a, b *Route) bool {
	if len(a.Namespaces) > 0 && len(b.Namespaces) > 0 &&
		!slices.ContainsFunc(a.Namespaces, func(namespace string) bool { return slices.Contains(b.Namespaces, namespace) }) {
		return false
	}
	for _, p := range a.CRDs {
		for _, q := range b.CRDs {
			// Two patterns that share a CRD are one within the other.
			narrower := p
			switch {
			case p.covers(q):
				narrower = q
			case !q.covers(p):
				continue
			}
			// A finite number of exclusions takes all of a pattern only where
			// one of them does, as each pattern but a name is open-ended.
			if !excludes(a, narrower) && !excludes(b, narrower) {
				return true
			}
		}
	}
	return false
}

func excludes(r *Route, p CRDPattern) bool {
	for _, e := range r.ExcludeCRDs {
		if e.covers(p) {
			return true
		}
	}
	return false
}
