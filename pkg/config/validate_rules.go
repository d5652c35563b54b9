package config

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/events/fieldpath"
	"github.com/crbridge/crbridge/pkg/events/when"
	"github.com/crbridge/crbridge/pkg/settings"
)

// validateRules reports what is wrong with what a route selects, filters and
// sends.
func validateRules(route *Route, at settings.Path, r *report) {
	validateNamespaces(route, at.Key("namespaces"), r)
	if _, err := labels.Parse(route.LabelSelector); err != nil {
		r.Value(at.Key("labelSelector"), "%s: not a label selector: %s; write it as for kubectl's -l, as in app=web,tier in (a, b),!old",
			settings.Quote(route.LabelSelector), selectorWords(err))
	}
	validateFieldSelector(route, at.Key("fieldSelector"), r)
	validateWhen(route, at.Key("when"), r)
	for i, text := range route.Changes.Ignore {
		_, err := fieldpath.Parse(text)
		r.fieldPath(at.Key("changes").Key("ignore").Index(i), text, err)
	}
	validatePayload(&route.Payload, at.Key("payload"), r)
}

// selectorWords is what a parser of selectors says, on one line, without what
// is repeated and without regular expressions.
func selectorWords(err error) string {
	words := strings.Join(strings.Fields(err.Error()), " ")
	words = selectorPrefix.ReplaceAllString(words, "")
	words, _, _ = strings.Cut(words, " (e.g. ")
	return words
}

var selectorPrefix = regexp.MustCompile(`^(unable to parse requirement: )?((<nil>|values\[\d+\]\[[^\]]*\]): Invalid value: |invalid selector: '.*'; |invalid field selector: )?`)

func validateFieldSelector(route *Route, at settings.Path, r *report) {
	selector, err := fields.ParseSelector(route.FieldSelector)
	if err != nil {
		r.Value(at, "%s: not a field selector: %s; write it as for kubectl's --field-selector, as in spec.color=blue,metadata.name!=test",
			settings.Quote(route.FieldSelector), selectorWords(err))
		return
	}
	for _, requirement := range selector.Requirements() {
		if !isSelectable(requirement.Field) {
			r.Value(at, "%s: %s is not the name of a field; write metadata.name, metadata.namespace or one of the CRD's selectableFields, as in spec.color",
				settings.Quote(route.FieldSelector), settings.Quote(requirement.Field))
		}
	}
}

// isSelectable applies the API server's rules for the fields of a selector, and
// for the paths in a CRD's selectableFields: no metadata, and no lists.
func isSelectable(field string) bool {
	if field == metadataName || field == metadataNamespace {
		return true
	}
	_, err := fieldpath.Parse(field)
	return err == nil && !strings.HasPrefix(field+".", "metadata.") && !listStep.MatchString(field)
}

const (
	metadataName      = "metadata.name"
	metadataNamespace = "metadata.namespace"
)

var listStep = regexp.MustCompile(`\[[0-9*]`)

// validateNamespaces reports those that are named and left out at once.
func validateNamespaces(route *Route, at settings.Path, r *report) {
	var requirements fields.Requirements
	if selector, err := fields.ParseSelector(route.FieldSelector); err == nil {
		requirements = selector.Requirements()
	}
	for i, namespace := range route.Namespaces {
		element := at.Index(i)
		if !r.label(element, namespace) {
			continue
		}
		if slices.Contains(route.Namespaces[:i], namespace) {
			r.Value(element, "%s: listed twice", settings.Quote(namespace))
			continue
		}
		for _, requirement := range requirements {
			if requirement.Field == metadataNamespace && (requirement.Operator == selection.NotEquals) == (requirement.Value == namespace) {
				r.Value(element, "%s: fieldSelector, %s, leaves all of this namespace out; drop one of the two", settings.Quote(namespace), settings.Quote(route.FieldSelector))
				break
			}
		}
	}
}

func validateWhen(route *Route, at settings.Path, r *report) {
	if route.When == "" || r.Unknown(at) {
		return
	}
	_, err := when.Compile(route.When)
	if wrong, is := errors.AsType[*when.Error](err); is {
		origin, exact := r.inside(at, route.When, wrong.Line, wrong.Column)
		message := strings.Join(strings.Fields(wrong.Message), " ")
		if exact {
			r.at(origin, "%s: %s", at, message)
		} else {
			r.at(origin, "%s: line %d, column %d of the expression: %s", at, wrong.Line, wrong.Column, message)
		}
		return
	}
	if err != nil {
		r.Value(at, "%s", err)
		return
	}
	ends := func(t events.Type) bool { return t == events.Deleted || t == events.Deselected }
	if len(route.Events) > 0 && !slices.ContainsFunc(route.Events, func(t events.Type) bool { return !ends(t) }) {
		r.Value(at, "nothing would ever be sent: deleted and deselected are only for objects of which something was sent before; add other types to events, or leave when out")
	}
}

func validatePayload(p *Payload, at settings.Path, r *report) {
	settings.OneOf(r, at.Key("content"), p.Content)
	check := func(key string, i int, text string, o events.PayloadOptions) {
		_, err := events.NewPayload(o)
		if option, is := errors.AsType[*events.OptionError](err); is {
			err = option.Err
		}
		r.fieldPath(at.Key(key).Index(i), text, err)
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
func (r *report) fieldPath(at settings.Path, text string, err error) {
	if err == nil || r.Unknown(at) {
		return
	}
	syntax, is := errors.AsType[*fieldpath.SyntaxError](err)
	if !is {
		r.Value(at, "%s", err)
		return
	}
	origin, exact := r.inside(at, text, 1, syntax.Column)
	if exact {
		r.at(origin, "%s: %s: not a field path: %s", at, settings.Quote(text), syntax.Message)
	} else {
		r.at(origin, "%s: %s: not a field path: column %d: %s", at, settings.Quote(text), syntax.Column, syntax.Message)
	}
}
