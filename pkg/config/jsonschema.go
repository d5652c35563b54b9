package config

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/crbridge/crbridge/pkg/settings"
)

//go:generate go run ./internal/generate comments
//go:generate go run ./internal/generate pages

// descriptions are the comments of the structs' fields, by "Type.Field". A
// binary does not have its comments, so they are written to a file for it.
//
//go:embed descriptions.json
var descriptions []byte

// Schema is the JSON Schema (draft 2020-12) of a configuration file, indented,
// with the keys in the structs' order.
//
// Every file that [Load] takes with no variables set is valid by it. The
// opposite does not hold: what depends on another key, such as the name of a
// sink that is not there, or needs a parser, such as a CEL expression, is found
// by Load alone. A key that a variable is to give is missing by the schema.
func Schema() ([]byte, error) {
	var comments map[string]string
	if err := json.Unmarshal(descriptions, &comments); err != nil {
		return nil, fmt.Errorf("descriptions.json: %w; run make generate", err)
	}
	w := schemaWriter{comments: comments}
	defaults, _ := defaultOf(reflect.TypeFor[Config]())
	root, err := w.value(defaults, settings.Rule{Required: true})
	if err != nil {
		return nil, err
	}
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = "crbridge configuration"
	content, err := encodeJSON(root)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, content, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// schema is a JSON Schema, as far as configurations need it. Of what is said
// for one type only, nothing holds for values of another: so a string or a list
// of them needs no alternatives.
type schema struct {
	Schema               string   `json:"$schema,omitempty"`
	Title                string   `json:"title,omitempty"`
	Description          string   `json:"description,omitempty"`
	Type                 types    `json:"type"`
	Enum                 []any    `json:"enum,omitempty"`
	Default              any      `json:"default,omitempty"`
	Pattern              string   `json:"pattern,omitempty"`
	Not                  *never   `json:"not,omitempty"`
	MaxLength            int      `json:"maxLength,omitempty"`
	Minimum              *int64   `json:"minimum,omitempty"`
	Maximum              *int64   `json:"maximum,omitempty"`
	MinItems             int      `json:"minItems,omitempty"`
	UniqueItems          bool     `json:"uniqueItems,omitempty"`
	Items                *schema  `json:"items,omitempty"`
	MinProperties        int      `json:"minProperties,omitempty"`
	PropertyNames        *schema  `json:"propertyNames,omitempty"`
	Required             []string `json:"required,omitempty"`
	OneOf                []*one   `json:"oneOf,omitempty"`
	Properties           keys     `json:"properties,omitempty"`
	AdditionalProperties any      `json:"additionalProperties,omitempty"` // false, or *schema
}

// types are those that a value may have.
type types []string

// MarshalJSON writes a single one as a string, as people do.
func (t types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

// never is a beginning that no value has.
type never struct {
	Pattern string `json:"pattern"`
}

// one is a choice: the one key that is there, and is not null.
type one struct {
	Required   []string         `json:"required"`
	Properties map[string]typed `json:"properties"`
}

type typed struct {
	Type types `json:"type"`
}

// keys are those of a mapping, in order.
type keys []namedSchema

type namedSchema struct {
	name   string
	schema *schema
}

// MarshalJSON writes an object with the names in their order.
func (k keys) MarshalJSON() ([]byte, error) {
	b := bytes.NewBufferString("{")
	for i, key := range k {
		if i > 0 {
			b.WriteByte(',')
		}
		content, err := encodeJSON(key.schema)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(b, "%q:%s", key.name, content)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// encodeJSON leaves < and > as they are: people read the descriptions.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// schemaWriter makes schemas of Go values that hold the defaults.
type schemaWriter struct {
	comments map[string]string
	forms    map[string]settings.Form // those of the struct that is being written
}

// value is the schema of values of v's type.
func (w schemaWriter) value(v reflect.Value, r settings.Rule) (*schema, error) {
	switch v.Type() {
	case durationType:
		return formed(settings.DurationForm, "string", r.Empty), nil
	case listType:
		s, err := w.list(v, r)
		if err != nil {
			return nil, err
		}
		s.Title, s.Type, s.Pattern = s.Items.Title, types{"string", "array"}, s.Items.Pattern
		return s, nil
	}
	switch v.Kind() {
	case reflect.Struct:
		return w.structure(v)
	case reflect.Pointer:
		element, _ := defaultOf(v.Type().Elem())
		return w.value(element, r)
	case reflect.Map:
		return w.mapping(v, r)
	case reflect.Slice:
		return w.list(v, r)
	case reflect.Bool:
		return formed(w.forms[r.Form], "boolean", false), nil
	case reflect.Int, reflect.Int64:
		return formed(w.forms[r.Form], "integer", false), nil
	case reflect.String:
		s := formed(w.forms[r.Form], "string", r.Empty)
		if worded, is := reflect.TypeAssert[settings.Worded](v); is {
			for _, word := range worded.Words() {
				s.Enum = append(s.Enum, word)
			}
		}
		return s, nil
	}
	return nil, fmt.Errorf("no schema is known for values of type %s", v.Type())
}

func (w schemaWriter) structure(v reflect.Value) (*schema, error) {
	s := &schema{Type: types{"object"}, AdditionalProperties: false}
	w.forms = settings.FormsOf(v.Type())
	for i, f := range fieldsOf(v.Type()) {
		goField := v.Type().Field(i)
		r, err := settings.ParseRule(goField.Tag.Get(settings.RuleTag), w.forms)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", v.Type().Name(), goField.Name, err)
		}
		key, err := w.value(v.Field(i), r)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", v.Type().Name(), goField.Name, err)
		}
		id := settings.ID(v.Type(), goField.Name)
		if key.Description = w.comments[id]; key.Description == "" {
			return nil, fmt.Errorf("descriptions.json has none for %s; write a comment above it and run make generate", id)
		}
		if r.Choice {
			s.OneOf = append(s.OneOf, &one{Required: []string{f.name}, Properties: map[string]typed{f.name: {key.Type}}})
		}
		switch {
		case r.Required:
			s.Required = append(s.Required, f.name)
		case r.Choice:
			key.orNull()
		default:
			key.Default = written(v.Field(i))
			key.orNull()
		}
		s.Properties = append(s.Properties, namedSchema{f.name, key})
	}
	return s, nil
}

func (w schemaWriter) mapping(v reflect.Value, r settings.Rule) (*schema, error) {
	element, _ := defaultOf(v.Type().Elem())
	of, err := w.value(element, settings.Rule{Required: true})
	if err != nil {
		return nil, err
	}
	s := &schema{Type: types{"object"}, PropertyNames: formed(w.forms[r.Form], "string", false), AdditionalProperties: of}
	if r.Required {
		s.MinProperties = 1
	}
	return s, nil
}

func (w schemaWriter) list(v reflect.Value, r settings.Rule) (*schema, error) {
	element, _ := defaultOf(v.Type().Elem())
	of, err := w.value(element, settings.Rule{Form: r.Form, Required: true})
	if err != nil {
		return nil, err
	}
	s := &schema{Type: types{"array"}, Items: of, UniqueItems: r.Unique}
	if r.Required || r.Nonempty || r.Choice {
		s.MinItems = 1
	}
	return s, nil
}

// orNull takes null for a value too: it is as if the key were not there.
func (s *schema) orNull() {
	s.Type = append(s.Type, "null")
	if len(s.Enum) > 0 {
		s.Enum = append(s.Enum, nil)
	}
}

// formed is the schema of values of a form.
func formed(f settings.Form, typ string, empty bool) *schema {
	s := &schema{Title: f.Title, Type: types{typ}, MaxLength: f.Longest}
	switch {
	case f.Pattern != "" && empty:
		s.Pattern = "^(" + f.Pattern + ")?$"
	case f.Pattern != "":
		s.Pattern = "^(" + f.Pattern + ")$"
	}
	if f.Never != "" {
		s.Not = &never{Pattern: "^" + f.Never}
	}
	if typ == "integer" {
		s.Minimum = &f.Min
		if f.Max > 0 {
			s.Maximum = &f.Max
		}
	}
	return s
}

// written is a default as a file would have it; nil for what consists of keys.
func written(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Struct, reflect.Map, reflect.Pointer:
		return nil
	case reflect.Slice:
		if v.Len() == 0 {
			return []any{}
		}
	}
	if d, is := reflect.TypeAssert[time.Duration](v); is {
		return settings.ShortDuration(d)
	}
	return v.Interface()
}
