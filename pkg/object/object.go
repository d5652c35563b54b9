// Package object is a custom resource as the API server wrote it: the bytes of
// its JSON, and of what is in them who it is. Who needs more has them decoded.
package object

import (
	"encoding/json"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// Object is a custom resource. It is immutable: JSON and what Content gives
// are to be read, and JSON is not to be kept, as it may be part of a larger
// piece of memory.
type Object struct {
	Namespace       string // empty for a cluster-scoped object
	Name            string
	UID             string
	ResourceVersion string
	JSON            []byte // one JSON object, without space around it
	Bookkeeping     Bookkeeping

	decode  sync.Once
	content map[string]any
	err     error
}

// Bookkeeping is where in an object's JSON that is which subscribers have no use
// for, as far as a Scanner has come by it: who leaves it out need not look for it
// again.
type Bookkeeping struct {
	Known bool // false: nobody looked, or it is where it is not looked for
	// ManagedFields is the member metadata.managedFields with the comma before
	// it. JSON without it is the object without that member.
	ManagedFields Span
	// Annotations is the value of metadata.annotations.
	Annotations Span
}

// Span is a part of a text; an empty one is none.
type Span struct{ From, To int }

// Of is that part of the text.
func (s Span) Of(text []byte) []byte { return text[s.From:s.To] }

// Of is the object with the content, which is given up to it.
func Of(content map[string]any) (*Object, error) {
	u := unstructured.Unstructured{Object: content}
	text, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s as JSON: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)
	}
	o := &Object{
		Namespace: u.GetNamespace(), Name: u.GetName(), UID: string(u.GetUID()), ResourceVersion: u.GetResourceVersion(),
		JSON: text, content: content,
	}
	o.decode.Do(func() {})
	return o, nil
}

// With is the same object with other JSON, in which it is who it was.
func (o *Object) With(text []byte) *Object {
	return &Object{Namespace: o.Namespace, Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion, JSON: text}
}

// Key is "<namespace>/<name>", or "<name>" for a cluster-scoped object.
func (o *Object) Key() string {
	if o.Namespace == "" {
		return o.Name
	}
	return o.Namespace + "/" + o.Name
}

// Content is the object decoded, as unstructured.Unstructured has it: whole
// numbers are int64, others float64. It is decoded once, when it is asked for
// first, by whichever goroutine. It fails for a number that has no float64.
func (o *Object) Content() (map[string]any, error) {
	o.decode.Do(func() {
		if err := utiljson.Unmarshal(o.JSON, &o.content); err != nil {
			o.content, o.err = nil, fmt.Errorf("%s: %w", o.Key(), err)
		}
	})
	return o.content, o.err
}
