package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

func validateSinks(c *Config, r *report) {
	const at settings.Path = "sinks"
	if len(c.Sinks) == 0 {
		r.Value(at, "missing; at least one sink has to be there")
	}
	taken := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		at := at.Key(name)
		if len(validation.IsDNS1123Label(name)) > 0 {
			r.key(at, "%s", label)
		}
		var kinds []string
		for kind, of := range c.Sinks[name].kinds() {
			kinds = append(kinds, kind)
			of.Validate(at.Key(kind), r)
			if exclusive, is := of.(sinks.Exclusive); is {
				validateExclusive(c, exclusive, name, at.Key(kind), taken, r)
			}
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

// validateExclusive reports what one sink at most can have, and no standby. By
// what there is, taken says which sink has it.
func validateExclusive(c *Config, of sinks.Exclusive, name string, at settings.Path, taken map[string]string, r *report) {
	key, all := of.Exclusive()
	for _, what := range all {
		if first, is := taken[what]; is {
			r.Value(at.Key(key), "%s is that of sink %s; give each its own", what, settings.Quote(first))
			continue
		}
		taken[what] = name
	}
	if c.LeaderElection.Enabled && len(all) > 0 {
		r.Value(at.Key(key), "what it keeps is of one bridge, and leaderElection.enabled has several: another leader would have none of it; leave one of the two out")
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
