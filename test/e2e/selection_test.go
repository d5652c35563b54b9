//go:build unix

package e2e_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/crbridge/crbridge/test/controlplane"
)

// in is a client for the objects in a namespace.
func (k *kind) in(namespace string) dynamic.ResourceInterface {
	return k.dynamic.Resource(schema.GroupVersionResource{Group: k.group, Version: k.version, Resource: "widgets"}).Namespace(namespace)
}

// put creates an object with labels, "key=value" each.
func (k *kind) put(t *testing.T, namespace, name string, labels ...string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": k.apiVersion(), "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": map[string]any{},
	}}
	with := map[string]string{}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		with[key] = value
	}
	object.SetLabels(with)
	var created *unstructured.Unstructured
	eventually(t, func() (err error) {
		created, err = k.in(namespace).Create(t.Context(), object, metav1.CreateOptions{})
		return err
	})
	return created
}

// label sets a label of an object in the namespace default; an empty value
// removes it.
func (k *kind) label(t *testing.T, name, key, value string) *unstructured.Unstructured {
	t.Helper()
	var to any = value
	if value == "" {
		to = nil
	}
	return k.patch(t, name, map[string]any{"metadata": map[string]any{"labels": map[string]any{key: to}}})
}

// patch merges something into an object in the namespace default.
func (k *kind) patch(t *testing.T, name string, with map[string]any) *unstructured.Unstructured {
	t.Helper()
	patch, err := json.Marshal(with)
	if err != nil {
		t.Fatal(err)
	}
	updated, err := k.in("default").Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return updated
}

// namespace makes a namespace for the kind, and returns its name.
func (k *kind) namespace(t *testing.T, cp *controlplane.ControlPlane, name string) string {
	t.Helper()
	client, err := kubernetes.NewForConfig(cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	name += "-" + strings.ReplaceAll(k.group, ".", "-")
	_, err = client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return name
}

// expectSet waits for just these events of the kind, in any order.
func (w *world) expectSet(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	eventually(t, func() error {
		messages, err := w.stream.read(t.Context(), w.kind.name, 0)
		if err != nil {
			return err
		}
		got = nil
		for _, m := range messages {
			got = append(got, m.what())
		}
		slices.Sort(got)
		if !slices.Equal(want, got) {
			return fmt.Errorf("events are %q, not %q", got, want)
		}
		return nil
	})
}

// orderly fails the test where the events of an object are not in the order of
// their sequences, or an id is there twice.
func (w *world) orderly(t *testing.T) {
	t.Helper()
	last, ids := map[string]string{}, map[string]bool{}
	for _, m := range w.stream.all(t, w.kind.name) {
		key := m.attributes["route"] + " " + m.attributes["subject"]
		if m.attributes["sequence"] <= last[key] {
			t.Errorf("%s has sequence %s after %s", m.what(), m.attributes["sequence"], last[key])
		}
		if ids[m.attributes["id"]] {
			t.Errorf("id %s is there twice", m.attributes["id"])
		}
		last[key], ids[m.attributes["id"]] = m.attributes["sequence"], true
	}
}

// TestLabelSelector shows that objects which do not match are not told of, and
// that one which no longer does is told to be deselected, or deleted where that
// is what has happened: while the bridge looks, while it is not there, and
// where it has to list.
func TestLabelSelector(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newOwnWorld(t)
	w.kind.create(t)
	k := w.kind
	k.put(t, "default", "was", "on=yes")
	k.put(t, "default", "not", "on=no")
	route := k.route("test", "labelSelector: on=yes")
	b := w.bridge(t, route)
	b.waitState(t, k.name, "test", "running")
	k.put(t, "default", "one", "on=yes")
	k.put(t, "default", "two", "on=yes")
	k.put(t, "default", "other", "on=no")
	want := []string{"existing default/was", "created default/one", "created default/two"}
	w.expect(t, want...)

	k.label(t, "one", "on", "no") // leaves
	k.set(t, "one", "size", 1)
	k.drop(t, "other")
	want = append(want, "deselected default/one")
	w.expect(t, want...)
	k.label(t, "one", "on", "yes") // and comes back
	k.drop(t, "two")
	want = append(want, "created default/one", "deleted default/two")
	w.expect(t, want...)
	w.recorded(t, k.set(t, "was", "size", 1))
	want = append(want, "updated default/was")
	w.expect(t, want...)

	b.Kill()
	k.label(t, "one", "on", "")
	k.drop(t, "was")
	k.label(t, "not", "on", "yes")
	b = w.bridge(t, route)
	want = append(want, "deselected default/one", "deleted default/was", "created default/not")
	w.expect(t, want...)
	k.put(t, "default", "was", "on=yes")
	want = append(want, "created default/was")
	w.expect(t, want...)
	w.recorded(t, k.set(t, "was", "size", 2))
	want = append(want, "updated default/was")
	w.expect(t, want...)

	// The API server forgets what has happened, so that the bridge lists.
	b.Kill()
	k.label(t, "not", "on", "no")
	k.drop(t, "was")
	k.label(t, "one", "on", "yes")
	w.compact(t)
	b = w.bridge(t, route)
	w.expectSet(t, append(want, "deselected default/not", "deleted default/was", "created default/one")...)
	k.label(t, "not", "on", "yes")
	w.expectSet(t, append(want, "deselected default/not", "deleted default/was", "created default/one", "created default/not")...)
	w.orderly(t)
	if f := b.flow(t, k.name, "test"); f.Objects != 2 {
		t.Errorf("%d objects are known, not 2", f.Objects)
	}
}

// TestFieldSelector shows that a CRD's selectable fields select, and that one
// which it has not is told in words.
func TestFieldSelector(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.kind
	k.create(t)
	k.update(t, func(crd *apiextensions.CustomResourceDefinition) {
		v := &crd.Spec.Versions[0]
		v.Schema.OpenAPIV3Schema.Properties = map[string]apiextensions.JSONSchemaProps{"spec": {
			Type: "object", XPreserveUnknownFields: new(true),
			Properties: map[string]apiextensions.JSONSchemaProps{"color": {Type: "string"}},
		}}
		v.SelectableFields = []apiextensions.SelectableField{{JSONPath: ".spec.color"}}
	})
	eventually(t, func() error {
		_, err := k.objects().List(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=red"})
		return err
	})
	b := w.bridge(t, k.route("test", `fieldSelector: "spec.color=red"`), k.route("wrong", `fieldSelector: "spec.size=1"`))
	b.waitState(t, k.name, "test", "running")
	k.add(t, "red", map[string]any{"color": "red"})
	k.add(t, "blue", map[string]any{"color": "blue"})
	k.set(t, "blue", "color", "red")
	k.set(t, "red", "color", "blue")
	k.drop(t, "blue")
	w.expect(t, "created default/red", "created default/blue", "deselected default/red", "deleted default/blue")
	if f := b.waitState(t, k.name, "wrong", "failed"); !strings.Contains(f.Reason, "spec.size") {
		t.Errorf("the reason does not name the field: %s", f.Reason)
	}
	w.orderly(t)
}

// TestNamespaces shows that only objects of the route's namespaces are told of,
// each with a position of its own.
func TestNamespaces(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	a, b, c := k.namespace(t, w.cp, "a"), k.namespace(t, w.cp, "b"), k.namespace(t, w.cp, "c")
	k.put(t, a, "was")
	k.put(t, c, "was")
	route := k.route("test", fmt.Sprintf("namespaces: [%s, %s]", a, b))
	bridge := w.bridge(t, route)
	bridge.waitState(t, k.name, "test", "running")
	k.put(t, a, "one")
	k.put(t, b, "one")
	k.put(t, c, "one")
	want := []string{"existing " + a + "/was", "created " + a + "/one", "created " + b + "/one"}
	w.expectSet(t, want...)
	bridge.Kill()
	for _, namespace := range []string{a, b, c} {
		if err := k.in(namespace).Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bridge = w.bridge(t, route)
	want = append(want, "deleted "+a+"/one", "deleted "+b+"/one")
	w.expectSet(t, want...)
	bridge.Kill()

	// Another namespace instead of one: what is left behind still exists.
	k.put(t, a, "more")
	stays := k.put(t, b, "stays")
	bridge = w.bridge(t, k.route("test", fmt.Sprintf("namespaces: [%s, %s]", b, c)))
	want = append(want, "created "+b+"/stays", "deselected "+a+"/was", "existing "+c+"/was")
	w.expectSet(t, want...)
	w.recorded(t, stays) // so that nothing before it is told as it happened
	bridge.Kill()
	bridge = w.bridge(t, k.route("test"))
	want = append(want, "existing "+a+"/was", "existing "+a+"/more")
	w.expectSet(t, want...)
	bridge.waitState(t, k.name, "test", "running")
	w.orderly(t)
}

// TestSelectionChanged shows what a route that selects otherwise than before
// tells, and that going back and forth breaks no order.
func TestSelectionChanged(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	k := w.kind
	k.create(t)
	k.put(t, "default", "a", "color=red")
	k.put(t, "default", "b", "color=blue")
	k.put(t, "default", "c", "color=red")
	red, blue := k.route("test", "labelSelector: color=red"), k.route("test", "labelSelector: color=blue")
	b := w.bridge(t, red)
	want := []string{"existing default/a", "existing default/c"}
	w.expectSet(t, want...)
	b.Kill()

	b = w.bridge(t, blue)
	want = append(want, "existing default/b", "deselected default/a", "deselected default/c")
	w.expectSet(t, want...)
	b.Kill()

	k.drop(t, "c")
	b = w.bridge(t, red)
	want = append(want, "existing default/a", "deselected default/b")
	w.expectSet(t, want...)
	b.waitState(t, k.name, "test", "running")
	k.set(t, "a", "size", 1)
	want = append(want, "updated default/a")
	w.expectSet(t, want...)
	b.Kill()

	k.drop(t, "a")
	b = w.bridge(t) // all of them
	want = append(want, "deleted default/a", "existing default/b")
	w.expectSet(t, want...)
	w.orderly(t)
	b.waitState(t, k.name, "test", "running")
}
