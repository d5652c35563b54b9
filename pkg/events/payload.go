package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/wI2L/jsondiff"

	"github.com/crbridge/crbridge/pkg/events/fieldpath"
	"github.com/crbridge/crbridge/pkg/object"
)

// Content is what an event's data is made of.
type Content string

// The contents.
const (
	// ContentObject is the object.
	ContentObject Content = "object"
	// ContentMetadata is the object's apiVersion, kind and metadata.
	ContentMetadata Content = "metadata"
	// ContentChange is {"object": …, "oldObject": …, "patch": …}: the object,
	// and, on an update of which it is known what the object was like before,
	// that, and the JSON Patch (RFC 6902) that makes the one of the other.
	ContentChange Content = "change"
)

// Redacted is what stands for a value that is not to be seen.
const Redacted = "[redacted]"

// LastAppliedAnnotation is where kubectl apply keeps a copy of the object.
const LastAppliedAnnotation = "kubectl.kubernetes.io/last-applied-configuration"

var (
	managedFields = fieldpath.Must("metadata.managedFields")
	lastApplied   = fieldpath.Must("metadata.annotations['" + LastAppliedAnnotation + "']")
	// annotations go with kubectl's, where that was the only one.
	annotations = fieldpath.Must("metadata.annotations")

	// identity is what an event is about; it is in its attributes as well.
	identity = []fieldpath.Path{
		fieldpath.Must("apiVersion"), fieldpath.Must("kind"), fieldpath.Must("metadata.name"), fieldpath.Must("metadata.namespace"),
		fieldpath.Must("metadata.uid"), fieldpath.Must("metadata.resourceVersion"),
	}
)

// PayloadOptions say what of an object its events carry. Paths are in the form
// that fieldpath.Parse reads.
type PayloadOptions struct {
	Content Content // empty: ContentObject
	// Drop are left out, besides metadata.managedFields and the last-applied
	// annotation. Keep are those of these two that are not.
	Drop, Keep []string
	// Redact become Redacted.
	Redact []string
}

// Payload is PayloadOptions, compiled. It is immutable; a nil one is that of
// the zero options.
type Payload struct {
	content Content
	// visible hides what is to be redacted; nil where nothing is. shape makes
	// what is in the data of what is visible.
	visible, shape *fieldpath.Editor
	// whole: shape leaves out the bookkeeping, and nothing else.
	whole bool
}

// OptionError says which of PayloadOptions is wrong, and why: Err is a
// *fieldpath.SyntaxError where it is no path at all.
type OptionError struct {
	Option string // content, drop, keep or redact
	Index  int    // of the path; -1 where it is no list
	Err    error
}

func (e *OptionError) Error() string {
	if e.Index < 0 {
		return fmt.Sprintf("%s: %v", e.Option, e.Err)
	}
	return fmt.Sprintf("%s[%d]: %v", e.Option, e.Index, e.Err)
}

func (e *OptionError) Unwrap() error { return e.Err }

// NewPayload compiles options. Its error is an *OptionError.
func NewPayload(o PayloadOptions) (*Payload, error) {
	p := &Payload{content: o.Content}
	switch o.Content {
	case "":
		p.content = ContentObject
	case ContentObject, ContentMetadata, ContentChange:
	default:
		return nil, &OptionError{"content", -1, fmt.Errorf("%q: there are object, metadata and change", o.Content)}
	}
	drop, err := paths("drop", o.Drop, notIdentity)
	if err != nil {
		return nil, err
	}
	redact, err := paths("redact", o.Redact, notIdentity)
	if err != nil {
		return nil, err
	}
	keep, err := paths("keep", o.Keep, func(path fieldpath.Path) error {
		switch {
		case !path.Equal(managedFields) && !path.Equal(lastApplied):
			return fmt.Errorf("%s is not left out; what is, and can be kept, are %s and %s", path, managedFields, lastApplied)
		case len(o.Redact) > 0:
			return fmt.Errorf("%s may hold values that redact hides; leave out one of the two", path)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, path := range []fieldpath.Path{managedFields, lastApplied} {
		kept := false
		for _, k := range keep {
			kept = kept || k.Equal(path)
		}
		if !kept {
			drop = append(drop, path)
		}
	}
	if len(redact) > 0 {
		p.visible = fieldpath.NewEditor(fieldpath.Edit{
			Remove: []fieldpath.Path{managedFields, lastApplied}, Replace: redact, Value: strconv.Quote(Redacted),
		})
	}
	shape := fieldpath.Edit{Remove: drop, Prune: []fieldpath.Path{annotations}}
	if p.content == ContentMetadata {
		shape.Members = []string{"apiVersion", "kind", "metadata"}
	}
	p.shape = fieldpath.NewEditor(shape)
	p.whole = p.content != ContentMetadata && len(o.Drop) == 0 && len(keep) == 0
	return p, nil
}

func paths(option string, texts []string, check func(fieldpath.Path) error) ([]fieldpath.Path, error) {
	parsed := make([]fieldpath.Path, 0, len(texts))
	for i, text := range texts {
		path, err := fieldpath.Parse(text)
		if err == nil {
			err = check(path)
		}
		if err != nil {
			return nil, &OptionError{option, i, err}
		}
		parsed = append(parsed, path)
	}
	return parsed, nil
}

func notIdentity(path fieldpath.Path) error {
	for _, of := range identity {
		if path.Touches(of) {
			return fmt.Errorf("%s is or holds %s, by which subscribers know the object; name what is to go more closely", path, of)
		}
	}
	return nil
}

// defaultPayload is that of the zero options.
var defaultPayload = func() *Payload {
	p, err := NewPayload(PayloadOptions{})
	if err != nil {
		panic(err) // it has nothing that could be wrong
	}
	return p
}()

// Visible is the object as it may be seen beyond the API server's client: what
// is to be redacted is, and nothing is in it that may hold a copy of that. It
// comes before everything else: filters, what is kept for comparison, queues,
// logs and New get nothing but what it gives.
func (p *Payload) Visible(o *object.Object) (*object.Object, error) {
	if p == nil || p.visible == nil {
		return o, nil
	}
	text, err := p.visible.Apply(o.JSON)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Key(), err)
	}
	return o.With(text), nil
}

// data is the event's data.
func (p *Payload) data(o Origin, c Change) ([]byte, error) {
	is, err := p.object(o, c, c.Object)
	if err != nil || p.content != ContentChange {
		return is, err
	}
	change := struct {
		Object    json.RawMessage `json:"object"`
		OldObject json.RawMessage `json:"oldObject,omitempty"`
		Patch     jsondiff.Patch  `json:"patch,omitempty"`
	}{Object: is}
	if c.Type == Updated && c.Old != nil {
		if change.OldObject, err = p.object(o, c, c.Old); err != nil {
			return nil, err
		}
		change.Patch, err = jsondiff.CompareJSON(change.OldObject, change.Object, jsondiff.UnmarshalFunc(unmarshalNumbers))
		if err != nil {
			return nil, fmt.Errorf("patch: %w", err)
		}
	}
	return encode(change)
}

// unmarshalNumbers keeps numbers as they are written: one beyond 2^53 has no
// float64 of its own.
func unmarshalNumbers(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(into)
}

// object is an object in the shape that it has in the data: or its identity,
// where nothing else of it is known.
func (p *Payload) object(o Origin, c Change, of *object.Object) ([]byte, error) {
	if of == nil {
		return encode(identityOf(o, c))
	}
	if p.whole && marked(of) {
		fields := of.Bookkeeping.ManagedFields
		return slices.Concat(of.JSON[:fields.From], of.JSON[fields.To:]), nil
	}
	return p.shape.Apply(of.JSON)
}

// marked tells whether it is known of an object that it has no bookkeeping but
// its managed fields, and where those are. A name with an escape in it is for the
// editor to read.
func marked(o *object.Object) bool {
	if !o.Bookkeeping.Known {
		return false
	}
	annotations := o.Bookkeeping.Annotations.Of(o.JSON)
	return bytes.IndexByte(annotations, '\\') < 0 && !bytes.Contains(annotations, []byte(LastAppliedAnnotation))
}

func identityOf(o Origin, c Change) map[string]any {
	metadata := map[string]any{"name": c.Name, "uid": c.UID}
	if o.Namespaced {
		metadata["namespace"] = c.Namespace
	}
	return map[string]any{"apiVersion": o.APIVersion(), "kind": o.Kind, "metadata": metadata}
}

// encode writes JSON.
func encode(content any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // the data is the object's JSON, not a web page
	if err := enc.Encode(content); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
