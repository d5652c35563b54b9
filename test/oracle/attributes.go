package oracle

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const defaultSubject = "k8s.{cluster}.{group}.{resource}.{namespace}.{name}"

// attributes judges the form of an event, and finds its route and resource;
// without these nothing else can be judged.
func (c *checker) attributes(m *Message) (*Route, Resource, bool) {
	e, a := m.Event, m.Event.Attributes
	for _, problem := range e.problems {
		c.violate(Attributes, m, "%s", problem)
	}
	route := c.routes[a["route"]]
	if route == nil {
		c.violate(Attributes, m, "there is no route %q", a["route"])
		return nil, Resource{}, false
	}
	resource, ok := c.resource(route, a["source"])
	if !ok {
		c.violate(Attributes, m, "source %q is none of the route's", a["source"])
		return nil, Resource{}, false
	}
	kinds := []string{Existing, Created, Updated, Deleted, Deselected}
	if a["type"] != typePrefix+e.Kind+typeSuffix || !slices.Contains(kinds, e.Kind) {
		c.violate(Attributes, m, "type is %q", a["type"])
		return nil, Resource{}, false
	}
	subject := a["name"]
	if namespace, ok := a["namespace"]; ok {
		subject = namespace + "/" + subject
	}
	id := plainID(a)
	if e.Resync > 0 && e.Kind == Existing {
		id += fmt.Sprintf(".r%d", e.Resync)
	}
	if e.Listed > 0 && e.Kind == Existing && route.Changing {
		id += fmt.Sprintf(".s%d", e.Listed)
	}
	group, version, _ := strings.Cut(a["apiversion"], "/")
	if group != resource.Group || version == "" {
		c.violate(Attributes, m, "apiversion is %q", a["apiversion"])
	}
	for _, is := range []struct{ name, got, want string }{
		{"specversion", a["specversion"], "1.0"},
		{"datacontenttype", a["datacontenttype"], "application/json"},
		{"subject", a["subject"], subject},
		{"partitionkey", a["partitionkey"], subject},
		{"id", a["id"], id},
		{"Nats-Msg-Id", m.Header.Get("Nats-Msg-Id"), a["id"]},
		{"resourceversion", a["resourceversion"], fmt.Sprint(e.Revision)},
		{"sequence", a["sequence"], fmt.Sprintf("%020d", e.at())},
		{"the NATS subject", m.Subject, c.subject(route, resource, e)},
	} {
		if is.got != is.want {
			c.violate(Attributes, m, "%s is %q, not %q", is.name, is.got, is.want)
		}
	}
	for _, name := range []string{"kind", "name", "uid", "time"} {
		if a[name] == "" {
			c.violate(Attributes, m, "there is no %s", name)
		}
	}
	if _, err := time.Parse(time.RFC3339Nano, a["time"]); err != nil && a["time"] != "" {
		c.violate(Attributes, m, "time is %q", a["time"])
	}
	c.flag(m, "inferred", Deleted)
	c.flag(m, "coalesced", Updated)
	c.identity(m, route)
	return route, resource, true
}

// flag judges an attribute that is true on some events of one kind, and absent
// otherwise.
func (c *checker) flag(m *Message, name, kind string) {
	value, ok := m.Event.Attributes[name]
	if ok && (value != "true" || m.Event.Kind != kind) {
		c.violate(Attributes, m, "%s is %q on an event of kind %s", name, value, m.Event.Kind)
	}
}

// identity judges whether the data is about the object that the attributes name.
func (c *checker) identity(m *Message, route *Route) {
	if !route.Data {
		return
	}
	a, who := m.Event.Attributes, m.Event.who
	if m.Event.dataErr != nil {
		c.violate(Attributes, m, "its data: %v", m.Event.dataErr)
		return
	}
	for _, is := range []struct{ name, data, attribute string }{
		{"apiversion", who.apiVersion, a["apiversion"]},
		{"kind", who.kind, a["kind"]},
		{"namespace", who.namespace, a["namespace"]},
		{"name", who.name, a["name"]},
		{"uid", who.uid, a["uid"]},
	} {
		if is.data != is.attribute {
			c.violate(Attributes, m, "%s is %q, and %q in the data", is.name, is.attribute, is.data)
		}
	}
}

// resource finds the route's resource that the source names.
func (c *checker) resource(route *Route, source string) (Resource, bool) {
	for _, r := range route.Resources {
		if source == "/clusters/"+c.expected.Cluster+"/apis/"+r.Group+"/"+r.Plural {
			return r, true
		}
	}
	return Resource{}, false
}

// subject is the NATS subject that the route's template makes of the event.
func (c *checker) subject(route *Route, resource Resource, e *Event) string {
	template := route.Subject
	if template == "" {
		template = defaultSubject
	}
	_, version, _ := strings.Cut(e.Attributes["apiversion"], "/")
	namespace := "_"
	if value, ok := e.Attributes["namespace"]; ok {
		namespace = token(value)
	}
	return strings.NewReplacer(
		"{cluster}", token(c.expected.Cluster),
		"{group}", token(resource.Group),
		"{version}", token(version),
		"{kind}", token(e.Attributes["kind"]),
		"{resource}", token(resource.Plural),
		"{namespace}", namespace,
		"{name}", token(e.Attributes["name"]),
		"{event}", token(e.Kind),
		"{route}", token(route.Name),
	).Replace(template)
}

// token writes a value as one token of a NATS subject.
func token(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
			b.WriteByte(c)
		case c == '.':
			b.WriteByte('_')
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}
