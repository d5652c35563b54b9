package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/crbridge/crbridge/pkg/events"
)

// ruleTag is the struct tag with what has to hold for a key's value, in words
// that are separated by commas: one of the form's names, which is that of each
// element of a list or each name of a mapping, and those of rule.
const ruleTag = "rule"

// rule is what has to hold for a value besides its type. What depends on other
// keys or on the world is not in it.
type rule struct {
	form     string // of forms; empty: any value of the type
	required bool   // there is no default; a list or mapping has an element
	nonempty bool   // a list has an element
	unique   bool   // no element is in the list twice
	empty    bool   // an empty string is a value too, and means the default
}

func parseRule(tag string) (r rule, err error) {
	if tag == "" {
		return r, nil
	}
	for word := range strings.SplitSeq(tag, ",") {
		switch word {
		case "required":
			r.required = true
		case "nonempty":
			r.nonempty = true
		case "unique":
			r.unique = true
		case "empty":
			r.empty = true
		default:
			if _, is := forms[word]; !is || r.form != "" {
				return r, fmt.Errorf("%s:%q: %q is no rule, no form or a second one", ruleTag, tag, word)
			}
			r.form = word
		}
	}
	return r, nil
}

// form is a sort of value. A regular expression is in what RE2 and ECMA-262
// have in common, and is for the whole value. It takes everything that validate
// takes, and may take more: it is for those who have nothing but the schema.
type form struct {
	title   string // what a value is, in words
	pattern string
	never   string // a beginning that no value has
	longest int    // in characters; 0 is without limit
	min     int64  // of a number
	max     int64  // of a number; 0 is without limit
}

const (
	labelPattern   = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
	label1035      = `[a-z]([-a-z0-9]*[a-z0-9])?`
	streamPattern  = `[^\x00-\x20.*>/\\\x7f]{1,255}`
	filterPattern  = `(([^\x00-\x20\x7f.>][^\x00-\x20\x7f.]*|>[^\x00-\x20\x7f.]+)\.)*[^\x00-\x20\x7f.]+`
	levelPattern   = `[^\x00-\x20\x7f.*>]+`
	prefixPattern  = levelPattern + `(\.` + levelPattern + `)*`
	templatePart   = `([\x21-\x29\x2b-\x2d\x2f-\x3d\x3f-\x7a\x7c\x7e]|\{[a-z]+\})+`
	pathName       = `[A-Za-z_][A-Za-z0-9_-]*`
	pathBracket    = `\[(\*|[0-9]+|'([^'\\]|\\['\\])*'|"([^"\\]|\\["\\])*")\]`
	schemePattern  = `([Nn][Aa][Tt][Ss]|[Tt][Ll][Ss]|[Ww][Ss][Ss]?)`
	fewestReplicas = 1
	mostReplicas   = 5
)

var forms = map[string]form{
	"label":     {title: "DNS-1123 label", pattern: labelPattern, longest: 63},
	"subdomain": {title: "DNS-1123 subdomain", pattern: labelPattern + `(\.` + labelPattern + `)*`, longest: 253},
	"version":   {title: "version", pattern: label1035, longest: 63},
	"crd":       {title: "CRD pattern", pattern: `\*|(\*|` + label1035 + `)\.` + labelPattern + `(\.` + labelPattern + `)+`, longest: 253},
	"path":      {title: "field path", pattern: `(` + pathName + `|` + pathBracket + `)(\.` + pathName + `|` + pathBracket + `)*`},
	"address":   {title: "host:port", pattern: `[\s\S]*:[0-9]+`},
	"host":      {title: "host name or IP address", pattern: `[A-Za-z0-9.:-]+(%[\s\S]+)?`},
	"file":      {title: "file name", pattern: `[^\x00\n\r]*`, never: "-----BEGIN"},
	"url":       {title: "URL", pattern: schemePattern + `://[^/@?#]+[^@]*`},
	"template":  {title: "subject template", pattern: templatePart + `(\.` + templatePart + `)*`},
	"stream":    {title: "stream name", pattern: streamPattern},
	"token":     {title: "NATS token", pattern: levelPattern},
	"prefix":    {title: "NATS subject without wildcards", pattern: prefixPattern},
	"subject":   {title: "NATS subject", pattern: filterPattern},
	"replicas":  {min: fewestReplicas, max: mostReplicas},
	"limit":     {},
}

// durationForm is that of every duration.
var durationForm = form{title: "duration", pattern: `[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+`}

// wordsOf are the values that there are of a type; none, where it has others.
func wordsOf(t reflect.Type) []string { return words[t] }

var words = map[reflect.Type][]string{
	reflect.TypeFor[LogLevel]():    {string(LogDebug), string(LogInfo), string(LogWarn), string(LogError)},
	reflect.TypeFor[LogFormat]():   {string(LogText), string(LogJSON)},
	reflect.TypeFor[ServerAuth]():  {string(AuthNone)},
	reflect.TypeFor[events.Type](): stringsOf(events.Types()),
	reflect.TypeFor[Content]():     {string(ContentObject), string(ContentMetadata), string(ContentChange)},
	reflect.TypeFor[Mode]():        {string(ModeBinary), string(ModeStructured)},
	reflect.TypeFor[Storage]():     {string(StorageFile), string(StorageMemory)},
}

func stringsOf[T ~string](values []T) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = string(v)
	}
	return all
}

// oneOf reports a value that is none of its type's.
func oneOf[T ~string](r *report, at path, value T) bool {
	allowed := wordsOf(reflect.TypeFor[T]())
	if slices.Contains(allowed, string(value)) {
		return true
	}
	last := len(allowed) - 1
	choice := allowed[last]
	if last > 0 {
		choice = strings.Join(allowed[:last], ", ") + " or " + choice
	}
	r.value(at, "%s: write %s", quote(string(value)), choice)
	return false
}
