package rbac

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/crbridge/crbridge/pkg/config"
)

// grants are what the objects grant, a line for each rule, and who gets it.
func grants(objects []any) (lines []string) {
	rule := func(where string, r rbacv1.PolicyRule) {
		lines = append(lines, fmt.Sprintf("%s: %s %s/%s%v", where, strings.Join(r.Verbs, ","), strings.Join(r.APIGroups, ","), strings.Join(r.Resources, ","), r.ResourceNames))
	}
	for _, object := range objects {
		switch o := object.(type) {
		case *rbacv1.ClusterRole:
			for _, r := range o.Rules {
				rule(o.Name, r)
			}
		case *rbacv1.Role:
			for _, r := range o.Rules {
				rule(o.Namespace+"/"+o.Name, r)
			}
		case *rbacv1.ClusterRoleBinding:
			lines = append(lines, fmt.Sprintf("%s %s to %s/%s", o.RoleRef.Kind, o.RoleRef.Name, o.Subjects[0].Namespace, o.Subjects[0].Name))
		case *rbacv1.RoleBinding:
			lines = append(lines, fmt.Sprintf("%s/%s %s to %s/%s", o.Namespace, o.RoleRef.Kind, o.RoleRef.Name, o.Subjects[0].Namespace, o.Subjects[0].Name))
		}
	}
	return lines
}

func TestObjects(t *testing.T) {
	there := []CRD{{"orders.shop.example.com", true}, {"regions.shop.example.com", false}, {"notes.text.example.com", true}}
	const crds = "crbridge: get,list,watch apiextensions.k8s.io/customresourcedefinitions[]"
	bound := "ClusterRole crbridge to ns/sa"
	own := []string{"ns/crbridge-own: create,patch events.k8s.io/events[]", "ns/Role crbridge-own to ns/sa"}
	for _, row := range []struct {
		why    string
		routes []config.Route
		lease  config.LeaderElection
		want   []string
	}{
		{"a CRD that is named", []config.Route{{CRDs: []config.CRDPattern{"orders.shop.example.com"}}}, config.LeaderElection{},
			append([]string{crds, "crbridge: list,watch shop.example.com/orders[]", bound}, own...)},
		{"several, in one rule for each group, each once", []config.Route{
			{CRDs: []config.CRDPattern{"orders.shop.example.com", "notes.text.example.com", "carts.shop.example.com"}},
			{CRDs: []config.CRDPattern{"orders.shop.example.com"}},
		}, config.LeaderElection{},
			append([]string{crds, "crbridge: list,watch shop.example.com/carts,orders[]", "crbridge: list,watch text.example.com/notes[]", bound}, own...)},
		{"some namespaces", []config.Route{{CRDs: []config.CRDPattern{"orders.shop.example.com"}, Namespaces: []string{"b", "a"}}}, config.LeaderElection{},
			append([]string{
				crds, bound, "a/crbridge: list,watch shop.example.com/orders[]", "a/Role crbridge to ns/sa",
				"b/crbridge: list,watch shop.example.com/orders[]", "b/Role crbridge to ns/sa",
			}, own...)},
		{"some namespaces, and all of them on another route", []config.Route{
			{CRDs: []config.CRDPattern{"orders.shop.example.com", "notes.text.example.com"}, Namespaces: []string{"a"}},
			{CRDs: []config.CRDPattern{"orders.shop.example.com"}},
		}, config.LeaderElection{},
			append([]string{
				crds, "crbridge: list,watch shop.example.com/orders[]", bound,
				"a/crbridge: list,watch text.example.com/notes[]", "a/Role crbridge to ns/sa",
			}, own...)},
		{"a wildcard: what there is", []config.Route{{CRDs: []config.CRDPattern{"*.shop.example.com"}}}, config.LeaderElection{},
			append([]string{crds, "crbridge: list,watch shop.example.com/orders,regions[]", bound}, own...)},
		{"a wildcard without what is left out", []config.Route{{CRDs: []config.CRDPattern{"*"}, ExcludeCRDs: []config.CRDPattern{"*.shop.example.com"}}}, config.LeaderElection{},
			append([]string{crds, "crbridge: list,watch text.example.com/notes[]", bound}, own...)},
		{"a wildcard in some namespaces: nothing that has none", []config.Route{{CRDs: []config.CRDPattern{"*.shop.example.com"}, Namespaces: []string{"a"}}}, config.LeaderElection{},
			append([]string{crds, bound, "a/crbridge: list,watch shop.example.com/orders[]", "a/Role crbridge to ns/sa"}, own...)},
		{"an election", []config.Route{{CRDs: []config.CRDPattern{"orders.shop.example.com"}}}, config.LeaderElection{Enabled: true, Name: "lease"},
			[]string{
				crds, "crbridge: list,watch shop.example.com/orders[]", bound, "ns/crbridge-own: create coordination.k8s.io/leases[]",
				"ns/crbridge-own: get,update coordination.k8s.io/leases[lease]", "ns/crbridge-own: create,patch /events[]", "ns/crbridge-own: create,patch events.k8s.io/events[]", "ns/Role crbridge-own to ns/sa",
			}},
		{"an election elsewhere", []config.Route{{CRDs: []config.CRDPattern{"orders.shop.example.com"}}}, config.LeaderElection{Enabled: true, Name: "lease", Namespace: "other"},
			append([]string{
				crds, "crbridge: list,watch shop.example.com/orders[]", bound, "other/crbridge-own: create coordination.k8s.io/leases[]",
				"other/crbridge-own: get,update coordination.k8s.io/leases[lease]", "other/crbridge-own: create,patch /events[]", "other/Role crbridge-own to ns/sa",
			}, own...)},
	} {
		got := grants(Objects(Options{Config: &config.Config{Routes: row.routes, LeaderElection: row.lease}, CRDs: there, Namespace: "ns", ServiceAccount: "sa"}))
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.why, diff)
		}
	}
}
