//go:build unix

package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// kind and resource are what is watched.
var (
	kind     = schema.GroupVersionKind{Group: "bench.example.com", Version: "v1", Kind: "Thing"}
	resource = kind.GroupVersion().WithResource("things")
)

const crdName = "things.bench.example.com"

// objects are the custom resources that are watched.
type objects struct {
	client  dynamic.ResourceInterface
	options options
	round   atomic.Int64
}

// newObjects creates the CRD, and returns when objects of it can be created.
func newObjects(ctx context.Context, config *rest.Config, o options) (*objects, error) {
	crds, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	crd := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: crdName},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: kind.Group, Scope: apiextensions.NamespaceScoped,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: kind.Kind, ListKind: "ThingList"},
			Versions: []apiextensions.CustomResourceDefinitionVersion{{
				Name: kind.Version, Served: true, Storage: true,
				Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{
					Type: "object", XPreserveUnknownFields: new(true),
				}},
			}},
		},
	}
	if _, err := crds.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, crd, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("creating the CRD: %w", err)
	}
	things := &objects{client: client.Resource(resource).Namespace("default"), options: o}
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := things.client.List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for the CRD: %w", err)
	}
	return things, nil
}

// create creates the objects. Their specs are made of many small fields, as
// those of real custom resources are.
func (o *objects) create(ctx context.Context) error {
	const field = 64
	spec := map[string]any{"round": int64(0)}
	for i := range o.options.size / field {
		spec[fmt.Sprintf("field%03d", i)] = strings.Repeat("x", field-16)
	}
	return o.each(ctx, func(ctx context.Context, name string) error {
		object := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name}, "spec": spec}}
		object.SetGroupVersionKind(kind)
		_, err := o.client.Create(ctx, object, metav1.CreateOptions{})
		return err
	})
}

// update changes each object once.
func (o *objects) update(ctx context.Context) error {
	patch := fmt.Appendf(nil, `{"spec":{"round":%d}}`, o.round.Add(1))
	return o.each(ctx, func(ctx context.Context, name string) error {
		_, err := o.client.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
}

func (o *objects) each(ctx context.Context, do func(ctx context.Context, name string) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range o.options.objects {
		group.Go(func() error { return do(ctx, fmt.Sprintf("thing-%06d", i)) })
	}
	return group.Wait()
}
