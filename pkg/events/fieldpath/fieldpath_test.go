package fieldpath

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parse(t testing.TB, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParse(t *testing.T) {
	for _, row := range []struct{ why, text, want string }{
		{"names", "spec.items", "spec.items"},
		{"a list", "spec.items[*].secret", "spec.items[*].secret"},
		{"an element", "spec.items[12]", "spec.items[12]"},
		{"a name in quotes", "metadata.annotations['example.com/key']", "metadata.annotations['example.com/key']"},
		{"in double quotes", `metadata.annotations["example.com/key"].x`, "metadata.annotations['example.com/key'].x"},
		{"needless quotes", "['spec']['a-b'].c", "spec.a-b.c"},
		{"a quote and a backslash", `['it\'s'].a["\\"]`, `['it\'s'].a['\\']`},
		{"an empty name", "a['']", "a['']"},
		{"several bytes a character", "['ä'].b", "['ä'].b"},
	} {
		p, err := Parse(row.text)
		if err != nil || p.String() != row.want {
			t.Errorf("%s: %s is %s, %v; not %s", row.why, row.text, p, err, row.want)
		}
	}
}

func TestBad(t *testing.T) {
	for _, row := range []struct {
		why, text string
		column    int
	}{
		{"nothing", "", 1},
		{"a dot first", ".spec", 1},
		{"a dot last", "spec.", 6},
		{"two dots", "spec..a", 6},
		{"a slash", "a.b/c", 4},
		{"a digit first", "spec.1a", 6},
		{"an open bracket", "a[0", 2},
		{"an open quote", "a['b]", 3},
		{"a name without quotes", "a[b]", 3},
		{"a negative index", "a[-1]", 3},
		{"an index beyond all lists", "a[9999999999999999999]", 3},
		{"a backslash before nothing that needs it", `a['\n']`, 4},
		{"after several bytes a character", "['ää']x", 7},
		{"no UTF-8", "a['\xff']", 3},
	} {
		_, err := Parse(row.text)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.Column != row.column || syntax.Message == "" {
			t.Errorf("%s: %q gives %v, not column %d", row.why, row.text, err, row.column)
		}
	}
}

const object = `{"a":{"b":1,"l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`

func TestRemoveAndReplace(t *testing.T) {
	for _, row := range []struct {
		why               string
		paths             []string
		removed, replaced string
	}{
		{"a name", []string{"a.b"}, `{"a":{"l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`,
			`{"a":{"b":"-","l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`},
		{"a name in quotes", []string{"['k.o/z']"}, `{"a":{"b":1,"l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":{"x":{"s":1},"y":{"s":2}}}}`,
			`{"a":{"b":1,"l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"-"}`},
		{"in every element that has it", []string{"a.l[*].s"}, `{"a":{"b":1,"l":[{"n":2},{},3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`,
			`{"a":{"b":1,"l":[{"s":"-","n":2},{"s":"-"},3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`},
		{"in every value of a mapping", []string{"a.m[*].s"}, `{"a":{"b":1,"l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":{"x":{},"y":{}}},"k.o/z":"v"}`,
			`{"a":{"b":1,"l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":{"x":{"s":"-"},"y":{"s":"-"}}},"k.o/z":"v"}`},
		{"elements, counted as they were", []string{"a.l[0]", "a.l[1]"}, `{"a":{"b":1,"l":[3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`,
			`{"a":{"b":1,"l":["-","-",3],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`},
		{"every element", []string{"a.l[*]"}, `{"a":{"b":1,"l":[],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`,
			`{"a":{"b":1,"l":["-","-","-"],"m":{"x":{"s":1},"y":{"s":2}}},"k.o/z":"v"}`},
		{"one within another", []string{"a.m", "a.m.x.s"}, `{"a":{"b":1,"l":[{"s":1,"n":2},{"s":{"x":1}},3]},"k.o/z":"v"}`,
			`{"a":{"b":1,"l":[{"s":1,"n":2},{"s":{"x":1}},3],"m":"-"},"k.o/z":"v"}`},
		{"what is not there", []string{"a.nothing", "a.b.c", "a.l[9]", "a.l.s", "x[*].y"}, object, object},
	} {
		var paths []Path
		for _, text := range row.paths {
			paths = append(paths, Must(text))
		}
		o := parse(t, object)
		if diff := cmp.Diff(parse(t, row.removed), Remove(o, paths)); diff != "" {
			t.Errorf("%s: removed (-want +got):\n%s", row.why, diff)
		}
		if diff := cmp.Diff(parse(t, row.replaced), Replace(o, paths, "-")); diff != "" {
			t.Errorf("%s: replaced (-want +got):\n%s", row.why, diff)
		}
		if diff := cmp.Diff(parse(t, object), o); diff != "" {
			t.Errorf("%s: the object was changed:\n%s", row.why, diff)
		}
	}
}

func TestTouches(t *testing.T) {
	for _, row := range []struct {
		a, b            string
		touches, covers bool
	}{
		{"a.b", "a.b", true, true},
		{"a", "a.b", true, true},
		{"a.b", "a", true, false},
		{"a[*]", "a.b", true, true},
		{"a.b", "a[*]", true, false},
		{"a.b", "a.c", false, false},
		{"a[0]", "a[1]", false, false},
	} {
		a, b := Must(row.a), Must(row.b)
		if a.Touches(b) != row.touches || b.Touches(a) != row.touches || a.Covers(b) != row.covers {
			t.Errorf("%s and %s: touches is %t, covers is %t", a, b, a.Touches(b), a.Covers(b))
		}
	}
}

// FuzzReplace shows that no path does harm, that what it is printed as is the
// same path, that the object stays as it is, and that what was redacted is gone.
func FuzzReplace(f *testing.F) {
	f.Add("a.l[*].s", object)
	f.Add("['k.o/z']", object)
	f.Add("a[*][0].x", `{"a":{"b":[{"x":1}],"c":[[]]}}`)
	f.Fuzz(func(t *testing.T, text, content string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q is printed as %q, which is %q, %v", text, p, again, err)
		}
		var o, same map[string]any
		if json.Unmarshal([]byte(content), &o) != nil || json.Unmarshal([]byte(content), &same) != nil || o == nil {
			return
		}
		replaced, removed := Replace(o, []Path{p}, "-"), Remove(o, []Path{p})
		if !reflect.DeepEqual(o, same) {
			t.Error("the object was changed")
		}
		if got := Replace(replaced, []Path{p}, "-"); !reflect.DeepEqual(got, replaced) {
			t.Error("not all of it was replaced")
		}
		if got := Replace(removed, []Path{p}, "-"); len(p.steps) > 0 && p.steps[len(p.steps)-1].index < 0 && !reflect.DeepEqual(got, removed) {
			t.Error("not all of it was removed")
		}
	})
}
