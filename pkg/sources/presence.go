package sources

import (
	"context"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
)

// Presence knows which objects exist, whatever selects them. It asks by list,
// never by get, so that the right to follow a resource is enough; and only for
// metadata. Its answers are consistent: they are no older than the question.
type Presence struct {
	client metadata.Interface
}

// NewPresence makes one for the cluster.
func NewPresence(c Cluster) (*Presence, error) {
	client, err := metadata.NewForConfigAndClient(c.Config, c.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for metadata: %w", err)
	}
	return &Presence{client: client}, nil
}

// Of is the uid of the object that has the name, empty where there is none, and
// the resource version that this is as of. A list of one name is a read of one
// key to the API server.
func (p *Presence) Of(ctx context.Context, r Resource, namespace, name string) (uid types.UID, asOf uint64, err error) {
	asOf, err = p.list(ctx, r, namespace, metav1.ListOptions{FieldSelector: byName(name)}, func(o *metav1.PartialObjectMetadata) {
		uid = o.UID
	})
	return uid, asOf, err
}

// All gives every object of the namespace, or of all namespaces where it is
// empty, and the resource version that this is as of.
func (p *Presence) All(ctx context.Context, r Resource, namespace string, object func(*metav1.PartialObjectMetadata)) (asOf uint64, err error) {
	return p.list(ctx, r, namespace, metav1.ListOptions{Limit: mostPage}, object)
}

func (p *Presence) list(ctx context.Context, r Resource, namespace string, o metav1.ListOptions, object func(*metav1.PartialObjectMetadata)) (uint64, error) {
	resource := p.client.Resource(r.Kind.GroupVersion().WithResource(r.Plural))
	for {
		list, err := resource.Namespace(namespace).List(ctx, o)
		if err != nil {
			return 0, err
		}
		for i := range list.Items {
			object(&list.Items[i])
		}
		if o.Continue = list.Continue; o.Continue != "" {
			continue
		}
		version, err := strconv.ParseUint(list.ResourceVersion, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("resource version %q of a list of %s: %w", list.ResourceVersion, r.Plural, err)
		}
		return version, nil
	}
}
