package keydoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Tables fills the places for tables in a Markdown page, and leaves the rest of
// the page as it is. A place is what stands between two lines:
//
//	<!-- keys: routes[] -->
//	<!-- end -->
//
// The table has the keys below the one that is named: "." is the whole
// configuration, [] an element of a list, <name> a value of a mapping with the
// user's names. Keys further down are in it too, up to where another table of
// the page begins. A key that is in no table is an error.
func Tables(page, schemaJSON []byte) ([]byte, error) {
	root := &schema{}
	if err := json.Unmarshal(schemaJSON, root); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	d := document{tables: map[string]*table{}}
	for _, m := range place.FindAllSubmatch(page, -1) {
		name := string(m[1])
		if d.tables[name] != nil {
			return nil, fmt.Errorf("two tables have the keys below %s; take one away", name)
		}
		d.tables[name] = &table{}
	}
	d.walk(root, ".")
	if len(d.homeless) > 0 {
		return nil, fmt.Errorf("no table has the keys %s; add a line <!-- keys: . --> and a line <!-- end -->", strings.Join(d.homeless, ", "))
	}
	var errs []error
	filled := place.ReplaceAllFunc(page, func(old []byte) []byte {
		name := string(place.FindSubmatch(old)[1])
		rows := d.tables[name].rows
		if len(rows) == 0 {
			errs = append(errs, fmt.Errorf("%s has no keys of which there could be a table", name))
		}
		return fmt.Appendf(nil, "<!-- keys: %s -->\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n%s\n<!-- end -->\n", name, strings.Join(rows, ""))
	})
	return filled, errors.Join(errs...)
}

var place = regexp.MustCompile(`(?s)<!-- keys: (\S+) -->\n.*?<!-- end -->\n`)

// schema is what a table needs of a JSON Schema.
type schema struct {
	Title                string          `json:"title"`
	Description          string          `json:"description"`
	Type                 types           `json:"type"`
	Enum                 []any           `json:"enum"`
	Default              any             `json:"default"`
	Minimum              *int64          `json:"minimum"`
	Maximum              *int64          `json:"maximum"`
	Items                *schema         `json:"items"`
	Required             []string        `json:"required"`
	Properties           keys            `json:"properties"`
	AdditionalProperties json.RawMessage `json:"additionalProperties"`
}

// types are one type, or a list of them.
type types []string

// UnmarshalJSON reads either.
func (t *types) UnmarshalJSON(data []byte) error {
	if *t = (types{""}); json.Unmarshal(data, &(*t)[0]) == nil {
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

// keys are the names and schemas of an object, in order.
type keys []key

type key struct {
	name   string
	schema *schema
}

// UnmarshalJSON reads an object.
func (k *keys) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		s := &schema{}
		if err := d.Decode(s); err != nil {
			return err
		}
		*k = append(*k, key{fmt.Sprint(name), s})
	}
	return nil
}

// element is the schema of what a list or mapping consists of, and how a path
// goes on into it; nil where there are no keys below.
func (s *schema) element() (below *schema, step string) {
	if s.Items != nil && s.Items.is("object") {
		return s.Items, "[]"
	}
	if names := (&schema{}); len(s.Properties) == 0 && json.Unmarshal(s.AdditionalProperties, names) == nil {
		return names, ".<name>"
	}
	return nil, ""
}

func (s *schema) is(typ string) bool { return slices.Contains(s.Type, typ) }

type document struct {
	tables   map[string]*table
	homeless []string
}

type table struct{ rows []string }

// walk puts each key below path into the table that is nearest above it.
func (d *document) walk(s *schema, path string) {
	for _, k := range s.Properties {
		at := strings.TrimPrefix(path+"."+k.name, "..")
		d.add(at, row(d.within(at), k.schema, slices.Contains(s.Required, k.name)))
		d.walk(k.schema, at)
	}
	if below, step := s.element(); below != nil {
		d.walk(below, path+step)
	}
}

// home is the path of the table that has the key: the longest that it is below.
func (d *document) home(at string) (name string, found bool) {
	for candidate := range d.tables {
		below := candidate == "." || strings.HasPrefix(at, candidate+".")
		if below && (!found || candidate != "." && len(candidate) >= len(name)) {
			name, found = candidate, true
		}
	}
	return name, found
}

// within is a key's path in its table.
func (d *document) within(at string) string {
	home, _ := d.home(at)
	return strings.TrimPrefix(strings.TrimPrefix(at, home), ".")
}

func (d *document) add(at, row string) {
	home, found := d.home(at)
	if !found {
		d.homeless = append(d.homeless, at)
		return
	}
	d.tables[home].rows = append(d.tables[home].rows, row)
}

// row is a key's line in a table.
func row(name string, s *schema, required bool) string {
	meaning, fallback := s.Description, defaultOf(s)
	if before, after, has := strings.Cut(meaning, "Default: "); has {
		meaning, fallback = strings.TrimSpace(before), strings.TrimSuffix(after, ".")
	}
	if required {
		fallback = "required"
	}
	cells := []string{"`" + name + "`", value(s), fallback, meaning}
	for i, cell := range cells {
		cells[i] = strings.ReplaceAll(cell, "|", `\|`)
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// value says in words what may be written.
func value(s *schema) string {
	switch {
	case s.is("string") && s.is("array"):
		return value(s.Items) + ", or a list of them"
	case s.Items != nil && s.Items.is("object"):
		return "list"
	case s.Items != nil && len(s.Items.Enum) > 0:
		return "list of " + enum(s.Items.Enum)
	case s.Items != nil:
		return "list of " + value(s.Items) + "s"
	case len(s.Enum) > 0:
		return enum(s.Enum)
	case s.Minimum != nil && s.Maximum != nil:
		return fmt.Sprintf("%d to %d", *s.Minimum, *s.Maximum)
	case s.Title != "":
		return s.Title
	case s.is("object"):
		return "mapping"
	case s.is("integer"):
		return "whole number"
	}
	return s.Type[0]
}

func enum(values []any) string {
	var words []string
	for _, v := range values {
		if v != nil {
			words = append(words, fmt.Sprintf("`%v`", v))
		}
	}
	return strings.Join(words, ", ")
}

// defaultOf is the default as a file would have it.
func defaultOf(s *schema) string {
	switch v := s.Default.(type) {
	case nil:
		return ""
	case string:
		if v == "" {
			return "none"
		}
		if strings.ContainsAny(v, "{:") {
			v = fmt.Sprintf("%q", v)
		}
		return "`" + v + "`"
	case []any:
		var words []string
		for _, e := range v {
			words = append(words, fmt.Sprint(e))
		}
		return "`[" + strings.Join(words, ", ") + "]`"
	case float64:
		return "`" + strconv.FormatFloat(v, 'f', -1, 64) + "`"
	case map[string]any:
		text, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		return "`" + string(text) + "`"
	default:
		return fmt.Sprintf("`%v`", v)
	}
}
