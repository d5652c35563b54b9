package events

import (
	"errors"
	"fmt"
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
func (t Type) CloudEvent() string { return "dev.crbridge.resource." + string(t) + ".v1" }

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
	// the route's changed selection brings up one that has not changed itself;
	// 0 otherwise. It is the event's sequence then, as the object may have been
	// told to be deselected since it changed last.
	Listed uint64
	// Observed is when the bridge learnt of the change.
	Observed time.Time
}

// Event is a CloudEvent together with what addresses are made of.
type Event struct {
	event.Event
	Fields Fields
	// Digest stands for what counts of the object's version as a change, where
	// the route leaves out updates that are none; zero otherwise. It is no
	// part of the CloudEvent.
	Digest [16]byte

	content Content
	shrunk  int // how often Shrink has looked for something to leave out
}

// Size is about how many bytes the event takes in memory and on the wire:
// its data and its attributes. It is for bounding queues, not for accounting.
func (e *Event) Size() int {
	const attributes = 1024
	return len(e.DataEncoded) + attributes
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
	data, err := p.data(o, c)
	if err != nil {
		return Event{}, fmt.Errorf("%s %s: data: %w", o.Resource, subject, err)
	}
	version := strconv.FormatUint(c.ResourceVersion, 10)
	extensions := map[string]any{
		ExtAPIVersion:      o.APIVersion(),
		ExtKind:            o.Kind,
		ExtName:            c.Name,
		ExtUID:             c.UID,
		ExtResourceVersion: version,
		ExtRoute:           o.Route,
		ExtPartitionKey:    subject,
		ExtSequence:        fmt.Sprintf("%020d", max(c.ResourceVersion, c.Listed)),
	}
	if o.Namespaced {
		extensions[ExtNamespace] = c.Namespace
	}
	if c.Inferred {
		extensions[ExtInferred] = true
	}
	if c.Coalesced {
		extensions[ExtCoalesced] = true
	}
	source := types.ParseURIRef(o.Source())
	if source == nil {
		return Event{}, fmt.Errorf("%s %s: source %q is not a URI reference", o.Resource, subject, o.Source())
	}
	contentType := ContentType
	e := Event{
		Event: event.Event{
			Context: &event.EventContextV1{
				ID:              id(o, c, version),
				Source:          *source,
				Type:            c.Type.CloudEvent(),
				DataContentType: &contentType,
				Subject:         &subject,
				Time:            &types.Timestamp{Time: c.Observed.UTC()},
				Extensions:      extensions,
			},
			DataEncoded: data,
		},
		Fields: Fields{
			Cluster: o.Cluster, Group: o.Group, Version: o.Version, Kind: o.Kind, Resource: o.Resource,
			Namespace: c.Namespace, Name: c.Name, Event: string(c.Type), Route: o.Route,
		},
		content: p.content,
	}
	if err := e.Validate(); err != nil {
		return Event{}, fmt.Errorf("%s %s: %w", o.Resource, subject, err)
	}
	return e, nil
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
	// ResyncSuffix and the number of a requested resync end the ids of its events.
	ResyncSuffix = ".r"
	// SelectedSuffix and the resource version of the list end the ids of events
	// that tell of an object which has not changed, because the route's
	// selection has.
	SelectedSuffix = ".s"
)

// id is the same for the same change, whoever observes it and however often.
// An object dies once, so its deletion needs no version.
func id(o Origin, c Change, version string) string {
	if c.Type == Deleted {
		version = "deleted"
	}
	id := c.UID + "." + version + "." + o.Route
	if c.Resync != 0 {
		id += ResyncSuffix + strconv.FormatUint(c.Resync, 10)
	}
	if c.Listed != 0 {
		id += SelectedSuffix + strconv.FormatUint(c.Listed, 10)
	}
	return id
}
