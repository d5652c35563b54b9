package when

import (
	"strings"
	"testing"
)

func widget(size int64) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": "a", "labels": map[string]any{"tier": "gold"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
		"spec":     map[string]any{"size": size, "items": []any{map[string]any{"ok": true}}, "cpu": "500m", "url": "https://example.com/a", "ratio": 0.5},
	}
}

func TestAdmits(t *testing.T) {
	for _, row := range []struct {
		why, expression, kind string
		object, old           map[string]any
		want                  bool
		fails                 string
	}{
		{"a number", "object.spec.size > 1", "created", widget(2), nil, true, ""},
		{"a number that is not", "object.spec.size > 1", "created", widget(1), nil, false, ""},
		{"the type", "type == 'updated'", "updated", widget(1), nil, true, ""},
		{"the type is a string", "type in ['created', 'existing']", "created", widget(1), nil, true, ""},
		{"nothing before", "oldObject == null", "created", widget(1), nil, true, ""},
		{"something before", "oldObject == null || object.spec.size != oldObject.spec.size", "updated", widget(2), widget(1), true, ""},
		{"the same before", "oldObject == null || object.spec.size != oldObject.spec.size", "updated", widget(1), widget(1), false, ""},
		{"an optional field", "object.?spec.nothing.orValue(false)", "updated", widget(1), nil, false, ""},
		{"has", "has(object.spec.nothing)", "updated", widget(1), nil, false, ""},
		{"a missing field", "object.spec.nothing == 1", "updated", widget(1), nil, false, "no such key: nothing"},
		{"labels", "object.metadata.?labels['tier'].orValue('') == 'gold'", "updated", widget(1), nil, true, ""},
		{"a list", "object.spec.items.all(i, i.ok)", "updated", widget(1), nil, true, ""},
		{"Kubernetes' quantities", "quantity(object.spec.cpu).isLessThan(quantity('1'))", "updated", widget(1), nil, true, ""},
		{"Kubernetes' URLs", "url(object.spec.url).getHost() == 'example.com'", "updated", widget(1), nil, true, ""},
		{"Kubernetes' regular expressions", "object.metadata.name.find('[a-z]') == 'a'", "updated", widget(1), nil, true, ""},
		{"a duration", "timestamp(object.metadata.creationTimestamp) < timestamp('2026-01-03T00:00:00Z')", "updated", widget(1), nil, true, ""},
		{"no boolean", "object.spec.size", "updated", widget(1), nil, false, "neither true nor false"},
		{"too expensive", "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, object.spec.size + a + b + c + d + e > 0)))))",
			"updated", widget(1), nil, false, "cost limit exceeded"},
	} {
		p, err := Compile(row.expression)
		if err != nil {
			t.Errorf("%s: %v", row.why, err)
			continue
		}
		got, err := p.Admits(row.kind, row.object, row.old)
		if got != row.want || (err == nil) != (row.fails == "") || err != nil && !strings.Contains(err.Error(), row.fails) {
			t.Errorf("%s: %t, %v; not %t, %q", row.why, got, err, row.want, row.fails)
		}
		if p.NeedsOld() != strings.Contains(row.expression, "oldObject") {
			t.Errorf("%s: NeedsOld is %t", row.why, p.NeedsOld())
		}
	}
}

func TestCompileSaysWhere(t *testing.T) {
	for _, row := range []struct {
		why, expression, want string
	}{
		{"a syntax error", "object.spec.size >", "line 1, column 19 of the expression: Syntax error: mismatched input '<EOF>'"},
		{"on another line", "true &&\n  nothing", "line 2, column 3 of the expression: undeclared reference to 'nothing'"},
		{"after characters of several bytes", "'äöü' == nothing", "line 1, column 10 of the expression: undeclared reference to 'nothing'"},
		{"a result that is no answer", "'text'", "line 1, column 1 of the expression: its result is string; it has to be true or false"},
		{"another type than the type", "type == 1", "line 1, column 6 of the expression: found no matching overload for '_==_'"},
	} {
		if _, err := Compile(row.expression); err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("%s: %v, not %s", row.why, err, row.want)
		}
	}
}

// FuzzCompile shows that no expression, whatever is in it, does harm.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{"object.spec.size > 1", "type == 'updated'", "oldObject == null", "", "[", "object.all(x, x)", "1/0 == 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, expression string) {
		p, err := Compile(expression)
		if err != nil {
			return
		}
		_, _ = p.Admits("updated", widget(1), nil)
	})
}
