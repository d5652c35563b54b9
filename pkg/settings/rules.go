package settings

import (
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"strings"
)

// RuleTag is the struct tag with what has to hold for a key's value, in words
// that are separated by commas: one of the form's names, which is that of each
// element of a list or each name of a mapping, and those of Rule.
const RuleTag = "rule"

// Rule is what has to hold for a value besides its type. What depends on other
// keys or on the world is not in it.
type Rule struct {
	Form     string // one of FormsOf the struct; empty: any value of the type
	Required bool   // there is no default; a list or mapping has an element
	Nonempty bool   // a list has an element
	Unique   bool   // no element is in the list twice
	Choice   bool   // of all fields that say so, exactly one is given
	Empty    bool   // an empty string is a value too, and means the default
}

// ParseRule reads a tag, in which one of the forms may be.
func ParseRule(tag string, forms map[string]Form) (r Rule, err error) {
	if tag == "" {
		return r, nil
	}
	for word := range strings.SplitSeq(tag, ",") {
		switch word {
		case "required":
			r.Required = true
		case "nonempty":
			r.Nonempty = true
		case "unique":
			r.Unique = true
		case "choice":
			r.Choice = true
		case "empty":
			r.Empty = true
		default:
			if _, is := forms[word]; !is || r.Form != "" {
				return r, fmt.Errorf("%s:%q: %q is no rule, no form or a second one", RuleTag, tag, word)
			}
			r.Form = word
		}
	}
	return r, nil
}

// Form is a sort of value. A regular expression is in what RE2 and ECMA-262
// have in common, and is for the whole value. It takes everything that validate
// takes, and may take more: it is for those who have nothing but the schema.
type Form struct {
	Title   string // what a value is, in words
	Pattern string
	Never   string // a beginning that no value has
	Longest int    // in characters; 0 is without limit
	Min     int64  // of a number
	Max     int64  // of a number; 0 is without limit
}

const (
	labelPattern = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
	label1035    = `[a-z]([-a-z0-9]*[a-z0-9])?`
	pathName     = `[A-Za-z_][A-Za-z0-9_-]*`
	pathBracket  = `\[(\*|[0-9]+|'([^'\\]|\\['\\])*'|"([^"\\]|\\["\\])*")\]`
)

// forms are the sorts of values that anything may have, by the name that a rule
// tag has.
var forms = map[string]Form{
	"label":     {Title: "DNS-1123 label", Pattern: labelPattern, Longest: 63},
	"subdomain": {Title: "DNS-1123 subdomain", Pattern: labelPattern + `(\.` + labelPattern + `)*`, Longest: 253},
	"version":   {Title: "version", Pattern: label1035, Longest: 63},
	"crd":       {Title: "CRD pattern", Pattern: `\*|(\*|` + label1035 + `)\.` + labelPattern + `(\.` + labelPattern + `)+`, Longest: 253},
	"path":      {Title: "field path", Pattern: `(` + pathName + `|` + pathBracket + `)(\.` + pathName + `|` + pathBracket + `)*`},
	"address":   {Title: "host:port", Pattern: `[\s\S]*:[0-9]+`},
	"host":      {Title: "host name or IP address", Pattern: `[A-Za-z0-9.:-]+(%[\s\S]+)?`},
	"file":      {Title: "file name", Pattern: `[^\x00\n\r]*`, Never: "-----BEGIN"},
	"limit":     {}, // 0 or more
}

// Formed is a struct that has forms of its own, by the name that the rule tags
// of its fields have.
type Formed interface {
	Forms() map[string]Form
}

// FormsOf are the forms that the rule tags of a struct's fields may name.
func FormsOf(t reflect.Type) map[string]Form {
	all := maps.Clone(forms)
	if own, has := reflect.TypeAssert[Formed](reflect.Zero(t)); has {
		maps.Copy(all, own.Forms())
	}
	return all
}

// Regexp is for the whole of a value.
func (f Form) Regexp() *regexp.Regexp { return regexp.MustCompile(`^(` + f.Pattern + `)$`) }

// DurationForm is that of every duration.
var DurationForm = Form{Title: "duration", Pattern: `[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+`}

// ID is what the comment above a struct's field is known by:
// "package.Type.Field", with the last element of the package's path.
func ID(t reflect.Type, field string) string {
	return path.Base(t.PkgPath()) + "." + t.Name() + "." + field
}
