package sources

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// mapper knows just one resource, so that no discovery is asked: the CRD has
// said all there is to know, and discovery lags behind it. It takes a hundredth
// of what meta.DefaultRESTMapper takes, and there is one for each informer.
type mapper struct{ Resource }

var _ meta.RESTMapper = mapper{}

func (m mapper) resource() schema.GroupVersionResource {
	return m.Kind.GroupVersion().WithResource(m.Plural)
}

// RESTMapping is what controller-runtime asks for.
func (m mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	if kind != m.Kind.GroupKind() {
		return nil, &meta.NoKindMatchError{GroupKind: kind, SearchedVersions: versions}
	}
	scope := meta.RESTScopeRoot
	if m.Namespaced {
		scope = meta.RESTScopeNamespace
	}
	return &meta.RESTMapping{Resource: m.resource(), GroupVersionKind: m.Kind, Scope: scope}, nil
}

// RESTMappings implements meta.RESTMapper.
func (m mapper) RESTMappings(kind schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	mapping, err := m.RESTMapping(kind, versions...)
	if err != nil {
		return nil, err
	}
	return []*meta.RESTMapping{mapping}, nil
}

// KindFor implements meta.RESTMapper.
func (m mapper) KindFor(resource schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	if resource != m.resource() {
		return schema.GroupVersionKind{}, &meta.NoResourceMatchError{PartialResource: resource}
	}
	return m.Kind, nil
}

// KindsFor implements meta.RESTMapper.
func (m mapper) KindsFor(resource schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	kind, err := m.KindFor(resource)
	if err != nil {
		return nil, err
	}
	return []schema.GroupVersionKind{kind}, nil
}

// ResourceFor implements meta.RESTMapper.
func (m mapper) ResourceFor(resource schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	_, err := m.KindFor(resource)
	return resource, err
}

// ResourcesFor implements meta.RESTMapper.
func (m mapper) ResourcesFor(resource schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	_, err := m.KindFor(resource)
	return []schema.GroupVersionResource{resource}, err
}

// ResourceSingularizer implements meta.RESTMapper. The plural stands for itself.
func (m mapper) ResourceSingularizer(resource string) (string, error) { return resource, nil }
