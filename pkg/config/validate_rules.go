package config

import (
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/events/fieldpath"
	"github.com/crbridge/crbridge/pkg/events/when"
)

// validateRules reports what is wrong with what a route selects, filters and
// sends.
func validateRules(route *Route, at path, r *report) {
	for i, namespace := range route.Namespaces {
		if r.label(at.key("namespaces").index(i), namespace) && slices.Contains(route.Namespaces[:i], namespace) {
			r.value(at.key("namespaces").index(i), "%s: listed twice", quote(namespace))
		}
	}
	if _, err := labels.Parse(route.LabelSelector); err != nil {
		r.value(at.key("labelSelector"), "%s: not a label selector: %s; write it as for kubectl's -l, as in app=web,tier in (a, b),!old",
			quote(route.LabelSelector), selectorWords(err))
	}
	validateFieldSelector(route, at.key("fieldSelector"), r)
	validateWhen(route, at.key("when"), r)
	for i, text := range route.Changes.Ignore {
		_, err := fieldpath.Parse(text)
		r.fieldPath(at.key("changes").key("ignore").index(i), text, err)
	}
	validatePayload(&route.Payload, at.key("payload"), r)
}

// selectorWords is what a parser of selectors says, on one line.
func selectorWords(err error) string {
	return strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "unable to parse requirement: ")), " ")
}

func validateFieldSelector(route *Route, at path, r *report) {
	selector, err := fields.ParseSelector(route.FieldSelector)
	if err != nil {
		r.value(at, "%s: not a field selector: %s; write it as for kubectl's --field-selector, as in spec.color=blue,metadata.name!=test",
			quote(route.FieldSelector), selectorWords(err))
		return
	}
	for _, requirement := range selector.Requirements() {
		if _, err := fieldpath.Parse(requirement.Field); err != nil {
			r.value(at, "%s: %s is not the name of a field; write metadata.name, metadata.namespace or one of the CRD's selectableFields, as in spec.color",
				quote(route.FieldSelector), quote(requirement.Field))
		}
	}
}

func validateWhen(route *Route, at path, r *report) {
	if route.When == "" || r.unknown(at) {
		return
	}
	_, err := when.Compile(route.When)
	if wrong, is := errors.AsType[*when.Error](err); is {
		origin, exact := r.inside(at, wrong.Line, wrong.Column)
		message := strings.Join(strings.Fields(wrong.Message), " ")
		if exact {
			r.at(origin, "%s: %s", at, message)
		} else {
			r.at(origin, "%s: line %d, column %d of the expression: %s", at, wrong.Line, wrong.Column, message)
		}
		return
	}
	if err != nil {
		r.value(at, "%s", err)
		return
	}
	ends := func(t events.Type) bool { return t == events.Deleted || t == events.Deselected }
	if len(route.Events) > 0 && !slices.ContainsFunc(route.Events, func(t events.Type) bool { return !ends(t) }) {
		r.value(at, "nothing would ever be sent: deleted and deselected are only for objects of which something was sent before; add other types to events, or leave when out")
	}
}

func validatePayload(p *Payload, at path, r *report) {
	oneOf(r, at.key("content"), p.Content, ContentObject, ContentMetadata, ContentChange)
	check := func(key string, i int, text string, o events.PayloadOptions) {
		_, err := events.NewPayload(o)
		if option, is := errors.AsType[*events.OptionError](err); is {
			err = option.Err
		}
		r.fieldPath(at.key(key).index(i), text, err)
	}
	for i, text := range p.Drop {
		check("drop", i, text, events.PayloadOptions{Drop: []string{text}})
	}
	for i, text := range p.Redact {
		check("redact", i, text, events.PayloadOptions{Redact: []string{text}})
	}
	var redacts []string
	if len(p.Redact) > 0 {
		redacts = []string{"spec"} // any path: that there is one matters
	}
	for i, text := range p.Keep {
		check("keep", i, text, events.PayloadOptions{Keep: []string{text}, Redact: redacts})
	}
}

// fieldPath reports what is wrong with a field path, where in it that is.
func (r *report) fieldPath(at path, text string, err error) {
	if err == nil || r.unknown(at) {
		return
	}
	syntax, is := errors.AsType[*fieldpath.SyntaxError](err)
	if !is {
		r.value(at, "%s", err)
		return
	}
	origin, exact := r.inside(at, 1, syntax.Column)
	if exact {
		r.at(origin, "%s: %s: not a field path: %s", at, quote(text), syntax.Message)
	} else {
		r.at(origin, "%s: %s: not a field path: column %d: %s", at, quote(text), syntax.Column, syntax.Message)
	}
}

// inside is where in the file a place within a string is, both counted from 1.
// Where that cannot be told for sure, it is the string's own place, and exact is
// false.
func (r *report) inside(at path, line, column int) (o origin, exact bool) {
	o = r.origin(at)
	if o.variable != "" || !r.written(at) {
		return o, false
	}
	switch o.style {
	case yaml.LiteralStyle:
		n := o.line + line // the text begins on the line after the |
		if n > len(r.lines) {
			return o, false
		}
		return origin{line: n, column: r.indent(o.line) + column}, true
	case 0, yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		if line != 1 || o.line > len(r.lines) {
			return o, false
		}
		text := []rune(r.lines[o.line-1])
		begin := o.column - 1
		if o.style != 0 {
			begin++
		}
		end := begin + column - 1
		// An escape before the place, or a value that goes on on another line,
		// has other columns than the file.
		if end > len(text) || begin > end {
			return o, false
		}
		before := string(text[begin:end])
		if o.style == yaml.SingleQuotedStyle && strings.Contains(before, "'") || o.style == yaml.DoubleQuotedStyle && strings.Contains(before, `\`) {
			return o, false
		}
		return origin{line: o.line, column: end + 1}, true
	}
	return o, false
}

// indent is by how much the text of a block that begins after the line is
// indented.
func (r *report) indent(line int) int {
	for _, text := range r.lines[min(line, len(r.lines)):] {
		if trimmed := strings.TrimLeft(text, " "); strings.TrimSpace(trimmed) != "" {
			return len(text) - len(trimmed)
		}
	}
	return 0
}
