//go:build unix

package chart_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestRights shows that the chart grants what `bridge rbac` prints for the
// configuration that it gives to the bridge.
func TestRights(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ why, routes, config, values string }{
		{"a CRD that is named", "[{crds: [orders.shop.example.com]}]", "", ""},
		{"several, in one rule for each group, each once", "[{crds: [orders.shop.example.com, notes.text.example.com, carts.shop.example.com]}, {crds: [orders.shop.example.com]}]", "", ""},
		{"some namespaces", "[{crds: [orders.shop.example.com], namespaces: [b, a]}]", "", ""},
		{"some namespaces, and all of them on a route after it", "[{crds: [orders.shop.example.com, notes.text.example.com], namespaces: [a]}, {crds: [orders.shop.example.com]}]", "", ""},
		{"the same namespace on two routes", "[{crds: [orders.shop.example.com], namespaces: [a]}, {crds: [carts.shop.example.com, orders.shop.example.com], namespaces: [a, c]}]", "", ""},
		{"a CRD that is left out by its name", "[{crds: [orders.shop.example.com, carts.shop.example.com], excludeCRDs: [carts.shop.example.com]}]", "", ""},
		{"a CRD that is left out by its group", "[{crds: [orders.shop.example.com, carts.sub.shop.example.com], excludeCRDs: ['*.sub.shop.example.com']}]", "", ""},
		{"what is left out of one route is on another", "[{crds: [orders.shop.example.com, carts.shop.example.com], excludeCRDs: [carts.shop.example.com]}, {crds: [carts.shop.example.com], namespaces: [a]}]", "", ""},
		{"the namespace that the bridge is in", "[{crds: [orders.shop.example.com], namespaces: [crbridge-system]}]", "", ""},
		{"no election", "[{crds: [orders.shop.example.com]}]", "leaderElection: {enabled: false}, ", "replicas: 1"},
		{"another Lease, elsewhere", "[{crds: [orders.shop.example.com]}]", "leaderElection: {name: lease, namespace: other}, ", ""},
		{"the Lease's namespace is said and the usual one", "[{crds: [orders.shop.example.com]}]", "leaderElection: {namespace: crbridge-system}, ", ""},
		{"namespaces that YAML reads as something else", "[{crds: [orders.shop.example.com], namespaces: ['no', '123']}]", "", ""},
		{"who reads is asked of the cluster", "[{crds: [orders.shop.example.com]}]", "server: {auth: kubernetes}, ", ""},
		{"another service account", "[{crds: [orders.shop.example.com]}]", "", "serviceAccount: {create: false, name: other}"},
	} {
		t.Run(row.why, func(t *testing.T) {
			t.Parallel()
			objects := mustRender(t, "crbridge", "crbridge-system", row.values+"\nconfig: {cluster: demo, "+row.config+"sinks: {out: {stdout: {}}}, routes: "+named(row.routes)+"}")
			account, _, _ := unstructured.NestedString(only(t, objects, "Deployment").Object, "spec", "template", "spec", "serviceAccountName")
			printed, err := command(t, "", bridgePath, "rbac", "--config", configuration(t, objects), "--namespace", "crbridge-system", "--service-account", account)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(granted(objectsIn(t, printed)), granted(objects)); diff != "" {
				t.Errorf("(-printed +in the chart):\n%s", diff)
			}
		})
	}
}

// named gives each route a name and the sink.
func named(routes string) string {
	for _, name := range []string{"first", "second"} {
		routes = strings.Replace(routes, "{crds", "{name: "+name+", sinks: [out], crds", 1)
	}
	return routes
}

// granted are the roles and bindings, by kind, namespace and name.
func granted(objects []*unstructured.Unstructured) map[string]any {
	all := map[string]any{}
	for _, object := range objects {
		if object.GroupVersionKind().Group != "rbac.authorization.k8s.io" {
			continue
		}
		o := object.DeepCopy()
		for _, key := range []string{"apiVersion", "kind", "metadata"} {
			delete(o.Object, key)
		}
		all[object.GetKind()+" "+object.GetNamespace()+"/"+object.GetName()] = o.Object
	}
	return all
}

// TestRightsOfWildcards shows that what is given for them comes on top of the
// rest.
func TestRightsOfWildcards(t *testing.T) {
	t.Parallel()
	const given = "{apiGroups: [shop.example.com], resources: ['*'], verbs: [list, watch]}"
	const config = "\nconfig: {cluster: demo, sinks: {out: {stdout: {}}}, routes: [{name: all, crds: ['*.shop.example.com', notes.text.example.com], sinks: [out]}]}"
	role := func(values string) []any {
		rules, _, err := unstructured.NestedSlice(only(t, mustRender(t, "crbridge", "crbridge-system", values+config), "ClusterRole").Object, "rules")
		if err != nil {
			t.Fatal(err)
		}
		return rules
	}
	rules := role("rbac: {rules: [" + given + "]}")
	groups := func(rule any) any { return rule.(map[string]any)["apiGroups"].([]any)[0] }
	var got []any
	for _, rule := range rules {
		got = append(got, groups(rule))
	}
	if want := []any{"apiextensions.k8s.io", "text.example.com", "shop.example.com"}; !slices.Equal(got, want) {
		t.Errorf("rules for %v, not %v", got, want)
	}
	for _, object := range mustRender(t, "crbridge", "crbridge-system", "rbac: {create: false}"+config) {
		if object.GroupVersionKind().Group == "rbac.authorization.k8s.io" && object.GetKind() != "" {
			t.Errorf("rbac.create is false, and there is %s %s", object.GetKind(), object.GetName())
		}
	}
}
