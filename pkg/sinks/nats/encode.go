package nats

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	natsgo "github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	headerPrefix     = "ce-"
	contentType      = "Content-Type"
	structuredEvents = "application/cloudevents+json"
)

// encode writes the event as a message to the subject, by the CloudEvents NATS
// protocol binding: version 1.0.3-wip, as 1.0.2 knows no headers
// (https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md).
// It is pure. The message shares the event's data. It fails only for an event
// that is no valid CloudEvent.
func encode(mode sinks.Mode, subject string, e *events.Event) (*natsgo.Msg, error) {
	if mode == sinks.Structured {
		var payload bytes.Buffer
		payload.Grow(e.Size())
		if err := event.WriteJson(&e.Event, &payload); err != nil {
			return nil, fmt.Errorf("event %s as JSON: %w", e.ID(), err)
		}
		return &natsgo.Msg{Subject: subject, Header: natsgo.Header{contentType: {structuredEvents}}, Data: payload.Bytes()}, nil
	}
	header, err := attributes(&e.Event)
	if err != nil {
		return nil, fmt.Errorf("event %s as headers: %w", e.ID(), err)
	}
	return &natsgo.Msg{Subject: subject, Header: header, Data: e.DataEncoded}, nil
}

// mark adds the headers by which a bridge knows its events in a stream again
// without reading their payload. Of a structured event they are no part: its
// content type says so, and by the binding nothing else does.
func mark(m *natsgo.Msg, e *events.Event) error {
	all, err := attributes(&e.Event)
	if err != nil {
		return fmt.Errorf("event %s as headers: %w", e.ID(), err)
	}
	for _, name := range []string{"source", "subject", "type", events.ExtRoute, events.ExtUID, events.ExtResourceVersion, events.ExtAPIVersion, events.ExtKind} {
		m.Header[headerPrefix+name] = all[headerPrefix+name]
	}
	return nil
}

// attributes are all of the event's attributes as headers. The map is written
// directly: a NATS header's name is case-sensitive for most clients, and has
// to be written as the binding has it.
func attributes(e *event.Event) (natsgo.Header, error) {
	extensions := e.Extensions()
	header := make(natsgo.Header, len(extensions)+12) // those that the specification names, and the server's
	set := func(name, value string) {
		if value != "" {
			header[headerPrefix+name] = []string{percentEncode(value)}
		}
	}
	set("specversion", e.SpecVersion())
	set("id", e.ID())
	set("source", e.Source())
	set("type", e.Type())
	set("subject", e.Subject())
	set("datacontenttype", e.DataContentType())
	set("dataschema", e.DataSchema())
	if t := e.Time(); !t.IsZero() {
		set("time", types.FormatTime(t))
	}
	for name, value := range extensions {
		if !isAttributeName(name) {
			return nil, fmt.Errorf("attribute %q: a name has a-z and 0-9 only", name)
		}
		canonical, err := types.Format(value)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		set(name, canonical)
	}
	return header, nil
}

// isAttributeName follows
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#attribute-naming-convention.
func isAttributeName(name string) bool {
	for _, c := range []byte(name) {
		if (c < 'a' || 'z' < c) && (c < '0' || '9' < c) {
			return false
		}
	}
	return name != ""
}

// percentEncode writes a value so that it can be a header's: space, double
// quote, percent and all that is not printable ASCII become %XX, byte by byte
// of its UTF-8. So it holds no line break either.
func percentEncode(value string) string {
	const hex = "0123456789ABCDEF"
	plain := func(c byte) bool { return '!' <= c && c <= '~' && c != '"' && c != '%' }
	from := 0
	for from < len(value) && plain(value[from]) {
		from++
	}
	if from == len(value) {
		return value
	}
	var b strings.Builder
	b.Grow(len(value) + 8)
	b.WriteString(value[:from])
	for _, c := range []byte(value[from:]) {
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
