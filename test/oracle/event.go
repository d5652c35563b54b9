package oracle

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// The kinds of events, as a route's configuration names them. Deselected comes
// only from routes with a selection; see [Route].
const (
	Existing   = "existing"
	Created    = "created"
	Updated    = "updated"
	Deleted    = "deleted"
	Deselected = "deselected"
)

const (
	typePrefix = "dev.crbridge.resource."
	typeSuffix = ".v1"

	// structured begins the content type of an event that is one JSON text.
	structured = "application/cloudevents+json"
)

// Event is a CloudEvent as it was in a message.
type Event struct {
	Attributes map[string]string
	Kind       string // of change: what is left of the type without its frame
	Revision   int64  // the attribute resourceversion; 0 if that is no number
	Resync     int    // n of an id's suffix .r<n>, which a requested resync makes; 0 otherwise
	// Listed is n of an id's suffix .s<n>, which a changed selection makes: the
	// revision of the list that showed the object; 0 otherwise.
	Listed    int64
	Inferred  bool
	Coalesced bool

	Content  Content // of the data; nil if that is no object
	who      identity
	dataErr  error    // why there is no content
	problems []string // of its form
}

func (e *Event) uid() string     { return e.Attributes["uid"] }
func (e *Event) subject() string { return e.Attributes["subject"] }

// at is the revision that orders the event among those of its name.
func (e *Event) at() int64 { return max(e.Revision, e.Listed) }

// DecodeEvent reads an event in binary or in structured mode. It fails for what
// cannot be read as an event at all; what is wrong with one that can is for
// [Check] to say.
func DecodeEvent(header nats.Header, payload []byte) (*Event, error) {
	e := &Event{Attributes: map[string]string{}}
	data := payload
	if strings.HasPrefix(header.Get("Content-Type"), structured) {
		var err error
		if data, err = e.readStructured(payload); err != nil {
			return nil, err
		}
	} else if err := e.readHeaders(header); err != nil {
		return nil, err
	}
	if e.Attributes["specversion"] == "" {
		return nil, errors.New("no CloudEvent: it has no specversion")
	}
	e.Kind = strings.TrimSuffix(strings.TrimPrefix(e.Attributes["type"], typePrefix), typeSuffix)
	e.Revision, _ = strconv.ParseInt(e.Attributes["resourceversion"], 10, 64)
	e.Inferred = e.Attributes["inferred"] == "true"
	e.Coalesced = e.Attributes["coalesced"] == "true"
	e.Resync = int(suffixNumber(e.Attributes, ".r"))
	e.Listed = suffixNumber(e.Attributes, ".s")
	e.Content, e.who, e.dataErr = readContent(data)
	return e, nil
}

// readHeaders reads the attributes of an event in binary mode, percent-encoded
// as the CloudEvents NATS binding says.
func (e *Event) readHeaders(header nats.Header) error {
	for name, values := range header {
		attribute, ok := strings.CutPrefix(name, "ce-")
		if !ok {
			continue
		}
		value, err := url.PathUnescape(values[0])
		if err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
		if len(values) > 1 {
			e.problems = append(e.problems, fmt.Sprintf("header %s is there %d times", name, len(values)))
		}
		e.Attributes[attribute] = value
	}
	return nil
}

// readStructured reads the attributes of an event that is one JSON text, and
// returns its data.
func (e *Event) readStructured(payload []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return nil, fmt.Errorf("structured event: %w", err)
	}
	data := []byte(fields["data"])
	for name, value := range fields {
		switch name {
		case "data":
		case "data_base64":
			var text string
			err := json.Unmarshal(value, &text)
			if err == nil {
				data, err = base64.StdEncoding.DecodeString(text)
			}
			if err != nil {
				return nil, fmt.Errorf("data_base64: %w", err)
			}
		default:
			var text string
			if json.Unmarshal(value, &text) != nil {
				text = string(value) // a boolean or a number, as an attribute may be
			}
			e.Attributes[name] = text
		}
	}
	return data, nil
}

// suffixNumber is n where the id is <uid>.<resourceversion>.<route> with n behind
// the suffix.
func suffixNumber(attributes map[string]string, suffix string) int64 {
	digits, ok := strings.CutPrefix(attributes["id"], plainID(attributes)+suffix)
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != digits {
		return 0
	}
	return n
}

// plainID is the id of an event that does not come from a requested resync.
func plainID(attributes map[string]string) string {
	version := attributes["resourceversion"]
	if attributes["type"] == typePrefix+Deleted+typeSuffix {
		version = Deleted // an object dies once
	}
	return attributes["uid"] + "." + version + "." + attributes["route"]
}
