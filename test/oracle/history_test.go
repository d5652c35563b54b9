//go:build unix

package oracle_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/oracle"
)

const patience = time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kind is a custom resource on a control plane.
type kind struct {
	t      *testing.T
	plural string
	scope  apiextensions.ResourceScope
	client dynamic.ResourceInterface

	told []string // what the API server answered, as want is written
}

func newKind(t *testing.T, cp *controlplane.ControlPlane, plural string, scope apiextensions.ResourceScope) *kind {
	t.Helper()
	crds, err := apiextensionsclient.NewForConfig(cp.Admin())
	must(t, err)
	client, err := dynamic.NewForConfig(cp.Admin())
	must(t, err)
	const group = "shop.example.com"
	_, err = crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: group, Scope: scope,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: plural, Kind: "K" + plural},
			Versions: []apiextensions.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{
					Type: "object", XPreserveUnknownFields: new(true),
				}},
			}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	k := &kind{t: t, plural: plural, scope: scope}
	resource := client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural})
	k.client = resource
	if scope == apiextensions.NamespaceScoped {
		k.client = resource.Namespace("default")
	}
	k.retry(func() error {
		_, err := k.client.List(t.Context(), metav1.ListOptions{})
		return err
	})
	return k
}

// retry asks until there is an answer: the API server takes a while to find
// etcd again.
func (k *kind) retry(ask func() error) {
	k.t.Helper()
	ctx := within(k.t)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			k.t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// line is how a version is compared: by who it is, and by its content's digest.
func line(t *testing.T, what, plural, key, uid, revision string, object *unstructured.Unstructured) string {
	t.Helper()
	text, err := object.MarshalJSON()
	must(t, err)
	content, err := oracle.ReadContent(text)
	must(t, err)
	return fmt.Sprint(what, " ", plural, " ", key, " ", uid, " ", revision, " ", content)
}

func (k *kind) note(what, revision string, o *unstructured.Unstructured) {
	k.t.Helper()
	key := o.GetName()
	if o.GetNamespace() != "" {
		key = o.GetNamespace() + "/" + key
	}
	k.told = append(k.told, line(k.t, what, k.plural, key, string(o.GetUID()), revision, o))
}

// live lets an object be created, changed and deleted.
func (k *kind) live(name string) {
	k.t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "shop.example.com/v1", "kind": "K" + k.plural,
		"metadata": map[string]any{"name": name, "annotations": map[string]any{
			"kubectl.kubernetes.io/last-applied-configuration": "{}",
		}},
		"spec": map[string]any{"text": "<&> \u00e9\u2028", "large": int64(1) << 60, "float": 1.5e300, "whole": 2.0, "none": nil, "list": []any{}},
	}}
	k.retry(func() error {
		created, err := k.client.Create(k.t.Context(), o, metav1.CreateOptions{FieldManager: "test"})
		if err == nil {
			o = created
		}
		return err
	})
	k.note("put", o.GetResourceVersion(), o)
	must(k.t, unstructured.SetNestedField(o.Object, "changed", "spec", "text"))
	o, err := k.client.Update(k.t.Context(), o, metav1.UpdateOptions{})
	must(k.t, err)
	k.note("put", o.GetResourceVersion(), o)
	watch, err := k.client.Watch(k.t.Context(), metav1.ListOptions{ResourceVersion: o.GetResourceVersion()})
	must(k.t, err)
	defer watch.Stop()
	must(k.t, k.client.Delete(k.t.Context(), name, metav1.DeleteOptions{}))
	deletion := (<-watch.ResultChan()).Object.(*unstructured.Unstructured)
	k.note("gone", deletion.GetResourceVersion(), deletion)
}

// recorded is what the history has of the kind.
func (k *kind) recorded(h *oracle.History) []string {
	var lines []string
	for _, v := range h.Past().Versions {
		what := "put"
		if v.Deleted {
			what = "gone"
		}
		if v.Plural == k.plural {
			lines = append(lines, fmt.Sprint(what, " ", v.Plural, " ", v.Key(), " ", v.UID, " ", v.Revision, " ", v.Content))
		}
	}
	return lines
}

// TestHistory records, through everything that etcd may suffer, exactly what
// the API server said to whoever made the changes.
func TestHistory(t *testing.T) {
	cp := controlplane.ForTest(t, controlplane.Options{})
	h, err := oracle.Record(t.Context(), cp.EtcdEndpoint(), "/registry/shop.example.com/orders/", "/registry/shop.example.com/depots/")
	must(t, err)
	defer h.Close()
	namespaced := newKind(t, cp, "orders", apiextensions.NamespaceScoped)
	global := newKind(t, cp, "depots", apiextensions.ClusterScoped)
	live := func(name string) {
		t.Helper()
		namespaced.live(name)
		global.live(name)
	}
	live("first")
	must(t, cp.Etcd.Restart(t.Context()))
	live("restarted")
	cp.Etcd.Kill()
	must(t, cp.Etcd.Start(t.Context()))
	live("killed")
	must(t, cp.Etcd.Pause(t.Context()))
	must(t, cp.Etcd.Resume(t.Context()))
	live("paused")
	compacted, err := h.Compact(within(t))
	must(t, err)
	live("compacted")
	if again, err := h.Compact(within(t)); err != nil || again <= compacted {
		t.Errorf("second compaction at %d after %d: %v", again, compacted, err)
	}
	if _, err := h.Compact(within(t)); err != nil { // perhaps nothing is written meanwhile
		t.Error(err)
	}
	live("last")

	// Writes elsewhere move etcd's revision, and a Sync with it.
	for range 3 {
		newKind(t, cp, fmt.Sprintf("others%d", time.Now().UnixNano()), apiextensions.ClusterScoped)
		revision, err := h.Sync(within(t))
		must(t, err)
		if past := h.Past(); past.Revision < revision {
			t.Errorf("recorded up to %d after a Sync to %d", past.Revision, revision)
		}
	}
	for _, k := range []*kind{namespaced, global} {
		if diff := cmp.Diff(k.told, k.recorded(h)); diff != "" {
			t.Errorf("%s (-told +recorded):\n%s", k.plural, diff)
		}
	}

	// Down, it waits; closed, it ends.
	cp.Etcd.Kill()
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := h.Sync(short); err == nil {
		t.Error("a Sync without etcd succeeds")
	}
	must(t, cp.Etcd.Start(t.Context()))
	_, err = h.Sync(within(t))
	must(t, err)
	must(t, h.Close())
	if _, err := h.Sync(within(t)); err == nil {
		t.Error("a Sync after Close succeeds")
	}

	// Whoever begins when the first revisions are gone has missed something.
	late, err := oracle.Record(t.Context(), cp.EtcdEndpoint(), "/registry/shop.example.com/")
	must(t, err)
	defer late.Close()
	if _, err := late.Sync(within(t)); err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("recording after a compaction: %v", err)
	}
}

func TestRecordRefuses(t *testing.T) {
	for _, prefixes := range [][]string{nil, {"/registry/a/", "/registry/a/b/"}, {"/registry/a/", "/registry/a/"}} {
		if h, err := oracle.Record(t.Context(), "unix:///none", prefixes...); err == nil {
			t.Errorf("%q: no error", prefixes)
			h.Close()
		}
	}
}
