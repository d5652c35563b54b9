package nats

import (
	"bytes"
	"fmt"
	"strings"
	"sync"

	"github.com/cloudevents/sdk-go/v2/event"
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
// The message shares the event's data; its header may be given back, see letGo.
// It fails only for an event that is no valid CloudEvent.
func encode(mode sinks.Mode, subject string, e *events.Event) (*natsgo.Msg, error) {
	if mode == sinks.Structured {
		var payload bytes.Buffer
		payload.Grow(e.Size())
		whole := e.CloudEvent()
		if err := event.WriteJson(&whole, &payload); err != nil {
			return nil, fmt.Errorf("event %s as JSON: %w", e.ID(), err)
		}
		m := &natsgo.Msg{Subject: subject, Header: newHeader(), Data: payload.Bytes()}
		m.Header[contentType] = []string{structuredEvents}
		return m, nil
	}
	m := &natsgo.Msg{Subject: subject, Header: newHeader(), Data: e.Data}
	setAttributes(m.Header, e, func(string) bool { return true })
	return m, nil
}

// mark adds the headers by which a bridge knows its events in a stream again
// without reading their payload. Of a structured event they are no part: its
// content type says so, and by the binding nothing else does.
func mark(m *natsgo.Msg, e *events.Event) {
	setAttributes(m.Header, e, func(name string) bool {
		switch name {
		case "source", "subject", "type", events.ExtRoute, events.ExtUID, events.ExtResourceVersion, events.ExtAPIVersion, events.ExtKind:
			return true
		}
		return false
	})
}

// mostHeaders is how many a message has: the attributes of an event, and what
// JetStream is told.
const mostHeaders = 24

// headers are maps for headers, all empty. One takes 1.5 KiB, as much as many an
// object.
var headers = sync.Pool{New: func() any { return make(natsgo.Header, mostHeaders) }}

func newHeader() natsgo.Header { return headers.Get().(natsgo.Header) } //nolint:forcetypeassert // the pool has nothing else

// letGo takes the headers of messages for those to come. It is for messages of
// which the client says that it has done with them, and whose headers nobody looks
// at any more.
func letGo(messages []*natsgo.Msg) {
	for _, m := range messages {
		header := m.Header
		m.Header = nil
		clear(header)
		headers.Put(header)
	}
}

// setAttributes writes attributes as headers. The map is written directly: a
// NATS header's name is case-sensitive for most clients, and has to be written
// as the binding has it.
func setAttributes(header natsgo.Header, e *events.Event, wanted func(name string) bool) {
	values := make([]string, 0, mostHeaders) // one piece of memory for all of them
	for name, value := range e.Attributes() {
		if wanted(name) {
			values = append(values, percentEncode(value))
			header[headerName(name)] = values[len(values)-1 : len(values) : len(values)]
		}
	}
}

// headerName is the header for an attribute.
func headerName(attribute string) string {
	if name, known := headerNames[attribute]; known {
		return name
	}
	return headerPrefix + attribute
}

// headerNames are those that every event has, so that they need not be made for
// each.
var headerNames = func() map[string]string {
	names := map[string]string{}
	for _, attribute := range []string{
		"specversion", "id", "source", "type", "subject", "datacontenttype", "time",
		events.ExtAPIVersion, events.ExtKind, events.ExtNamespace, events.ExtName, events.ExtUID, events.ExtResourceVersion,
		events.ExtRoute, events.ExtPartitionKey, events.ExtSequence, events.ExtInferred, events.ExtCoalesced, events.ExtOversize,
	} {
		names[attribute] = headerPrefix + attribute
	}
	return names
}()

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
