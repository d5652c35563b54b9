package events

import (
	"reflect"
	"testing"
)

// An object without bookkeeping, which is what most tools other than kubectl
// make once managedFields are gone, is encoded as it is: no copy of a map.
func TestWithoutBookkeepingShares(t *testing.T) {
	object := map[string]any{"metadata": map[string]any{"name": "a", "annotations": map[string]any{"a": "b"}}, "spec": map[string]any{}}
	if got := withoutBookkeeping(object); !same(got, object) {
		t.Error("an object without bookkeeping was copied")
	}

	metadata := object["metadata"].(map[string]any)
	metadata["managedFields"] = []any{}
	got := withoutBookkeeping(object)
	if same(got, object) || same(got["metadata"], metadata) {
		t.Error("the object's own maps were changed")
	}
	if !same(got["spec"], object["spec"]) {
		t.Error("spec was copied, though nothing in it changes")
	}
	if !same(got["metadata"].(map[string]any)["annotations"], metadata["annotations"]) {
		t.Error("annotations were copied, though nothing in them changes")
	}
}

// same tells whether two maps are one.
func same(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
