//go:build unix

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

//go:embed manifests/orders.yaml
var ordersCRD []byte

const (
	// tick is the pace of the demo.
	tick = time.Second

	// absence is how long the CRD stays away, so that a reader sees it.
	absence = 2 * time.Second

	// crdTimeout bounds the API server's work on a CRD.
	crdTimeout = 30 * time.Second
)

// market changes orders. Only one goroutine may use it.
type market struct {
	crd    *apiextensionsv1.CustomResourceDefinition
	crds   apiextensions.CustomResourceDefinitionInterface
	orders dynamic.ResourceInterface
	screen *screen

	serial int      // of the latest order
	placed []string // names of the orders that exist, the oldest first
}

func newMarket(admin *rest.Config, out *screen) (*market, error) {
	m := &market{crd: &apiextensionsv1.CustomResourceDefinition{}, screen: out}
	if err := yaml.UnmarshalStrict(ordersCRD, m.crd); err != nil {
		return nil, fmt.Errorf("manifests/orders.yaml: %w", err)
	}
	crds, err := apiextensions.NewForConfig(admin)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(admin)
	if err != nil {
		return nil, err
	}
	m.crds = crds.CustomResourceDefinitions()
	m.orders = objects.Resource(schema.GroupVersionResource{
		Group: m.crd.Spec.Group, Version: m.crd.Spec.Versions[0].Name, Resource: m.crd.Spec.Names.Plural,
	}).Namespace(metav1.NamespaceDefault)
	return m, nil
}

// open makes the CRD and two orders.
func (m *market) open(ctx context.Context) error {
	m.screen.step("Applying the CRD %s and two orders", m.crd.Name)
	if err := m.createCRD(ctx); err != nil {
		return err
	}
	return errors.Join(m.place(ctx), m.place(ctx))
}

// trade changes orders at each tick, and takes the CRD away and back at each
// crdCycle, until ctx ends or the API server refuses something.
func (m *market) trade(ctx context.Context, crdCycle time.Duration) error {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	var cycles <-chan time.Time // nil, that is never, if there are none
	if crdCycle > 0 {
		ticker := time.NewTicker(crdCycle)
		defer ticker.Stop()
		cycles = ticker.C
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticks.C:
			err = m.change(ctx)
		case <-cycles:
			err = m.cycleCRD(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// change places an order and moves each of those before it one step on: its
// customer adds an item; it is paid; it is shipped; it is deleted.
func (m *market) change(ctx context.Context) error {
	before := m.placed
	if err := m.place(ctx); err != nil {
		return err
	}
	for i, name := range before {
		var err error
		switch age := len(before) - i; age {
		case 1:
			err = m.addItem(ctx, name)
		case 2:
			err = m.setPhase(ctx, name, "Paid")
		case 3:
			err = m.setPhase(ctx, name, "Shipped")
		default:
			err = m.orders.Delete(ctx, name, metav1.DeleteOptions{})
			m.placed = m.placed[1:]
		}
		if err != nil {
			return fmt.Errorf("order %s: %w", name, err)
		}
	}
	return nil
}

var (
	customers = []string{"Ada", "Grace", "Edsger", "Barbara", "Leslie", "Radia"}
	products  = []string{"tea", "coffee", "cocoa", "honey", "rice"}
)

// place creates an order.
func (m *market) place(ctx context.Context) error {
	m.serial++
	name := fmt.Sprintf("order-%04d", m.serial)
	order := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": m.crd.Spec.Group + "/" + m.crd.Spec.Versions[0].Name,
		"kind":       m.crd.Spec.Names.Kind,
		"metadata":   map[string]any{"name": name},
		"spec": map[string]any{
			"customer": customers[m.serial%len(customers)],
			"items":    []any{item(m.serial)},
			"total":    price(m.serial),
		},
	}}
	if _, err := m.orders.Create(ctx, order, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("order %s: %w", name, err)
	}
	m.placed = append(m.placed, name)
	return nil
}

func item(n int) map[string]any {
	return map[string]any{"product": products[n%len(products)], "quantity": int64(1 + n%3)}
}

// price is some price: they need not add up.
func price(n int) string { return fmt.Sprintf("%d.%02d", 5+n*7%90, n*35%100) }

func (m *market) addItem(ctx context.Context, name string) error {
	order, err := m.orders.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	items, _, err := unstructured.NestedSlice(order.Object, "spec", "items")
	if err != nil {
		return err
	}
	err = errors.Join(
		unstructured.SetNestedSlice(order.Object, append(items, item(m.serial)), "spec", "items"),
		unstructured.SetNestedField(order.Object, price(m.serial+1), "spec", "total"),
	)
	if err != nil {
		return err
	}
	_, err = m.orders.Update(ctx, order, metav1.UpdateOptions{})
	return err
}

func (m *market) setPhase(ctx context.Context, name, phase string) error {
	order, err := m.orders.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := unstructured.SetNestedField(order.Object, phase, "status", "phase"); err != nil {
		return err
	}
	_, err = m.orders.UpdateStatus(ctx, order, metav1.UpdateOptions{})
	return err
}

// cycleCRD deletes the CRD, with which its orders go, and makes it again.
func (m *market) cycleCRD(ctx context.Context) error {
	m.screen.step("Deleting the CRD %s, and with it %d orders", m.crd.Name, len(m.placed))
	if err := m.crds.Delete(ctx, m.crd.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	m.placed = nil
	err := wait(ctx, "deletion of the CRD", func(ctx context.Context) (bool, error) {
		_, err := m.crds.Get(ctx, m.crd.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(absence):
	}
	m.screen.step("Making the CRD again")
	return m.createCRD(ctx)
}

// createCRD makes the CRD and waits until its objects are served.
func (m *market) createCRD(ctx context.Context) error {
	if _, err := m.crds.Create(ctx, m.crd.DeepCopy(), metav1.CreateOptions{}); err != nil {
		return err
	}
	// Established comes a moment before the objects are served.
	return wait(ctx, "the API of the CRD", func(ctx context.Context) (bool, error) {
		_, err := m.orders.List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// wait calls done until it says so, it fails or crdTimeout is over.
func wait(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, crdTimeout)
	defer cancel()
	for {
		if ok, err := done(ctx); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
