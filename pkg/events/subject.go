package events

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Fields are the values that a subject template can name.
type Fields struct {
	Cluster, Group, Version, Kind, Resource, Namespace, Name, Event, Route string
}

// fieldNames are the fields of a template, in the order in which errors list them.
var fieldNames = []string{"cluster", "group", "version", "kind", "resource", "namespace", "name", "event", "route"}

func (f *Fields) value(name string) string {
	switch name {
	case "cluster":
		return f.Cluster
	case "group":
		return f.Group
	case "version":
		return f.Version
	case "kind":
		return f.Kind
	case "resource":
		return f.Resource
	case "namespace":
		return f.Namespace
	case "name":
		return f.Name
	case "event":
		return f.Event
	case "route":
		return f.Route
	}
	panic("events: no subject field " + name) // ParseSubject lets no other name in
}

// SubjectTemplate is a NATS subject with fields in it, such as
// "k8s.{cluster}.{group}.{resource}.{namespace}.{name}".
type SubjectTemplate struct {
	parts []part
}

// part is a literal piece of a subject or, with field set, a placeholder.
type part struct {
	text  string
	field bool
}

// ParseSubject reads a template. It refuses an unknown field, and anything
// that could not be published to: wildcards, empty tokens, white space.
func ParseSubject(template string) (*SubjectTemplate, error) {
	t := &SubjectTemplate{}
	rest := template
	for rest != "" {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			t.parts = append(t.parts, part{text: rest})
			break
		}
		if rest[open] == '}' {
			return nil, fmt.Errorf("%q: a } without its {", template)
		}
		if open > 0 {
			t.parts = append(t.parts, part{text: rest[:open]})
		}
		length := strings.IndexByte(rest[open:], '}')
		if length < 0 {
			return nil, fmt.Errorf("%q: a { without its }", template)
		}
		name := rest[open+1 : open+length]
		if !slices.Contains(fieldNames, name) {
			return nil, fmt.Errorf("%q: there is no field %q; fields are {%s}", template, "{"+name+"}", strings.Join(fieldNames, "} {"))
		}
		t.parts = append(t.parts, part{text: name, field: true})
		rest = rest[open+length+1:]
	}
	for token := range strings.SplitSeq(template, ".") {
		if err := checkToken(token); err != nil {
			return nil, fmt.Errorf("%q: %w", template, err)
		}
	}
	return t, nil
}

// checkToken applies the rules for a subject's tokens of
// https://docs.nats.io/nats-concepts/subjects to one token of a template.
func checkToken(token string) error {
	if token == "" {
		return fmt.Errorf("a token between two dots, before the first or after the last is empty")
	}
	for _, r := range token {
		switch {
		case r == '*' || r == '>':
			return fmt.Errorf("%q: a subject to publish to has no wildcards", token)
		case r <= ' ' || r == 0x7f:
			return fmt.Errorf("%q: white space and control characters cannot be in a subject", token)
		case r > 0x7f:
			return fmt.Errorf("%q: only ASCII is safe in a subject", token)
		}
	}
	return nil
}

// Has tells whether the template names the field.
func (t *SubjectTemplate) Has(field string) bool {
	return slices.Contains(t.parts, part{text: field, field: true})
}

// Expand puts the values into the template. Each field becomes part of
// exactly one token, whatever its value.
func (t *SubjectTemplate) Expand(f Fields) string {
	var b strings.Builder
	for _, p := range t.parts {
		switch {
		case !p.field:
			b.WriteString(p.text)
		case p.text == "namespace" && f.Namespace == "":
			b.WriteByte('_') // cluster-scoped; no namespace's token is "_", as its own _ becomes =5F
		default:
			writeToken(&b, f.value(p.text))
		}
	}
	return b.String()
}

// Wildcard is the subject that matches all that Expand can give and no less:
// each token that has a field in it is "*".
func (t *SubjectTemplate) Wildcard() string { return t.Pattern(Fields{}) }

// Pattern is the subject that matches all that Expand can give for the fields
// that are set: a token that has another field in it is "*".
func (t *SubjectTemplate) Pattern(f Fields) string {
	var tokens []string
	var token strings.Builder
	wild := false
	flush := func() {
		if wild {
			token.Reset()
			token.WriteByte('*')
		}
		tokens = append(tokens, token.String())
		token.Reset()
		wild = false
	}
	for _, p := range t.parts {
		if p.field {
			value := f.value(p.text)
			wild = wild || value == ""
			writeToken(&token, value)
			continue
		}
		for i, literal := range strings.Split(p.text, ".") {
			if i > 0 {
				flush()
			}
			token.WriteString(literal)
		}
	}
	flush()
	return strings.Join(tokens, ".")
}

// Token is the value as exactly one token of a NATS subject: A-Z a-z 0-9 and -
// stay, "." becomes "_", every other byte becomes =HH in upper-case
// hexadecimal. No two values have the same token. The empty value, which no
// Kubernetes name has, is "=".
func Token(value string) string {
	var b strings.Builder
	writeToken(&b, value)
	return b.String()
}

func writeToken(b *strings.Builder, value string) {
	const hex = "0123456789ABCDEF"
	if value == "" {
		b.WriteByte('=')
	}
	for i := range len(value) {
		c := value[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		case c == '.':
			b.WriteByte('_')
		default:
			b.WriteByte('=')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
}

// Untoken is the value that a token stands for; ok is false where it is none
// that Token makes.
func Untoken(token string) (value string, ok bool) {
	if token == "=" {
		return "", true
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		switch c := token[i]; c {
		case '_':
			b.WriteByte('.')
		case '=':
			if i+2 >= len(token) {
				return "", false
			}
			n, err := strconv.ParseUint(token[i+1:i+3], 16, 8)
			if err != nil {
				return "", false
			}
			b.WriteByte(byte(n))
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	value = b.String()
	return value, token != "" && Token(value) == token
}
