package sources

import (
	"context"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
)

// pick asks for single objects of the selection. It does so by list, never by
// get, so that the right to follow them is enough, and with the selection's
// selectors, as there may be no right without them. A list of one name in its
// namespace is a read of one key to the API server; controller-runtime's lists
// are of one namespace or of all, so the requests are made here.
func (c Cluster) pick(r Resource, selected Selection) pick {
	connect := sync.OnceValues(func() (dynamic.Interface, error) { // most flows never ask
		return dynamic.NewForConfigAndClient(c.Config, c.bodies())
	})
	return func(ctx context.Context, namespace, name, resourceVersion string) (runtime.Object, error) {
		client, err := connect()
		if err != nil {
			return nil, fmt.Errorf("client for %s: %w", r.Kind, err)
		}
		options := metav1.ListOptions{
			LabelSelector: selected.Labels, FieldSelector: selected.named(name),
			ResourceVersion: resourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact,
		}
		return client.Resource(r.Kind.GroupVersion().WithResource(r.Plural)).Namespace(namespace).List(ctx, options)
	}
}

// named is the selection's field selector, for the one object that has the name.
func (s Selection) named(name string) string {
	selector := byName(name)
	if s.Fields != "" {
		selector = s.Fields + "," + selector
	}
	return selector
}

// byName is the field selector for one name.
func byName(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }
