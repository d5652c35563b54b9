package events_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/crbridge/crbridge/pkg/events"
)

// everyField has a value of its own for each field, so that none can stand in
// for another.
var everyField = events.Fields{
	Cluster: "demo", Group: "shop.example.com", Version: "v1", Kind: "Order", Resource: "orders",
	Namespace: "eu", Name: "o-1.a", Event: "created", Route: "audit",
}

func TestSubjectTemplate(t *testing.T) {
	for name, row := range map[string]struct {
		reason                        string
		template                      string
		fields                        events.Fields
		subject, wildcard, fieldNames string
	}{
		"default": {
			reason:     "the contract's default",
			template:   "k8s.{cluster}.{group}.{resource}.{namespace}.{name}",
			fields:     everyField,
			subject:    "k8s.demo.shop_example_com.orders.eu.o-1_a",
			wildcard:   "k8s.*.*.*.*.*",
			fieldNames: "cluster group resource namespace name",
		},
		"every field": {
			reason:     "each name of the contract gives its own value",
			template:   "{cluster}.{group}.{version}.{kind}.{resource}.{namespace}.{name}.{event}.{route}",
			fields:     everyField,
			subject:    "demo.shop_example_com.v1.Order.orders.eu.o-1_a.created.audit",
			wildcard:   "*.*.*.*.*.*.*.*.*",
			fieldNames: "cluster group version kind resource namespace name event route",
		},
		"cluster-scoped": {
			reason:     "the namespace's place is kept, so that one subscription's tokens always mean the same",
			template:   "k8s.{namespace}.{name}",
			fields:     events.Fields{Name: "north"},
			subject:    "k8s._.north",
			wildcard:   "k8s.*.*",
			fieldNames: "namespace name",
		},
		"no field": {
			reason:   "one subject for everything is a choice",
			template: "k8s.all",
			fields:   everyField,
			subject:  "k8s.all",
			wildcard: "k8s.all",
		},
		"field beside text": {
			reason:     "a wildcard is a whole token; NATS takes k8s-* for a literal",
			template:   "k8s-{cluster}.x.{kind}-{event}-y.z",
			fields:     everyField,
			subject:    "k8s-demo.x.Order-created-y.z",
			wildcard:   "*.x.*.z",
			fieldNames: "cluster kind event",
		},
		"field twice": {
			reason:     "nothing is wrong with it",
			template:   "{kind}.{kind}",
			fields:     everyField,
			subject:    "Order.Order",
			wildcard:   "*.*",
			fieldNames: "kind",
		},
		"field alone": {
			reason:     "the shortest template with a field",
			template:   "{name}",
			fields:     everyField,
			subject:    "o-1_a",
			wildcard:   "*",
			fieldNames: "name",
		},
		"value that looks like NATS syntax": {
			reason:     "no value becomes a wildcard, a second token or a header line",
			template:   "k8s.{name}.{namespace}",
			fields:     events.Fields{Name: "*", Namespace: "> \r\n"},
			subject:    "k8s.=2A.=3E=20=0D=0A",
			wildcard:   "k8s.*.*",
			fieldNames: "namespace name",
		},
		"value that is empty": {
			reason:     "an empty token would be refused by the server",
			template:   "k8s.{name}",
			fields:     events.Fields{},
			subject:    "k8s.=",
			wildcard:   "k8s.*",
			fieldNames: "name",
		},
	} {
		t.Run(name, func(t *testing.T) {
			template, err := events.ParseSubject(row.template)
			if err != nil {
				t.Fatalf("%s: %v", row.reason, err)
			}
			subject := template.Expand(row.fields)
			if subject != row.subject {
				t.Errorf("%s\nsubject %s\n   want %s", row.reason, subject, row.subject)
			}
			if got := template.Wildcard(); got != row.wildcard {
				t.Errorf("%s\nwildcard %s\n    want %s", row.reason, got, row.wildcard)
			}
			if !server.IsValidLiteralSubject(subject) || !server.SubjectMatchesFilter(subject, template.Wildcard()) {
				t.Errorf("%s: nats-server does not match %s with %s", row.reason, subject, template.Wildcard())
			}
			var has []string
			for field := range strings.FieldsSeq("cluster group version kind resource namespace name event route nope") {
				if template.Has(field) {
					has = append(has, field)
				}
			}
			if got := strings.Join(has, " "); got != row.fieldNames {
				t.Errorf("%s\n  fields %s\n    want %s", row.reason, got, row.fieldNames)
			}
		})
	}
}

func TestParseSubjectErrors(t *testing.T) {
	const emptyToken = "a token between two dots, before the first or after the last is empty"
	for name, row := range map[string]struct {
		reason, template, want string
	}{
		"empty":                 {"there is nothing to publish to", "", `"": ` + emptyToken},
		"starts with a dot":     {"NATS refuses empty tokens", ".k8s", `".k8s": ` + emptyToken},
		"ends with a dot":       {"NATS refuses empty tokens", "k8s.", `"k8s.": ` + emptyToken},
		"two dots":              {"NATS refuses empty tokens", "k8s..{name}", `"k8s..{name}": ` + emptyToken},
		"asterisk":              {"only subscribers use wildcards", "k8s.*", `"k8s.*": "*": a subject to publish to has no wildcards`},
		"asterisk beside text":  {"legal in NATS, but a typing error of a wildcard", "k8s.a*", `"k8s.a*": "a*": a subject to publish to has no wildcards`},
		"greater-than":          {"only subscribers use wildcards", "k8s.>", `"k8s.>": ">": a subject to publish to has no wildcards`},
		"space":                 {"it would end the subject in the protocol", "k8s .x", `"k8s .x": "k8s ": white space and control characters cannot be in a subject`},
		"line feed":             {"it would end the protocol's line", "k8s\n", `"k8s\n": "k8s\n": white space and control characters cannot be in a subject`},
		"delete character":      {"nobody could type the subscription", "k8s\x7f", `"k8s\x7f": "k8s\x7f": white space and control characters cannot be in a subject`},
		"not ASCII":             {"NATS recommends ASCII; some clients refuse more", "k8s.é", `"k8s.é": "é": only ASCII is safe in a subject`},
		"not UTF-8":             {"a stream's subjects are JSON", "k8s.\xff", `"k8s.\xff": "\xff": only ASCII is safe in a subject`},
		"unknown field":         {"the error lists the fields that there are", "k8s.{nam}", `"k8s.{nam}": there is no field "{nam}"; fields are {cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`},
		"field in upper case":   {"names are exact", "{Name}", `"{Name}": there is no field "{Name}"; fields are {cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`},
		"field without a name":  {"as any unknown one", "{}", `"{}": there is no field "{}"; fields are {cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`},
		"opened only":           {"a missing brace is no literal", "k8s.{name", `"k8s.{name": a { without its }`},
		"closed only":           {"a missing brace is no literal", "k8s.name}", `"k8s.name}": a } without its {`},
		"closed before opened":  {"the first brace that is wrong is told", "}{name}", `"}{name}": a } without its {`},
		"brace within a field":  {"there is no nesting", "{{name}}", `"{{name}}": there is no field "{{name}"; fields are {cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`},
		"line feed in a field":  {"an error is one line, whatever is in it", "{\n}", `"{\n}": there is no field "{\n}"; fields are {cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`},
		"dot at a field's edge": {"the token after it is empty", "{name}.", `"{name}.": ` + emptyToken},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := events.ParseSubject(row.template)
			if got := fmt.Sprint(err); got != row.want {
				t.Errorf("%s\n got %s\nwant %s", row.reason, got, row.want)
			}
		})
	}
}

func TestToken(t *testing.T) {
	for _, row := range []struct {
		reason, value, want string
	}{
		{"letters, digits and - stay as they are", "Az09-", "Az09-"},
		{"a dot would start a new token", "shop.example.com", "shop_example_com"},
		{"so _ itself must not stay", "_", "=5F"},
		{"nor may =, which starts a code", "=5F", "=3D5F"},
		{"two digits, upper case, also below 16", "\n", "=0A"},
		{"bytes, not characters, so that no Unicode form matters", "é", "=C3=A9"},
		{"bytes that are no UTF-8 have tokens too", "\xff\x00", "=FF=00"},
		{"wildcards lose their meaning", "*>", "=2A=3E"},
		{"$ could name NATS's own subjects", "$SYS", "=24SYS"},
		{"a colon is legal in some Kubernetes names", "system:x", "system=3Ax"},
		{"empty is no token in NATS; no other value has this one", "", "="},
	} {
		if got := events.Token(row.value); got != row.want {
			t.Errorf("%s: Token(%q) = %s, want %s", row.reason, row.value, got, row.want)
		}
	}
}

// untoken reads a token by the contract's words, not by the code of Token.
func untoken(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	var value []byte
	for token != "" {
		switch c := token[0]; {
		case c == '_':
			value, token = append(value, '.'), token[1:]
		case c == '=':
			if len(token) < 3 {
				return "", fmt.Errorf("%q: a code that is cut off", token)
			}
			code, err := strconv.ParseUint(token[1:3], 16, 8)
			if err != nil || strings.ToUpper(token[1:3]) != token[1:3] {
				return "", fmt.Errorf("%q: not a code", token[:3])
			}
			value, token = append(value, byte(code)), token[3:]
		case strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-", c) >= 0:
			value, token = append(value, c), token[1:]
		default:
			return "", fmt.Errorf("%q: no byte of a token", c)
		}
	}
	return string(value), nil
}

// FuzzToken: Token is injective, as what it does can be undone, and always
// gives exactly one token.
func FuzzToken(f *testing.F) {
	for _, seed := range []string{"", "o-1", "shop.example.com", "_", "=", "=5F", "$SYS.>", "*", "é\xff\x00\r\n "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		token := events.Token(value)
		back, err := untoken(token)
		if err != nil {
			t.Fatalf("Token(%q) = %q: %v", value, token, err)
		}
		if back != value {
			t.Errorf("Token(%q) = %q, which reads %q", value, token, back)
		}
		if strings.Contains(token, ".") || !server.IsValidSubject(token) || !server.IsValidLiteralSubject(token) {
			t.Errorf("Token(%q) = %q is not one literal token", value, token)
		}
	})
}

// FuzzParseSubject: what parses can be published to whatever the values, is
// matched by its own wildcard, and has as many tokens as the template.
func FuzzParseSubject(f *testing.F) {
	for _, seed := range []string{
		"k8s.{cluster}.{group}.{resource}.{namespace}.{name}", "{version}{kind}.{event}-{route}", "a", "a..b", "{", "}", "{}", "k8s.>", "é.{name} ", "{\n}",
	} {
		f.Add(seed, "demo", "eu", "o-1")
		f.Add(seed, "", "", "*.> \xff\x00\r\n")
	}
	f.Fuzz(func(t *testing.T, text, cluster, namespace, name string) {
		template, err := events.ParseSubject(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error is more than one line: %q", err)
			}
			return
		}
		fields := events.Fields{
			Cluster: cluster, Group: name, Version: cluster, Kind: namespace, Resource: cluster,
			Namespace: namespace, Name: name, Event: name, Route: namespace,
		}
		subject, wildcard := template.Expand(fields), template.Wildcard()
		// JetStream, unlike core NATS, also refuses white space and broken UTF-8.
		if !server.IsValidPublishSubject(subject) || !server.IsValidSubject(subject) || strings.ContainsAny(subject, " \t\r\n\f\x00") {
			t.Errorf("%q gives %q, which nats-server does not take", text, subject)
		}
		if !server.IsValidSubject(wildcard) || !server.SubjectMatchesFilter(subject, wildcard) || !server.SubjectsCollide(subject, wildcard) {
			t.Errorf("%q: %q does not match %q", text, subject, wildcard)
		}
		if got, want := strings.Count(subject, "."), strings.Count(text, "."); got != want {
			t.Errorf("%q gives %q: %d dots instead of %d", text, subject, got, want)
		}
	})
}
