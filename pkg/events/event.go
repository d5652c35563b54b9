package events

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/crbridge/crbridge/pkg/object"
)

// Type is what happened to an object.
type Type string

// The types of events. They are part of every event's CloudEvents type.
const (
	// Existing: the object was there when its flow began.
	Existing Type = "existing"
	// Created: the object, or its CRD, appeared after its flow began.
	Created Type = "created"
	// Updated: the object has a new resource version.
	Updated Type = "updated"
	// Deleted: the object is gone.
	Deleted Type = "deleted"
	// Deselected: the object is still there, and no longer what the route
	// selects.
	Deselected Type = "deselected"
)

// Types are all the types of events that there are.
func Types() []Type { return []Type{Existing, Created, Updated, Deleted, Deselected} }

// Words are the names of all types.
func (Type) Words() []string {
	all := Types()
	words := make([]string, len(all))
	for i, t := range all {
		words[i] = string(t)
	}
	return words
}

// Set is a set of types. Sets can be compared.
type Set uint8

// NewSet is the set of the types; those that there are not are left out.
func NewSet(types ...Type) (s Set) {
	for i, t := range Types() {
		if slices.Contains(types, t) {
			s |= 1 << i
		}
	}
	return s
}

// Has tells whether the type is in the set.
func (s Set) Has(t Type) bool {
	i := slices.Index(Types(), t)
	return i >= 0 && s&(1<<i) != 0
}

// String lists the types.
func (s Set) String() string {
	var names []string
	for _, t := range Types() {
		if s.Has(t) {
			names = append(names, string(t))
		}
	}
	return strings.Join(names, ",")
}

// CloudEvent is the value of the CloudEvents attribute "type".
func (t Type) CloudEvent() string {
	for _, known := range cloudEvents {
		if known.kind == t {
			return known.name
		}
	}
	return cloudEvent(t)
}

func cloudEvent(t Type) string { return "dev.crbridge.resource." + string(t) + ".v1" }

// cloudEvents are the values for all types, so that they need not be made for
// each event.
var cloudEvents = func() (all []struct {
	kind Type
	name string
}) {
	for _, t := range Types() {
		all = append(all, struct {
			kind Type
			name string
		}{t, cloudEvent(t)})
	}
	return all
}()

// ContentType is the media type of the data of every event.
const ContentType = "application/json"

// Names of the CloudEvents extension attributes that events carry.
const (
	ExtAPIVersion      = "apiversion"
	ExtKind            = "kind"
	ExtNamespace       = "namespace"
	ExtName            = "name"
	ExtUID             = "uid"
	ExtResourceVersion = "resourceversion"
	ExtRoute           = "route"
	ExtPartitionKey    = "partitionkey"
	ExtSequence        = "sequence"
	ExtInferred        = "inferred"
	ExtCoalesced       = "coalesced"
	// ExtOversize is true where the object was too large for the sink: the data
	// is its metadata alone, or less. Absent otherwise.
	ExtOversize = "oversize"
)

// Origin is what all events of one flow have in common: where the objects
// come from and which route they take.
type Origin struct {
	Cluster    string
	Group      string
	Version    string
	Kind       string
	Resource   string // plural, as in the CRD's name
	Namespaced bool
	Route      string
	// History tells resource versions of a restored etcd, which come once more
	// with other content, from those before: it is the number of the requested
	// resync that went on with them. 0 where there was none.
	History uint64
}

// APIVersion is "<group>/<version>".
func (o Origin) APIVersion() string { return o.Group + "/" + o.Version }

// Source is the value of the CloudEvents attribute "source".
func (o Origin) Source() string {
	return "/clusters/" + o.Cluster + "/apis/" + o.Group + "/" + o.Resource
}

// Change is one change of one object, as the API server reported it or as an
// absence that it confirmed.
type Change struct {
	Type            Type
	Namespace       string // empty for a cluster-scoped object
	Name            string
	UID             string
	ResourceVersion uint64
	// Object is the object, as Payload.Visible gives it; nil for an end of which
	// nothing but the object's identity is known. Old is what it was like
	// before; nil where that is not known. Neither is kept.
	Object, Old *object.Object
	// Inferred marks a deletion that was deduced from the object's absence.
	Inferred bool
	// Coalesced marks an update that may stand for several versions.
	Coalesced bool
	// Resync is the number of the requested resync that tells of the object
	// once more; 0 where it is none.
	Resync uint64
	// Listed is the resource version of the list that showed the object, where
	// that is the event's sequence; 0 otherwise. So it is where the route's changed
	// selection brings up an object that has not changed itself, as it may have
	// been told to be deselected since; and where the object is older than the
	// deletion that was told of the one that had its name before.
	Listed uint64
	// Observed is when the bridge learnt of the change.
	Observed time.Time
}

// Event is a CloudEvent, and what addresses are made of. What cannot be
// changed has been checked: it is valid.
type Event struct {
	Fields Fields
	// Data is JSON. It is shared by copies of the event, and not to be changed.
	Data []byte
	// Digest stands for what counts of the object's version as a change, where
	// the route leaves out updates that are none; zero otherwise. It is no
	// part of the CloudEvent.
	Digest [16]byte

	kind       Type
	namespaced bool
	inferred   bool
	coalesced  bool
	oversize   bool
	time       time.Time
	id         string
	source     string
	subject    string
	apiVersion string
	uid        string
	version    string
	sequence   string

	content Content
	shrunk  int // how often Shrink has looked for something to leave out
}

// ID is the attribute "id".
func (e *Event) ID() string { return e.id }

// Subject is the attribute "subject": the object's namespace and name.
func (e *Event) Subject() string { return e.subject }

// Time is when the bridge observed the change.
func (e *Event) Time() time.Time { return e.time }

// Oversize tells whether the event has been shrunk.
func (e *Event) Oversize() bool { return e.oversize }

// Attribute is an attribute's value as text, in CloudEvents' canonical form;
// empty where the event does not have it.
func (e *Event) Attribute(name string) string {
	for has, value := range e.Attributes() {
		if has == name {
			return value
		}
	}
	return ""
}

// Attributes are all attributes with their values as text, in CloudEvents'
// canonical form. None is empty.
func (e *Event) Attributes() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		_ = yield("specversion", event.CloudEventsVersionV1) &&
			yield("id", e.id) &&
			yield("source", e.source) &&
			yield("type", e.kind.CloudEvent()) &&
			yield("subject", e.subject) &&
			yield("datacontenttype", ContentType) &&
			(e.time.IsZero() || yield("time", types.FormatTime(e.time))) &&
			yield(ExtAPIVersion, e.apiVersion) &&
			yield(ExtKind, e.Fields.Kind) &&
			(!e.namespaced || yield(ExtNamespace, e.Fields.Namespace)) &&
			yield(ExtName, e.Fields.Name) &&
			yield(ExtUID, e.uid) &&
			yield(ExtResourceVersion, e.version) &&
			yield(ExtRoute, e.Fields.Route) &&
			yield(ExtPartitionKey, e.subject) &&
			yield(ExtSequence, e.sequence) &&
			(!e.inferred || yield(ExtInferred, yes)) &&
			(!e.coalesced || yield(ExtCoalesced, yes)) &&
			(!e.oversize || yield(ExtOversize, yes))
	}
}

const yes = "true"

// CloudEvent is the event as the SDK has it. It shares the data.
func (e *Event) CloudEvent() event.Event {
	contentType := ContentType
	subject := e.subject
	c := &event.EventContextV1{
		ID: e.id, Type: e.kind.CloudEvent(), DataContentType: &contentType, Subject: &subject,
		Extensions: map[string]any{},
	}
	if source := types.ParseURIRef(e.source); source != nil {
		c.Source = *source
	}
	if !e.time.IsZero() {
		c.Time = &types.Timestamp{Time: e.time}
	}
	for name, value := range e.Attributes() {
		switch name {
		case "specversion", "id", "source", "type", "subject", "datacontenttype", "time":
		case ExtInferred, ExtCoalesced, ExtOversize:
			c.Extensions[name] = true
		default:
			c.Extensions[name] = value
		}
	}
	return event.Event{Context: c, DataEncoded: e.Data}
}

// Size is about how many bytes the event takes in memory and on the wire:
// its data and its attributes. It is for bounding queues, not for accounting.
func (e *Event) Size() int {
	const attributes = 1024
	return len(e.Data) + attributes
}

// New makes the event for a change; a nil payload carries the object. It fails
// only for a change that cannot be written as a valid CloudEvent, such as one
// without a uid.
func New(o Origin, p *Payload, c Change) (Event, error) {
	if p == nil {
		p = defaultPayload
	}
	subject := c.Name
	if c.Namespace != "" {
		subject = c.Namespace + "/" + c.Name
	}
	if err := checkIdentity(o, c); err != nil {
		return Event{}, fmt.Errorf("%s %s: %w", o.Resource, subject, err)
	}
	source := o.Source()
	if !plainPath(source) && types.ParseURIRef(source) == nil {
		return Event{}, fmt.Errorf("%s %s: source %q is not a URI reference", o.Resource, subject, source)
	}
	data, err := p.data(o, c)
	if err != nil {
		return Event{}, fmt.Errorf("%s %s: data: %w", o.Resource, subject, err)
	}
	version := strconv.FormatUint(c.ResourceVersion, 10)
	return Event{
		Fields: Fields{
			Cluster: o.Cluster, Group: o.Group, Version: o.Version, Kind: o.Kind, Resource: o.Resource,
			Namespace: c.Namespace, Name: c.Name, Event: string(c.Type), Route: o.Route,
		},
		Data:       data,
		kind:       c.Type,
		namespaced: o.Namespaced,
		inferred:   c.Inferred,
		coalesced:  c.Coalesced,
		time:       c.Observed.UTC(),
		id:         id(o, c, version),
		source:     source,
		subject:    subject,
		apiVersion: o.APIVersion(),
		uid:        c.UID,
		version:    version,
		sequence:   padded(max(c.ResourceVersion, c.Listed)),
		content:    p.content,
	}, nil
}

// plainPath tells whether a text is a URI reference that is a path, and needs no
// further look: that of every valid configuration is.
func plainPath(text string) bool {
	for _, c := range []byte(text) {
		if (c < 'a' || 'z' < c) && (c < '0' || '9' < c) && c != '-' && c != '.' && c != '/' {
			return false
		}
	}
	return true
}

// padded has as many digits as the largest number, so that its text sorts as
// the number does.
func padded(n uint64) string {
	const digits = 20
	var text [digits]byte
	for i := digits - 1; i >= 0; i-- {
		text[i] = byte('0' + n%10)
		n /= 10
	}
	return string(text[:])
}

// checkIdentity refuses what CloudEvents' validation, which does not look at
// extension attributes, would let through.
func checkIdentity(o Origin, c Change) error {
	switch {
	case c.UID == "":
		return errors.New("the object has no metadata.uid")
	case c.Name == "":
		return errors.New("the object has no metadata.name")
	case o.Namespaced && c.Namespace == "":
		return errors.New("the object has no metadata.namespace")
	case !o.Namespaced && c.Namespace != "":
		return fmt.Errorf("a cluster-scoped object with metadata.namespace %q", c.Namespace)
	}
	return nil
}

const (
	// resyncSuffix and the number of a requested resync end the ids of its events.
	resyncSuffix = ".r"
	// historySuffix and the number of the resync that went on in another history
	// end the ids of all other events since. A suffix of its own, as an object's
	// version may be told as news and again by the same resync.
	historySuffix = ".h"
	// selectedSuffix and the resource version of the list end the ids of events
	// that tell of an object which has not changed, because the route's
	// selection has.
	selectedSuffix = ".s"
)

// id is the same for the same change, whoever observes it and however often.
// An object dies once, so its deletion needs no version.
func id(o Origin, c Change, version string) string {
	if c.Type == Deleted {
		version = "deleted"
	}
	id := c.UID + "." + version + "." + o.Route
	switch {
	case c.Resync != 0:
		id += resyncSuffix + strconv.FormatUint(c.Resync, 10)
	case o.History != 0:
		id += historySuffix + strconv.FormatUint(o.History, 10)
	}
	if c.Listed != 0 {
		id += selectedSuffix + strconv.FormatUint(c.Listed, 10)
	}
	return id
}

// Suffixes are the numbers that an id of a route's event ends in, those of
// Change.Resync and Change.Listed; 0 where it has none.
func Suffixes(id, route string) (resync, listed uint64) {
	_, rest, _ := strings.Cut(id, ".")  // behind the uid
	_, rest, _ = strings.Cut(rest, ".") // and the version
	rest, _ = strings.CutPrefix(rest, route)
	for suffix := range strings.SplitSeq(rest, ".") {
		if suffix == "" {
			continue
		}
		number, _ := strconv.ParseUint(suffix[1:], 10, 64)
		switch "." + suffix[:1] {
		case resyncSuffix:
			resync = number
		case selectedSuffix:
			listed = number
		}
	}
	return resync, listed
}
