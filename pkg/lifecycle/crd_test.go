package lifecycle

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sources"
)

func TestChoose(t *testing.T) {
	for _, row := range []struct {
		why      string
		versions []Version
		wanted   string
		want     string
		err      string
	}{
		{"the storage version, of which nothing is converted", []Version{{"v2", true, false, nil}, {"v1", true, true, nil}}, "", "v1", ""},
		{"the newest, where the storage version is not served", []Version{{"v1beta1", true, false, nil}, {"v1", false, true, nil}, {"v10", true, false, nil}, {"v9", true, false, nil}}, "", "v10", ""},
		{"stable before beta before alpha, whatever the number", []Version{{"v3alpha1", true, false, nil}, {"v2beta2", true, false, nil}, {"v1", true, false, nil}, {"v0", false, true, nil}}, "", "v1", ""},
		{"names that are no Kubernetes versions come last", []Version{{"zeta", true, false, nil}, {"v1alpha1", true, false, nil}, {"v0", false, true, nil}}, "", "v1alpha1", ""},
		{"the one that is wanted", []Version{{"v2", true, false, nil}, {"v1", true, true, nil}}, "v2", "v2", ""},
		{"one that is wanted and not served", []Version{{"v1beta1", true, false, nil}, {"v1", true, true, nil}, {"v2", false, false, nil}}, "v2", "",
			"version v2 of widgets.example.com is not served; served are: v1, v1beta1; set the route's version to one of them, or leave it out"},
		{"none is served", []Version{{"v1", false, true, nil}}, "", "", "no version of widgets.example.com is served"},
		{"none is served, one is wanted", []Version{{"v1", false, true, nil}}, "v1", "", "no version of widgets.example.com is served"},
	} {
		t.Run(row.why, func(t *testing.T) {
			crd := &CRD{Name: "widgets.example.com", Versions: row.versions}
			got, err := crd.Choose(row.wanted)
			if got != row.want {
				t.Errorf("chose %q, not %q", got, row.want)
			}
			if text := errorText(err); text != row.err {
				t.Errorf("error %q, not %q", text, row.err)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestStrip shows that what the bridge needs of a CRD survives the cache, and
// that the schemas do not.
func TestStrip(t *testing.T) {
	now := metav1.Now()
	crd := func() *apiextensions.CustomResourceDefinition {
		return &apiextensions.CustomResourceDefinition{
			ObjectMeta: metav1.ObjectMeta{
				Name: "widgets.example.com", UID: "u", ResourceVersion: "7", DeletionTimestamp: &now,
				Annotations: map[string]string{"big": "one"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
			},
			Spec: apiextensions.CustomResourceDefinitionSpec{
				Group: "example.com", Scope: apiextensions.NamespaceScoped,
				Names:      apiextensions.CustomResourceDefinitionNames{Plural: "widgets", Kind: "Widget"},
				Conversion: &apiextensions.CustomResourceConversion{Strategy: apiextensions.WebhookConverter},
				Versions: []apiextensions.CustomResourceDefinitionVersion{{
					Name: "v1", Served: true, Storage: true,
					Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{Type: "object"}},
				}},
			},
			Status: apiextensions.CustomResourceDefinitionStatus{Conditions: []apiextensions.CustomResourceDefinitionCondition{
				{Type: apiextensions.Established, Status: apiextensions.ConditionTrue},
				{Type: apiextensions.NamesAccepted, Status: apiextensions.ConditionFalse, Message: "taken"},
			}},
		}
	}
	stripped, err := Strip(crd())
	if err != nil {
		t.Fatal(err)
	}
	got := stripped.(*apiextensions.CustomResourceDefinition)
	if diff := cmp.Diff(FromObject(crd()), FromObject(got)); diff != "" {
		t.Errorf("what the bridge knows of the CRD changes (-want +got):\n%s", diff)
	}
	want := &CRD{
		Name: "widgets.example.com", UID: "u", Group: "example.com", Kind: "Widget", Plural: "widgets", Namespaced: true,
		Versions: []Version{{"v1", true, true, nil}}, Established: true, NotEstablished: "taken", Deleting: true, AsOf: 7,
	}
	if diff := cmp.Diff(want, FromObject(got)); diff != "" {
		t.Errorf("what the bridge knows of the CRD (-want +got):\n%s", diff)
	}
	if got.Spec.Versions[0].Schema != nil || got.Spec.Conversion != nil || got.ManagedFields != nil || got.Annotations != nil {
		t.Errorf("the cache would keep %+v", got)
	}
}

// TestSuccessor shows what is asked, for the end of another CRD's objects, about
// the one that has its name now.
func TestSuccessor(t *testing.T) {
	versions := []Version{{Name: "v1", Served: true, Storage: true}}
	list := flow.Successor{Resource: sources.Resource{
		CRD: "u", Kind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}, Plural: "widgets", Namespaced: true,
	}}
	empty := flow.Successor{Empty: 7}
	ofCluster := list
	ofCluster.Resource.Namespaced = false
	named, err := flow.NewRules(flow.RuleOptions{Events: events.Types(), Namespaces: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		why   string
		is    func(*CRD)
		rules *flow.Rules
		want  flow.Successor
	}{
		{"it is new, and not served", func(*CRD) {}, nil, empty},
		{"its names are accepted: it is served, and may have objects", func(c *CRD) { c.Accepted = true }, nil, list},
		{"it is established", func(c *CRD) { c.Accepted, c.Established = true, true }, nil, list},
		{"its names have been taken since: it is served all the same", func(c *CRD) { c.Established = true }, nil, list},
		{"no version is served", func(c *CRD) { c.Accepted, c.Established, c.Versions = true, true, nil }, nil, flow.Successor{}},
		{"it has no objects in namespaces", func(c *CRD) { c.Accepted, c.Established, c.Namespaced = true, true, false }, named, empty},
		{"it has objects of the cluster", func(c *CRD) { c.Accepted, c.Established, c.Namespaced = true, true, false }, nil, ofCluster},
	} {
		t.Run(test.why, func(t *testing.T) {
			crd := &CRD{UID: "u", Group: "example.com", Kind: "Widget", Plural: "widgets", Namespaced: true, Versions: versions, AsOf: 7}
			test.is(crd)
			rules := test.rules
			if rules == nil {
				rules = flow.Everything()
			}
			if diff := cmp.Diff(test.want, crd.successor(rules, "")); diff != "" {
				t.Errorf("successor (-want +got):\n%s", diff)
			}
		})
	}
}
