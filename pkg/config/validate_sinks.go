package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/crbridge/crbridge/pkg/settings"
)

func validateSinks(c *Config, r *report) {
	const at settings.Path = "sinks"
	if len(c.Sinks) == 0 {
		r.Value(at, "missing; at least one sink has to be there")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		at := at.Key(name)
		if len(validation.IsDNS1123Label(name)) > 0 {
			r.key(at, "%s", label)
		}
		var kinds []string
		for kind, of := range c.Sinks[name].kinds() {
			kinds = append(kinds, kind)
			of.Validate(at.Key(kind), r)
		}
		switch len(kinds) {
		case 0:
			r.Value(at, "no kind of sink; write %s, with its keys", kindNames())
		case 1:
		default:
			r.Value(at, "%s: more than one kind of sink; keep one, and make others sinks of their own", strings.Join(kinds, ", "))
		}
	}
}

// kindNames are the kinds of sinks that there are.
func kindNames() string {
	kinds := fieldsOf(reflect.TypeFor[Sink]())
	names := make([]string, len(kinds))
	for i, f := range kinds {
		names[i] = f.name
	}
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
