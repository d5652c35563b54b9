//go:build unix

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/crbridge/crbridge/test/oracle"
)

// resource is a custom resource that the suite changes.
type resource struct {
	group, plural, singular, kind string
	namespaced                    bool
	versions                      []string
}

var resources = []resource{
	{"shop.example.com", "orders", "order", "Order", true, []string{"v1"}},
	{"shop.example.com", "regions", "region", "Region", false, []string{"v1"}},
	{"text.example.com", "notes", "note", "Note", true, []string{"v1", "v2"}},
}

// definitions are the CRDs themselves.
var definitions = oracle.Resource{Group: "apiextensions.k8s.io", Plural: "customresourcedefinitions"}

func (r resource) crd() string { return r.plural + "." + r.group }

// kind is a resource, with what changes it.
type kind struct {
	resource
	crds    apiextensionsclient.Interface
	dynamic dynamic.Interface
	probes  atomic.Int64

	creating sync.RWMutex // held for writing while the CRD is being removed
}

func (w *world) startKinds(ctx context.Context) error {
	config := rest.CopyConfig(w.control.Admin())
	config.Timeout = 10 * time.Second
	crds, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	for _, r := range resources {
		k := &kind{resource: r, crds: crds, dynamic: client}
		w.kinds = append(w.kinds, k)
		if err := k.create(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (k *kind) definition() *apiextensions.CustomResourceDefinition {
	scope := apiextensions.ClusterScoped
	if k.namespaced {
		scope = apiextensions.NamespaceScoped
	}
	crd := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: k.crd()},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: k.group, Scope: scope,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: k.plural, Singular: k.singular, Kind: k.kind, ListKind: k.kind + "List"},
		},
	}
	for i, v := range k.versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensions.CustomResourceDefinitionVersion{
			Name: v, Served: true, Storage: i == 0,
			Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{
				Type: "object", XPreserveUnknownFields: new(true),
			}},
		})
	}
	return crd
}

// create makes the CRD, if there is none, and waits until it takes objects.
func (k *kind) create(ctx context.Context) error {
	return until(ctx, "CRD "+k.crd()+" is there", func() error {
		_, err := k.crds.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, k.definition(), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		crd, err := k.crds.ApiextensionsV1().CustomResourceDefinitions().Get(ctx, k.crd(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if crd.DeletionTimestamp != nil {
			return errors.New("it is being deleted")
		}
		_, err = k.objects("").List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// remove deletes the CRD and waits until it is gone. No object is made
// meanwhile: the API server deletes the objects that are there when it has marked
// the CRD, and a request to make one that passed the check for that mark before
// may be carried out after. That object would outlive its CRD, and be there again
// with the next one: see TestCRDRemovedByForce for what the bridge makes of that.
func (k *kind) remove(ctx context.Context) error {
	k.creating.Lock()
	defer k.creating.Unlock()
	return until(ctx, "CRD "+k.crd()+" is gone", func() error {
		crds := k.crds.ApiextensionsV1().CustomResourceDefinitions()
		err := crds.Delete(ctx, k.crd(), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if _, err = crds.Get(ctx, k.crd(), metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}

// serve makes the version the one that is stored, and the only one served.
func (k *kind) serve(ctx context.Context, version string) error {
	return until(ctx, k.crd()+" is served as "+version, func() error {
		crds := k.crds.ApiextensionsV1().CustomResourceDefinitions()
		crd, err := crds.Get(ctx, k.crd(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for i := range crd.Spec.Versions {
			v := &crd.Spec.Versions[i]
			v.Storage = v.Name == version
			v.Served = v.Storage || v.Name == k.versions[0]
		}
		_, err = crds.Update(ctx, crd, metav1.UpdateOptions{})
		return err
	})
}

func (k *kind) objects(namespace string) dynamic.ResourceInterface {
	r := k.dynamic.Resource(schema.GroupVersionResource{Group: k.group, Version: k.versions[0], Resource: k.plural})
	if k.namespaced && namespace != "" {
		return r.Namespace(namespace)
	}
	return r
}

func (k *kind) object(name string, content int64) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": k.group + "/" + k.versions[0], "kind": k.kind,
		"spec": map[string]any{"content": content, "text": "é <b>&</b> \u2028"},
	}}
	o.SetName(name)
	o.SetLabels(map[string]string{"color": color(content)})
	if k.namespaced {
		o.SetNamespace("default")
	}
	return o
}

// color is a label by which half of all objects are selected.
func color(content int64) string {
	if content%2 == 0 {
		return "red"
	}
	return "blue"
}

// probe makes an object, changes it once, and returns its uid.
func (k *kind) probe(ctx context.Context) (uid string, err error) {
	name := fmt.Sprintf("probe-%d", k.probes.Add(1))
	err = until(ctx, "a probe of "+k.crd(), func() error {
		o, err := k.objects("default").Create(ctx, k.object(name, 0), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // made by an attempt that had no answer
			o, err = k.objects("default").Get(ctx, name, metav1.GetOptions{})
		}
		if err != nil {
			return err
		}
		uid = string(o.GetUID())
		o.Object["spec"] = map[string]any{"content": int64(1)}
		_, err = k.objects("default").Update(ctx, o, metav1.UpdateOptions{})
		return err
	})
	return uid, err
}

// load changes objects all the time.
type load struct {
	cancel  context.CancelFunc
	workers sync.WaitGroup
	pause   sync.RWMutex // held for writing while nothing is to be changed
	changes atomic.Int64
}

// names of objects of each kind; few, so that names are used again.
const names = 24

func newLoad(kinds []*kind, seed uint64) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for i, k := range kinds {
		random := rand.New(rand.NewPCG(seed, uint64(100+i)))
		l.workers.Go(func() {
			pace := time.NewTicker(12 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
				l.pause.RLock()
				if k.change(ctx, random) == nil {
					l.changes.Add(1)
				}
				l.pause.RUnlock()
			}
		})
	}
	return l
}

func (l *load) stop() {
	l.cancel()
	l.workers.Wait()
}

// change does one thing to one object. What fails because a server is down or
// the CRD is not there is not done.
func (k *kind) change(ctx context.Context, random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	name := fmt.Sprintf("o%d", random.IntN(names))
	content := random.Int64()
	objects := k.objects("default")
	switch random.IntN(10) {
	case 0:
		return objects.Delete(ctx, name, metav1.DeleteOptions{})
	case 1: // the same name at once
		err := objects.Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		return k.add(ctx, name, content)
	case 2:
		return k.add(ctx, name, content)
	default:
		o, err := objects.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		o.Object["spec"] = map[string]any{"content": content}
		if content%8 == 0 {
			o.SetLabels(map[string]string{"color": color(content / 8)})
		}
		_, err = objects.Update(ctx, o, metav1.UpdateOptions{})
		return err
	}
}

// add makes an object, unless the CRD is being removed.
func (k *kind) add(ctx context.Context, name string, content int64) error {
	if !k.creating.TryRLock() {
		return errors.New("the CRD is being removed")
	}
	defer k.creating.RUnlock()
	_, err := k.objects("default").Create(ctx, k.object(name, content), metav1.CreateOptions{})
	return err
}

// until tries until it is so, and says what was not when ctx ends.
func until(ctx context.Context, what string, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, err, ctx.Err())
		case <-time.After(30 * time.Millisecond):
		}
	}
}
