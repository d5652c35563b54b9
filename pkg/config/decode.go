package config

import (
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/crbridge/crbridge/pkg/settings"
)

// decoder turns a YAML document into the map that koanf merges. It holds each
// node against the type that it is for, reports what does not fit and leaves
// that out, so that one load finds all problems. It keeps the place of each
// key and value in the report, for what is checked later.
type decoder struct {
	report *report
}

// document decodes the root of the file.
func (d decoder) document(root *yaml.Node) map[string]any {
	v, _ := d.value(root, reflect.TypeFor[Config](), "")
	m, _ := v.(map[string]any)
	return m
}

// value decodes a node for the type. Where it is not ok it has reported why,
// and v is an empty value that stands in for the one that was not understood.
func (d decoder) value(n *yaml.Node, t reflect.Type, p settings.Path) (v any, ok bool) {
	d.report.values[p] = originOf(n)
	switch {
	case n.Kind == yaml.AliasNode:
		return d.refuse(n, t, p, "*"+n.Value+": aliases are not supported; write the value out")
	case !coreTag(n):
		return d.refuse(n, t, p, n.Tag+": tags are not supported; leave it out")
	case t == listType && n.Kind == yaml.ScalarNode && !isNull(n):
		s, ok := d.scalar(n, t.Elem(), p)
		return []any{s}, ok
	}
	switch t.Kind() {
	case reflect.Struct:
		return d.structure(n, t, p)
	case reflect.Map:
		return d.mapping(n, t, p)
	case reflect.Slice:
		return d.list(n, t, p)
	default:
		return d.scalar(n, t, p)
	}
}

// structure decodes a mapping whose keys are known.
func (d decoder) structure(n *yaml.Node, t reflect.Type, p settings.Path) (any, bool) {
	if n.Kind != yaml.MappingNode {
		return d.wrongKind(n, t, p)
	}
	types := map[string]reflect.Type{}
	var names []string
	for _, f := range fieldsOf(t) {
		types[f.name] = f.typ
		names = append(names, f.name)
	}
	m := map[string]any{}
	for name, value := range d.entries(n, p) {
		at := p.Key(name)
		typ, known := types[name]
		if !known {
			meant := Nearest(name, names)
			d.report.key(at, "no such key; %s", didYouMean(meant, "keys here", names))
			if meant != "" {
				d.report.fault(p.Key(meant)) // not to be called missing as well
			}
			continue
		}
		if isNull(value) {
			d.report.values[at] = originOf(value)
			continue // as if the key were not there: the default holds
		}
		if v, ok := d.value(value, typ, at); ok {
			m[name] = v
		}
	}
	return m, true
}

// mapping decodes a mapping whose keys are the user's. An entry that cannot be
// understood stays as an empty one: its name exists and may be referred to.
func (d decoder) mapping(n *yaml.Node, t reflect.Type, p settings.Path) (any, bool) {
	if n.Kind != yaml.MappingNode {
		return d.wrongKind(n, t, p)
	}
	m := map[string]any{}
	for name, value := range d.entries(n, p) {
		at := p.Key(name)
		if isNull(value) {
			d.report.values[at] = originOf(value)
			m[name] = map[string]any{}
			continue
		}
		m[name], _ = d.value(value, t.Elem(), at)
	}
	return m, true
}

// entries yields the entries of a mapping whose keys are sound.
func (d decoder) entries(n *yaml.Node, p settings.Path) func(yield func(string, *yaml.Node) bool) {
	return func(yield func(string, *yaml.Node) bool) {
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			switch {
			case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
				d.report.at(originOf(key), "%s: merge keys are not supported; write the values out", p.Key(key.Value))
				d.report.fault(p)
				continue
			case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str":
				d.report.at(originOf(key), "%s: a key has to be a string", in(p, describe(key)))
				continue
			}
			if line, ok := first[key.Value]; ok {
				d.report.at(originOf(key), "%s: the key is given twice, first on line %d", p.Key(key.Value), line)
				continue
			}
			first[key.Value] = key.Line
			d.report.keys[p.Key(key.Value)] = originOf(key)
			if !yield(key.Value, value) {
				return
			}
		}
	}
}

// list decodes a list. An element that cannot be understood stays as an empty
// one, so that the others keep their index.
func (d decoder) list(n *yaml.Node, t reflect.Type, p settings.Path) (any, bool) {
	if n.Kind != yaml.SequenceNode {
		return d.wrongKind(n, t, p)
	}
	list := make([]any, len(n.Content))
	for i, element := range n.Content {
		list[i], _ = d.value(element, t.Elem(), p.Index(i))
	}
	return list, true
}

func (d decoder) scalar(n *yaml.Node, t reflect.Type, p settings.Path) (any, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		return d.wrongKind(n, t, p)
	}
	if t.Kind() == reflect.String && n.ShortTag() != "!!str" {
		return d.refuse(n, t, p, n.Value+": not a string; write it in quotes, as in "+strconv.Quote(n.Value))
	}
	v, err := parseScalar(t, n.Value)
	if err != nil {
		return d.refuse(n, t, p, err.Error())
	}
	if t != durationType && t.Kind() != reflect.String && n.ShortTag() == "!!str" {
		return d.refuse(n, t, p, settings.Quote(n.Value)+": not "+want(t)+"; write it without quotes")
	}
	return v, true
}

func (d decoder) wrongKind(n *yaml.Node, t reflect.Type, p settings.Path) (any, bool) {
	return d.refuse(n, t, p, describe(n)+": not "+want(t))
}

// refuse reports the node, and gives an empty value of the type.
func (d decoder) refuse(n *yaml.Node, t reflect.Type, p settings.Path, message string) (any, bool) {
	d.report.at(originOf(n), "%s", in(p, message))
	d.report.fault(p)
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return map[string]any{}, false
	case reflect.Slice:
		return []any{}, false
	default:
		return reflect.Zero(t).Interface(), false
	}
}

// in puts the path, if there is one, before a message.
func in(p settings.Path, message string) string {
	if p == "" {
		return message
	}
	return string(p) + ": " + message
}

func originOf(n *yaml.Node) origin { return origin{line: n.Line, column: n.Column, style: n.Style} }

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// coreTag tells whether the node's type is one of plain YAML, and of the kind
// that the node has.
func coreTag(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!map":
		return n.Kind == yaml.MappingNode
	case "!!seq":
		return n.Kind == yaml.SequenceNode
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp":
		return n.Kind == yaml.ScalarNode
	}
	return false
}

// describe says in words what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "*" + n.Value
	}
	switch n.ShortTag() {
	case "!!null":
		return "null"
	case "!!str":
		return settings.Quote(n.Value)
	}
	return n.Value
}
