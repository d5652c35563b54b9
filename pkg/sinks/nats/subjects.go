package nats

import (
	"slices"
	"strings"

	"github.com/crbridge/crbridge/pkg/events"
)

// covered tells whether every subject that matches pattern matches one of the
// filters too. The rules are those of
// https://docs.nats.io/nats-concepts/subjects: * stands for one token, > at
// the end for one or more.
//
// The filters may share the work by length only. There are infinitely many
// tokens and a filter names finitely many, so of the tokens for which a * of
// the pattern stands, most can be matched by nothing but a wildcard: one filter
// has to cover all subjects of one length, or none does. A pattern that ends
// in > is therefore looked at for each length up to one at which all filters
// of fixed length are out.
func covered(pattern string, filters []string) bool {
	tokens := strings.Split(pattern, ".")
	last := len(tokens) - 1
	if tokens[last] != ">" {
		return coveredByOne(tokens, filters)
	}
	longest := len(tokens)
	for _, filter := range filters {
		longest = max(longest, strings.Count(filter, ".")+2)
	}
	tokens[last] = "*"
	for ; len(tokens) <= longest; tokens = append(tokens, "*") {
		if !coveredByOne(tokens, filters) {
			return false
		}
	}
	return true
}

func coveredByOne(tokens, filters []string) bool {
	return slices.ContainsFunc(filters, func(filter string) bool {
		return pairwise(tokens, strings.Split(filter, "."), func(token, f string) bool {
			return f == "*" || f == token
		})
	})
}

// overlap tells whether some subject matches both patterns.
func overlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	either := func(s, t string) bool { return s == "*" || t == "*" || s == t }
	if x[len(x)-1] == ">" && len(x) <= len(y) {
		return pairwise(y, x, either)
	}
	return pairwise(x, y, either)
}

// pairwise tells whether the tokens match the filter's, where > in the filter
// takes all that is left.
func pairwise(tokens, filter []string, match func(token, filter string) bool) bool {
	for i, f := range filter {
		switch {
		case f == ">":
			return len(tokens) > i
		case i >= len(tokens):
			return false
		case !match(tokens[i], f):
			return false
		}
	}
	return len(tokens) == len(filter)
}

// perObject tells whether the subject tells each object of each flow from all
// others of the cluster: what it is made of has a token of its own, as two
// fields in one token may be split in several ways.
func perObject(subject *events.SubjectTemplate) bool {
	none := strings.Split(subject.Pattern(events.Fields{}), ".")
	for _, only := range []events.Fields{{Route: "x"}, {Group: "x"}, {Resource: "x"}, {Namespace: "x"}, {Name: "x"}} {
		i := 0
		own := slices.ContainsFunc(strings.Split(subject.Pattern(only), "."), func(token string) bool {
			i++
			return none[i-1] == "*" && token != "*"
		})
		if !own {
			return false
		}
	}
	return true
}
