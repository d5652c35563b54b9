//go:build unix

package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

var groups atomic.Int64

// kind is a custom resource of a test's own.
type kind struct {
	name    string // of the CRD
	group   string
	plural  string
	scope   apiextensions.ResourceScope
	version string // that the test's client uses
	crds    apiextensionsclient.Interface
	dynamic dynamic.Interface
}

// newKind makes up a custom resource; its CRD is not created yet.
func newKind(t *testing.T, config *rest.Config) *kind {
	t.Helper()
	crds, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	group := fmt.Sprintf("t%d.example.com", groups.Add(1))
	k := &kind{name: "widgets." + group, group: group, plural: "widgets", scope: apiextensions.NamespaceScoped, version: "v1", crds: crds, dynamic: client}
	t.Cleanup(func() {
		err := crds.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), k.name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("clean-up: %v", err)
		}
	})
	return k
}

// served describes versions of a CRD; the first is the storage version.
func (k *kind) definition(versions ...string) *apiextensions.CustomResourceDefinition {
	crd := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: k.name},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: k.group, Scope: k.scope,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: k.plural, Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
		},
	}
	for i, version := range versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensions.CustomResourceDefinitionVersion{
			Name: version, Served: true, Storage: i == 0,
			Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{
				Type: "object", XPreserveUnknownFields: new(true),
			}},
		})
	}
	return crd
}

// create creates the CRD and waits until its objects can be.
func (k *kind) create(t *testing.T, versions ...string) {
	t.Helper()
	if len(versions) == 0 {
		versions = []string{"v1"}
	}
	_, err := k.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), k.definition(versions...), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := k.objects().List(t.Context(), metav1.ListOptions{})
		return err
	})
}

// update changes the CRD.
func (k *kind) update(t *testing.T, change func(*apiextensions.CustomResourceDefinition)) {
	t.Helper()
	eventually(t, func() error {
		crds := k.crds.ApiextensionsV1().CustomResourceDefinitions()
		crd, err := crds.Get(t.Context(), k.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(crd)
		_, err = crds.Update(t.Context(), crd, metav1.UpdateOptions{})
		return err
	})
}

// remove deletes the CRD and waits until it is gone.
func (k *kind) remove(t *testing.T) {
	t.Helper()
	crds := k.crds.ApiextensionsV1().CustomResourceDefinitions()
	if err := crds.Delete(t.Context(), k.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := crds.Get(t.Context(), k.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the CRD is still there"), err)
		}
		return nil
	})
}

// objects is a client for the objects in the namespace default, or of the cluster.
func (k *kind) objects() dynamic.ResourceInterface {
	resource := k.dynamic.Resource(schema.GroupVersionResource{Group: k.group, Version: k.version, Resource: k.plural})
	if k.scope == apiextensions.ClusterScoped {
		return resource
	}
	return resource.Namespace("default")
}

func (k *kind) apiVersion() string { return k.group + "/" + k.version }

// add creates an object. A CRD that has only just been established may not
// take objects yet on an API server that has not noticed.
func (k *kind) add(t *testing.T, name string, spec map[string]any) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": k.apiVersion(), "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": spec,
	}}
	var created *unstructured.Unstructured
	eventually(t, func() (err error) {
		created, err = k.objects().Create(t.Context(), object, metav1.CreateOptions{FieldManager: "test"})
		return err
	})
	return created
}

// set changes a field of an object's spec.
func (k *kind) set(t *testing.T, name, field string, value any) *unstructured.Unstructured {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{field: value}})
	if err != nil {
		t.Fatal(err)
	}
	updated, err := k.objects().Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return updated
}

// drop deletes an object.
func (k *kind) drop(t *testing.T, name string) {
	t.Helper()
	if err := k.objects().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// route is the YAML of a route for the kind.
func (k *kind) route(name string, more ...string) string {
	return fmt.Sprintf("  - {name: %s, crds: [%s], sinks: [main]%s}\n", name, k.name, strings.Join(append([]string{""}, more...), ", "))
}
