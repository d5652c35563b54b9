package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/crbridge/crbridge/pkg/settings"
)

// envPrefix is what the variables begin with. One underscore would take in the
// variables that Kubernetes makes for a Service named bridge.
const envPrefix = "BRIDGE__"

// setting is a key that a variable can name.
type setting struct {
	keys []string
	at   settings.Path
	typ  reflect.Type
}

// settable tells whether the setting is a single value.
func (s setting) settable() bool {
	switch s.typ.Kind() {
	case reflect.Struct, reflect.Map:
		return false
	case reflect.Slice:
		return s.typ == listType
	default:
		return true
	}
}

// environment turns the variables with the prefix into the map that koanf
// merges over the file's.
func environment(environ []string, file map[string]any, r *report) map[string]any {
	settings := map[string]setting{}
	collect(settings, envPrefix, setting{typ: reflect.TypeFor[Config]()}, file)

	values := map[string]any{}
	setBy := map[string]string{}
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		variable, text, _ := strings.Cut(entry, "=")
		name := strings.ToUpper(variable)
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		from := origin{variable: onOneLine(variable)}
		s, known := settings[name]
		switch {
		case !known:
			r.at(from, "%s", unknownVariable(name, settings))
			continue
		case !s.settable():
			r.at(from, "%s is %s, which cannot be set from the environment", s.at, want(s.typ))
			continue
		case setBy[name] != "":
			r.at(from, "%s is set by %s as well", s.at, setBy[name])
			continue
		}
		setBy[name] = from.variable
		v, err := parseValue(s.typ, text)
		if err != nil {
			r.at(from, "%s: %s", s.at, err)
			continue
		}
		put(values, s.keys, v)
		r.values[s.at] = from
	}
	return values
}

// onOneLine is a variable's name as a person can read it: quoted, where there is
// something in it that no name should have.
func onOneLine(variable string) string {
	if strings.ContainsFunc(variable, func(r rune) bool { return r == '"' || !unicode.IsPrint(r) }) {
		return settings.Quote(variable)
	}
	return variable
}

// collect finds the keys below s by the names that their variables have. Of a
// mapping with keys of the user's own these are the keys in the file.
func collect(settings map[string]setting, prefix string, s setting, file any) {
	var below []field
	content, _ := file.(map[string]any)
	switch s.typ.Kind() {
	case reflect.Struct:
		below = fieldsOf(s.typ)
	case reflect.Map:
		for name := range content {
			below = append(below, field{name: name, typ: s.typ.Elem()})
		}
	default:
		return
	}
	for _, f := range below {
		name := prefix + strings.ToUpper(strings.ReplaceAll(f.name, "-", "_"))
		next := setting{keys: append(slices.Clone(s.keys), f.name), at: s.at.Key(f.name), typ: f.typ}
		settings[name] = next
		collect(settings, name+"__", next, content[f.name])
	}
}

func parseValue(t reflect.Type, text string) (any, error) {
	if t == listType {
		return []any{text}, nil
	}
	return parseScalar(t, text)
}

// unknownVariable says why there is nothing that the name stands for.
func unknownVariable(name string, settings map[string]setting) string {
	var candidates []string
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		s := settings[k]
		if s.typ.Kind() == reflect.Slice && strings.HasPrefix(name, k+"__") {
			return string(s.at) + " is a list, which cannot be set from the environment"
		}
		if s.settable() {
			candidates = append(candidates, k)
		}
	}
	const message = "no such key"
	if meant := Nearest(name, candidates); meant != "" {
		return message + "; did you mean " + meant + "?"
	}
	if strings.HasPrefix(name, envPrefix+"SINKS__") {
		return message + "; the environment reaches only sinks that the file has"
	}
	return message + "; a variable is " + envPrefix + " and the key's path with __ between its levels, as in BRIDGE__LOG__LEVEL"
}

// put stores a value in nested maps.
func put(m map[string]any, keys []string, v any) {
	for _, key := range keys[:len(keys)-1] {
		next, ok := m[key].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[key] = next
		}
		m = next
	}
	m[keys[len(keys)-1]] = v
}
