//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
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
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	group     = "bench.example.com"
	namespace = "default"
	crdName   = "things." + group
	emptyCRD  = "nothings." + group // of which there are no objects
)

// kind and resource are what is watched.
var (
	kind          = schema.GroupVersionKind{Group: group, Version: "v1", Kind: "Thing"}
	resource      = kind.GroupVersion().WithResource("things")
	emptyResource = kind.GroupVersion().WithResource("nothings")
)

// numbered is the plural of one of the CRDs of which there are many.
func numbered(i int) string { return fmt.Sprintf("things%04d", i) }

// createCRD creates a CRD with that plural, and returns when objects of it can
// be created.
func createCRD(ctx context.Context, config *rest.Config, plural string) error {
	crds, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	singular := strings.Replace(plural, "things", "thing", 1)
	of := strings.ToUpper(singular[:1]) + singular[1:]
	crd := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensions.NamespaceScoped,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: plural, Singular: singular, Kind: of, ListKind: of + "List"},
			Versions: []apiextensions.CustomResourceDefinitionVersion{{
				Name: kind.Version, Served: true, Storage: true,
				Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{
					Type: "object", XPreserveUnknownFields: new(true),
				}},
			}},
		},
	}
	if _, err := crds.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, crd, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating the CRD %s: %w", crd.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last error
	err = until(ctx, 50*time.Millisecond, func() (bool, error) {
		_, last = client.Resource(kind.GroupVersion().WithResource(plural)).List(ctx, metav1.ListOptions{Limit: 1})
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the CRD %s: %w: %w", crd.Name, err, last)
	}
	return nil
}

// objects are the custom resources that are watched. There are ever more of
// them.
type objects struct {
	client dynamic.ResourceInterface
	size   int // bytes of each spec
	count  int
	change atomic.Int64
}

func newObjects(ctx context.Context, config *rest.Config, size int) (*objects, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	for _, plural := range []string{resource.Resource, emptyResource.Resource} {
		if err := createCRD(ctx, config, plural); err != nil {
			return nil, err
		}
	}
	return &objects{client: client.Resource(resource).Namespace(namespace), size: size}, nil
}

func name(i int) string { return fmt.Sprintf("thing-%06d", i) }

// grow creates objects until there are that many. Their specs are made of many
// small fields, as those of real custom resources are.
func (o *objects) grow(ctx context.Context, count int) error {
	const field = 64
	spec := map[string]any{"change": int64(0)}
	for i := range o.size / field {
		spec[fmt.Sprintf("field%03d", i)] = strings.Repeat("x", field-16)
	}
	first := o.count
	o.count = max(o.count, count)
	return parallel(ctx, first, o.count, func(ctx context.Context, i int) error {
		object := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name(i)}, "spec": spec}}
		object.SetGroupVersionKind(kind)
		_, err := o.client.Create(ctx, object, metav1.CreateOptions{})
		return err
	})
}

// update changes one object and returns the version that it has then.
func (o *objects) update(ctx context.Context, i int) (uint64, error) {
	patch := fmt.Appendf(nil, `{"spec":{"change":%d}}`, o.change.Add(1))
	changed, err := o.client.Patch(ctx, name(i), types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(changed.GetResourceVersion(), 10, 64)
}

// place is an object and a version of it.
type place struct {
	name    string
	version uint64
}

// updateAll changes each object once and returns the change that was the last.
func (o *objects) updateAll(ctx context.Context) (last place, err error) {
	versions := make([]uint64, o.count)
	err = parallel(ctx, 0, o.count, func(ctx context.Context, i int) (err error) {
		versions[i], err = o.update(ctx, i)
		return err
	})
	for i, version := range versions {
		if version > last.version {
			last = place{name(i), version}
		}
	}
	return last, err
}

// touch changes one object.
func (o *objects) touch(ctx context.Context, i int) (place, error) {
	version, err := o.update(ctx, i)
	return place{name(i), version}, err
}

// parallel does something for each number from first to end, several at a time.
func parallel(ctx context.Context, first, end int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := first; i < end && ctx.Err() == nil; i++ {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}
