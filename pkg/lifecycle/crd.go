package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	fieldselector "k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sources"
)

// CRD is what matters of a CustomResourceDefinition.
type CRD struct {
	Name        string
	UID         types.UID
	Group       string
	Kind        string
	Plural      string
	Namespaced  bool
	Versions    []Version
	Established bool
	// Accepted: its names are. From then on the API server serves it, which may
	// be before it is established.
	Accepted bool
	// NotEstablished says why it is not, in the API server's words.
	NotEstablished string
	Deleting       bool
	Created        int64  // seconds of Unix time
	AsOf           uint64 // the resource version at which it was so; 0 where that is no number
}

// Version is one version of a CRD.
type Version struct {
	Name    string
	Served  bool
	Storage bool
	// Selectable are the fields that a field selector can name, as it names
	// them; none where the CRD was stripped.
	Selectable []string
}

// FromObject is what matters of a CRD.
func FromObject(o *apiextensions.CustomResourceDefinition) *CRD {
	c := &CRD{
		Name: o.Name, UID: o.UID, Group: o.Spec.Group, Kind: o.Spec.Names.Kind, Plural: o.Spec.Names.Plural,
		Namespaced: o.Spec.Scope == apiextensions.NamespaceScoped,
		Deleting:   o.DeletionTimestamp != nil,
	}
	if asOf, err := strconv.ParseUint(o.ResourceVersion, 10, 64); err == nil {
		c.AsOf = asOf
	}
	if !o.CreationTimestamp.IsZero() {
		c.Created = o.CreationTimestamp.Unix()
	}
	for _, v := range o.Spec.Versions {
		version := Version{Name: v.Name, Served: v.Served, Storage: v.Storage}
		for _, field := range v.SelectableFields {
			version.Selectable = append(version.Selectable, strings.TrimPrefix(field.JSONPath, "."))
		}
		c.Versions = append(c.Versions, version)
	}
	var established, names string
	for _, condition := range o.Status.Conditions {
		holds := condition.Status == apiextensions.ConditionTrue
		switch condition.Type {
		case apiextensions.Established:
			if c.Established = holds; !holds && condition.Reason != "Installing" { // which is the usual way there
				established = condition.Message
			}
		case apiextensions.NamesAccepted:
			if c.Accepted = holds; !holds {
				names = condition.Message
			}
		}
	}
	c.NotEstablished = cmp.Or(names, established)
	return c
}

// unestablished says that it is not established, and why.
func (c *CRD) unestablished() string {
	reason := "the CRD is not established yet"
	if c.NotEstablished != "" {
		reason += ": " + c.NotEstablished
	}
	return reason
}

// Choose is the version to watch: the one that is wanted; else the storage
// version, of which the API server has to convert nothing; else the newest
// that is served, by Kubernetes' own priority of versions
// (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#version-priority).
func (c *CRD) Choose(wanted string) (string, error) {
	var served []string
	storage := ""
	for _, v := range c.Versions {
		if !v.Served {
			continue
		}
		served = append(served, v.Name)
		if v.Storage {
			storage = v.Name
		}
	}
	slices.SortFunc(served, func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
	switch {
	case len(served) == 0:
		return "", fmt.Errorf("no version of %s is served", c.Name)
	case slices.Contains(served, wanted):
		return wanted, nil
	case wanted != "":
		return "", fmt.Errorf("version %s of %s is not served; served are: %s; set the route's version to one of them, or leave it out", wanted, c.Name, strings.Join(served, ", "))
	case storage != "":
		return storage, nil
	default:
		return served[0], nil
	}
}

// Unselectable are the fields of a field selector that a version does not let
// one select by. The CRD must not have been stripped.
func (c *CRD) Unselectable(version, selector string) (fields []string) {
	parsed, err := fieldselector.ParseSelector(selector)
	if err != nil {
		return []string{selector}
	}
	i := slices.IndexFunc(c.Versions, func(v Version) bool { return v.Name == version })
	for _, r := range parsed.Requirements() {
		if r.Field != "metadata.name" && r.Field != "metadata.namespace" && (i < 0 || !slices.Contains(c.Versions[i].Selectable, r.Field)) {
			fields = append(fields, r.Field)
		}
	}
	return fields
}

// resource is what to list and watch for one of the CRD's versions.
func (c *CRD) resource(version string) sources.Resource {
	return sources.Resource{
		CRD:    c.UID,
		Kind:   schema.GroupVersionKind{Group: c.Group, Version: version, Kind: c.Kind},
		Plural: c.Plural, Namespaced: c.Namespaced,
	}
}

// successor is the CRD as one that has taken the place of another and cannot be
// followed, for that reason.
func (c *CRD) successor(rules *flow.Rules, reason string) flow.Successor {
	next := flow.Successor{Reason: reason}
	switch version, err := c.Choose(""); {
	case !c.Accepted && !c.Established, !c.Namespaced && rules.NamesNamespaces():
		next.Empty = c.AsOf // it was not served yet, or has no objects in a namespace
	case err == nil:
		next.Resource = c.resource(version)
	}
	return next
}

// Strip drops from a CRD, before the cache keeps it, what is not needed of it:
// the schemas are most of its size. It is a cache.TransformFunc.
func Strip(object any) (any, error) {
	crd, ok := object.(*apiextensions.CustomResourceDefinition)
	if !ok {
		return object, nil // a tombstone of one that was stripped when it came
	}
	crd.ManagedFields = nil
	crd.Annotations = nil
	crd.Spec.Conversion = nil
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		*v = apiextensions.CustomResourceDefinitionVersion{Name: v.Name, Served: v.Served, Storage: v.Storage}
	}
	return crd, nil
}
