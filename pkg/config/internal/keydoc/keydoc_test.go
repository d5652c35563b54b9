package keydoc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestComments(t *testing.T) {
	for _, row := range []struct {
		reason, source string
		want           map[string]string
		fails          string
	}{
		{"a comment over several lines is one", "type A struct {\n\t// One\n\t// two.\n\tB int `key:\"b\"`\n}", map[string]string{"a.A.B": "One two."}, ""},
		{"a field without the tag is no key", "type A struct {\n\tB int `json:\"b\"`\n\tC int\n}", map[string]string{}, ""},
		{"a key without a comment", "type A struct {\n\tB int `key:\"b\"`\n}", nil, "a.A.B has no comment above it; write what its key b is for"},
		{"a comment behind a key is none above it", "type A struct {\n\tB int `key:\"b\"` // b\n}", nil, "a.A.B has no comment above it; write what its key b is for"},
		{"no Go", "type A struct {", nil, "expected '}'"},
	} {
		t.Run(row.reason, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte("package a\n\n"+row.source+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Comments("key", filepath.Join(dir, "*.go"))
			if (err == nil) != (row.fails == "") || err != nil && !strings.Contains(err.Error(), row.fails) {
				t.Fatalf("error %v, not %q", err, row.fails)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("comments (-want +got):\n%s", diff)
			}
		})
	}
}

const someSchema = `{"type": "object", "required": ["b"], "properties": {
	"b": {"title": "label", "description": "What b is.", "type": "string"},
	"a": {"description": "A or | nothing. Default: what \u0060b\u0060 is.", "type": ["string", "null"], "enum": ["x", "y", null], "default": "x"},
	"list": {"description": "Some.", "type": ["array", "null"], "default": [], "items": {"type": "object", "properties": {
		"n": {"description": "How many.", "type": ["integer", "null"], "minimum": 1, "maximum": 5, "default": 1}}}},
	"map": {"description": "By name.", "type": "object", "additionalProperties": {"type": "object", "properties": {
		"u": {"description": "Where.", "type": ["string", "array", "null"], "default": ":80", "items": {"title": "URL", "type": "string"}}}}}
}}`

func TestTables(t *testing.T) {
	const head = "\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n"
	for _, row := range []struct{ reason, page, want, fails string }{
		{
			"a table for all, and what stands around it stays",
			"before\n<!-- keys: . -->\nold\n<!-- end -->\nbehind\n",
			"before\n<!-- keys: . -->\n" + head +
				"| `b` | label | required | What b is. |\n" +
				"| `a` | `x`, `y` | what `b` is | A or \\| nothing. |\n" +
				"| `list` | list | `[]` | Some. |\n" +
				"| `list[].n` | 1 to 5 | `1` | How many. |\n" +
				"| `map` | mapping |  | By name. |\n" +
				"| `map.<name>.u` | URL, or a list of them | `\":80\"` | Where. |\n" +
				"\n<!-- end -->\nbehind\n",
			"",
		},
		{
			"a key is in the nearest table",
			"<!-- keys: . -->\n<!-- end -->\n<!-- keys: list[] -->\n<!-- end -->\n<!-- keys: map.<name> -->\n<!-- end -->\n",
			"<!-- keys: . -->\n" + head +
				"| `b` | label | required | What b is. |\n" +
				"| `a` | `x`, `y` | what `b` is | A or \\| nothing. |\n" +
				"| `list` | list | `[]` | Some. |\n" +
				"| `map` | mapping |  | By name. |\n" +
				"\n<!-- end -->\n<!-- keys: list[] -->\n" + head +
				"| `n` | 1 to 5 | `1` | How many. |\n" +
				"\n<!-- end -->\n<!-- keys: map.<name> -->\n" + head +
				"| `u` | URL, or a list of them | `\":80\"` | Where. |\n" +
				"\n<!-- end -->\n",
			"",
		},
		{"keys without a table would not be documented", "<!-- keys: list[] -->\n<!-- end -->\n", "", "no table has the keys b, a, list, map, map.<name>.u"},
		{"a table for what has no keys", "<!-- keys: . -->\n<!-- end -->\n<!-- keys: lits[] -->\n<!-- end -->\n", "", "lits[] has no keys of which there could be a table"},
		{"two tables of the same keys would document them twice", "<!-- keys: . -->\n<!-- end -->\n<!-- keys: . -->\n<!-- end -->\n", "", "two tables have the keys below ."},
	} {
		t.Run(row.reason, func(t *testing.T) {
			got, err := Tables([]byte(row.page), []byte(someSchema))
			if (err == nil) != (row.fails == "") || err != nil && !strings.Contains(err.Error(), row.fails) {
				t.Fatalf("error %v, not %q", err, row.fails)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(row.want, string(got)); diff != "" {
				t.Errorf("page (-want +got):\n%s", diff)
			}
			again, err := Tables(got, []byte(someSchema))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(got), string(again)); diff != "" {
				t.Errorf("filled again (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEmbed(t *testing.T) {
	const schema = "{\n  \"$schema\": \"x\",\n  \"type\": \"object\"\n}\n"
	const embedded = "{\n  \"a\": 1,\n  \"$defs\": {\n    \"config\": {\n      \"type\": \"object\"\n    }\n  }\n}\n"
	for _, row := range []struct{ reason, values, want, fails string }{
		{"the first time", "{\n  \"a\": 1,\n  \"$defs\": {}\n}\n", embedded, ""},
		{"again: what was there is replaced", embedded, embedded, ""},
		{"no place", "{}", "", "there is no \"$defs\": {"},
		{"a place that is not the last thing", "{\"b\": {\"$defs\": {}}}", "", "not at the end"},
	} {
		t.Run(row.reason, func(t *testing.T) {
			got, err := Embed([]byte(row.values), []byte(schema))
			if (err == nil) != (row.fails == "") || err != nil && !strings.Contains(err.Error(), row.fails) {
				t.Fatalf("error %v, not %q", err, row.fails)
			}
			if diff := cmp.Diff(row.want, string(got)); diff != "" {
				t.Errorf("values' schema (-want +got):\n%s", diff)
			}
		})
	}
}
