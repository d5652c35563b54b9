package fieldpath

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
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
		if got := apply(t, Edit{Remove: paths}, object); got != row.removed {
			t.Errorf("%s: removed from the text: %s, want %s", row.why, got, row.removed)
		}
		if got := apply(t, Edit{Replace: paths, Value: `"-"`}, object); got != row.replaced {
			t.Errorf("%s: replaced in the text: %s, want %s", row.why, got, row.replaced)
		}
	}
}

func apply(t testing.TB, e Edit, text string) string {
	t.Helper()
	got, err := NewEditor(e).Apply([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return string(got)
}

func TestEdit(t *testing.T) {
	paths := func(texts ...string) (p []Path) {
		for _, text := range texts {
			p = append(p, Must(text))
		}
		return p
	}
	for _, row := range []struct {
		why        string
		edit       Edit
		text, want string
	}{
		{"nothing", Edit{}, ` {"a": 1}`, ` {"a": 1}`},
		{"the first", Edit{Remove: paths("a")}, `{"a":1,"b":2,"c":3}`, `{"b":2,"c":3}`},
		{"one between others", Edit{Remove: paths("b")}, `{"a":1,"b":2,"c":3}`, `{"a":1,"c":3}`},
		{"the last", Edit{Remove: paths("c")}, `{"a":1,"b":2,"c":3}`, `{"a":1,"b":2}`},
		{"the first two", Edit{Remove: paths("a", "b")}, `{"a":1,"b":2,"c":3}`, `{"c":3}`},
		{"the last two", Edit{Remove: paths("b", "c")}, `{"a":1,"b":2,"c":3}`, `{"a":1}`},
		{"all", Edit{Remove: paths("[*]")}, `{"a":1,"b":2,"c":3}`, `{}`},
		{"with space", Edit{Remove: paths("a", "c")}, "{ \"a\" : 1 ,\n \"b\" : 2 , \"c\" : 3 }", "{\"b\" : 2 }"},
		{"what is written with escapes", Edit{Remove: paths("a")}, `{"\u0061":1,"b":"\u0062"}`, `{"b":"\u0062"}`},
		{"what is there twice", Edit{Remove: paths("a")}, `{"a":1,"b":2,"a":3}`, `{"b":2}`},
		{"what stays is as it was", Edit{Remove: paths("a")}, `{"a":1,"b":1.50e3,"c":12345678901234567890}`, `{"b":1.50e3,"c":12345678901234567890}`},
		{"removed goes before replaced", Edit{Remove: paths("a.b"), Replace: paths("a.b", "a.c"), Value: "0"}, `{"a":{"b":1,"c":2}}`, `{"a":{"c":0}}`},
		{"replaced with space", Edit{Replace: paths("a[*]"), Value: "0"}, `{"a" : [ 1 , 2 ]}`, `{"a" : [ 0 , 0 ]}`},
		{"replaced behind what was removed", Edit{Remove: paths("a[0]"), Replace: paths("a[1]"), Value: "0"}, `{"a":[1, 2]}`, `{"a":[0]}`},
		{"in a mapping of which all else is removed", Edit{Remove: paths("a.b"), Replace: paths("a.c.d"), Value: "0"}, `{"a":{"b":1,"c":{"d":1}}}`, `{"a":{"c":{"d":0}}}`},

		{"pruned with the last", Edit{Remove: paths("m.a.x"), Prune: paths("m.a")}, `{"m":{"a":{"x":1},"b":2}}`, `{"m":{"b":2}}`},
		{"not pruned where something is left", Edit{Remove: paths("m.a.x"), Prune: paths("m.a")}, `{"m":{"a":{"x":1,"y":2}}}`, `{"m":{"a":{"y":2}}}`},
		{"not pruned where nothing was", Edit{Remove: paths("m.a.x"), Prune: paths("m.a")}, `{"m":{"a":{}}}`, `{"m":{"a":{}}}`},
		{"pruned behind another that is gone", Edit{Remove: paths("m['0']", "m.a.x"), Prune: paths("m.a")}, `{"m":{"0":0,"a":{"x":1},"b":2}}`, `{"m":{"b":2}}`},
		{"pruned as the last", Edit{Remove: paths("m.a.x"), Prune: paths("m.a")}, `{"m":{"0":0,"a":{"x":1}}}`, `{"m":{"0":0}}`},

		{"some members", Edit{Members: []string{"a", "c"}}, `{"a":1,"b":2,"c":3,"d":4}`, `{"a":1,"c":3}`},
		{"some members, edited", Edit{Members: []string{"a"}, Remove: paths("a.b")}, `{"x":0,"a":{"b":1,"c":2},"b":2}`, `{"a":{"c":2}}`},
		{"nothing behind the metadata is looked at", Edit{Remove: paths("metadata.x")}, `{"kind":"K","metadata":{"x":1,"y":2},"spec":{"x":1}}`, `{"kind":"K","metadata":{"y":2},"spec":{"x":1}}`},
		{"no mapping", Edit{Remove: paths("a")}, `[1]`, `[1]`},
	} {
		if got := apply(t, row.edit, row.text); got != row.want {
			t.Errorf("%s: %s, want %s", row.why, got, row.want)
		}
	}
	for _, text := range []string{`{"a":`, `{`, ``, `{"a":[1`} {
		if got, err := NewEditor(Edit{Remove: paths("a")}).Apply([]byte(text)); err == nil {
			t.Errorf("%s is no JSON, and becomes %s", text, got)
		}
	}
}

// BenchmarkEdit is the edit that each event has, beside checking the text.
func BenchmarkEdit(b *testing.B) {
	spec := strings.Repeat(`,"field":"`+strings.Repeat("x", 50)+`"`, 32)
	fields := strings.Repeat(`,"f:field":{}`, 32)
	text := []byte(`{"apiVersion":"v1","kind":"K","metadata":{"managedFields":[{"fieldsV1":{"f:spec":{"":{}` + fields + `}}}],"name":"n"},"spec":{"a":1` + spec + `}}`)
	for _, row := range []struct {
		name string
		edit Edit
	}{
		{"metadata", Edit{Remove: []Path{Must("metadata.managedFields"), Must("metadata.annotations['k']")}, Prune: []Path{Must("metadata.annotations")}}},
		{"everywhere", Edit{Remove: []Path{Must("metadata.managedFields"), Must("spec.a")}}},
	} {
		b.Run(row.name, func(b *testing.B) {
			editor := NewEditor(row.edit)
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := editor.Apply(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("valid", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if !json.Valid(text) {
				b.Fatal("it is not")
			}
		}
	})
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
		canonical, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		texts := []string{string(canonical)}
		if !NewEditor(Edit{Remove: []Path{p}}).head { // else it relies on names that are there once
			texts = append(texts, content)
		}
		for _, text := range texts {
			var got map[string]any
			if edited := apply(t, Edit{Replace: []Path{p}, Value: `"-"`}, text); json.Unmarshal([]byte(edited), &got) != nil || !reflect.DeepEqual(got, replaced) {
				t.Errorf("replaced in the text: %s, want %v", edited, replaced)
			}
			got = nil
			if edited := apply(t, Edit{Remove: []Path{p}}, text); json.Unmarshal([]byte(edited), &got) != nil || !reflect.DeepEqual(got, removed) {
				t.Errorf("removed from the text: %s, want %v", edited, removed)
			}
		}
	})
}
