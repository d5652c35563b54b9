package sources

import (
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/crbridge/crbridge/pkg/object"
)

// carrier takes an object through the reflector, which wants to see a
// runtime.Object with metadata. Of a bookmark there is nothing but that.
type carrier struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	object *object.Object
}

// DeepCopyObject implements runtime.Object. What is carried is immutable.
func (c *carrier) DeepCopyObject() runtime.Object {
	return &carrier{TypeMeta: c.TypeMeta, ObjectMeta: *c.ObjectMeta.DeepCopy(), object: c.object}
}

func carry(o *object.Object) *carrier {
	return &carrier{object: o, ObjectMeta: metav1.ObjectMeta{ResourceVersion: o.ResourceVersion}}
}

// eventOf is a frame as the reflector takes it.
func eventOf(f object.Frame) (watch.Event, error) {
	switch kind := watch.EventType(f.Type); kind {
	case watch.Added, watch.Modified, watch.Deleted:
		return watch.Event{Type: kind, Object: carry(f.Object)}, nil
	case watch.Bookmark:
		var c carrier
		var meta metav1.PartialObjectMetadata
		if err := json.Unmarshal(f.JSON, &meta); err != nil {
			return watch.Event{}, fmt.Errorf("bookmark: %w", err)
		}
		c.ObjectMeta = meta.ObjectMeta
		return watch.Event{Type: kind, Object: &c}, nil
	case watch.Error:
		var status metav1.Status
		if err := json.Unmarshal(f.JSON, &status); err != nil {
			return watch.Event{}, fmt.Errorf("error: %w", err)
		}
		return watch.Event{Type: kind, Object: &status}, nil
	default:
		return watch.Event{}, fmt.Errorf("event of the unknown type %q", f.Type)
	}
}

// decodedEvent is what Kubernetes' own decoders make of a frame.
func decodedEvent(text []byte) (watch.Event, error) {
	var frame metav1.WatchEvent
	if err := json.Unmarshal(text, &frame); err != nil {
		return watch.Event{}, err
	}
	switch watch.EventType(frame.Type) {
	case watch.Added, watch.Modified, watch.Deleted:
		decoded, _, err := unstructured.UnstructuredJSONScheme.Decode(frame.Object.Raw, nil, nil)
		if err != nil {
			return watch.Event{}, err
		}
		return carried(watch.Event{Type: watch.EventType(frame.Type), Object: decoded})
	default:
		return eventOf(object.Frame{Type: frame.Type, JSON: frame.Object.Raw})
	}
}

// carried is an event that client-go has decoded, as the reflector takes it here.
func carried(event watch.Event) (watch.Event, error) {
	if event.Type == watch.Error {
		return event, nil
	}
	u, ok := event.Object.(*unstructured.Unstructured)
	if !ok {
		return event, fmt.Errorf("%T where *unstructured.Unstructured was asked for", event.Object)
	}
	o, err := object.Of(u.Object)
	if err != nil {
		return event, err
	}
	c := carry(o)
	c.Annotations = u.GetAnnotations()
	event.Object = c
	return event, nil
}

// undecodable is the event that tells that there is none.
func undecodable(err error) watch.Event {
	status := apierrors.NewInternalError(fmt.Errorf("an event of the watch cannot be read: %w", err)).Status()
	return watch.Event{Type: watch.Error, Object: &status}
}
