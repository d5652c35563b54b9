package nats

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCovered(t *testing.T) {
	for _, test := range []struct {
		why     string
		pattern string
		filters []string
		want    bool
	}{
		{"the same", "k8s.*.orders", []string{"k8s.*.orders"}, true},
		{"all there is", "k8s.*.*", []string{">"}, true},
		{"the rest by >", "k8s.a.*", []string{"k8s.>"}, true},
		{"> stands for one token at least", "k8s", []string{"k8s.>"}, false},
		{"a * is wider than a token", "k8s.*", []string{"k8s.a"}, false},
		{"tokens do not add up to a *", "k8s.*", []string{"k8s.a", "k8s.b"}, false},
		{"nor do filters that each leave some out", "k8s.*.*", []string{"k8s.a.*", "k8s.*.b"}, false},
		{"the second filter does", "k8s.*", []string{"other.>", "k8s.*"}, true},
		{"one token less", "k8s.*.*", []string{"k8s.*"}, false},
		{"one token more", "k8s.*", []string{"k8s.*.*"}, false},
		{"> of the pattern needs > ", "k8s.>", []string{"k8s.*"}, false},
		{"> of the pattern, put together by length", "k8s.>", []string{"k8s.*", "k8s.*.>"}, true},
		{"> of the pattern, with a length left out", "k8s.>", []string{"k8s.*", "k8s.*.*.>"}, false},
		{"no filters", "k8s.*", nil, false},
	} {
		if got := covered(test.pattern, test.filters); got != test.want {
			t.Errorf("%s: covered(%q, %q) = %v", test.why, test.pattern, test.filters, got)
		}
	}
}

// Against subjects one by one, over an alphabet with more tokens than the
// patterns can name.
func TestCoveredAndOverlapByEnumeration(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var all []string
	alphabet := []string{"a", "b", "x"} // no pattern names x
	for level, previous := 0, []string{""}; level < 5; level++ {
		var next []string
		for _, p := range previous {
			for _, token := range alphabet {
				next = append(next, strings.TrimPrefix(p+"."+token, "."))
			}
		}
		all, previous = append(all, next...), next
	}
	pattern := func() string {
		tokens := make([]string, 1+random.IntN(3))
		for i := range tokens {
			tokens[i] = []string{"a", "b", "*", "*"}[random.IntN(4)]
		}
		if random.IntN(3) == 0 {
			tokens[len(tokens)-1] = ">"
		}
		return strings.Join(tokens, ".")
	}
	for range 5000 {
		p, filters := pattern(), []string{pattern(), pattern(), pattern()}
		wantCovered, wantOverlap := true, false
		for _, s := range all {
			if !matches(s, p) {
				continue
			}
			wantCovered = wantCovered && (matches(s, filters[0]) || matches(s, filters[1]) || matches(s, filters[2]))
			wantOverlap = wantOverlap || matches(s, filters[0])
		}
		if got := covered(p, filters); got != wantCovered {
			t.Errorf("covered(%q, %q) = %v", p, filters, got)
		}
		if got := overlap(p, filters[0]); got != wantOverlap {
			t.Errorf("overlap(%q, %q) = %v", p, filters[0], got)
		}
	}
}

// matches is NATS' rule, written a second time.
func matches(subject, filter string) bool {
	first, rest, more := strings.Cut(subject, ".")
	f, filterRest, filterMore := strings.Cut(filter, ".")
	switch {
	case f == ">":
		return true
	case f != "*" && f != first || more != filterMore:
		return false
	}
	return !more || matches(rest, filterRest)
}

func TestPerObject(t *testing.T) {
	for _, test := range []struct {
		why, template string
		want          bool
	}{
		{"a token for each", "k8s.{route}.{group}.{resource}.{namespace}.{name}", true},
		{"with more in a token", "k8s.r-{route}.{group}.{resource}.{cluster}.{namespace}.{name}.{event}", true},
		{"routes share", template, false},
		{"resources share", "k8s.{route}.{group}.{namespace}.{name}", false},
		{"groups share", "k8s.{route}.{resource}.{namespace}.{name}", false},
		{"namespaces share", "k8s.{route}.{group}.{resource}.{name}", false},
		{"names share", "k8s.{route}.{group}.{resource}.{namespace}", false},
		{"a-b and c are a and b-c", "k8s.{route}.{group}.{resource}.{namespace}-{name}", false},
	} {
		if got := perObject(subject(t, test.template)); got != test.want {
			t.Errorf("%s: %s is %t, want %t", test.why, test.template, got, test.want)
		}
	}
}
