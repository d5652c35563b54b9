// Package rbac says which rights a bridge needs for its configuration, and no
// more: as the roles and bindings that an administrator applies. It is pure.
package rbac

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/pkg/config"
)

// CRD is one that a route selects.
type CRD struct {
	Name string // <plural>.<group>
	// Namespaced says that its objects are in namespaces. Where the cluster was
	// not asked, that is not known: a route that names namespaces takes it for
	// granted.
	Namespaced bool
}

// Options are what the rights follow from.
type Options struct {
	Config *config.Config
	// CRDs are those that wildcards mean now.
	CRDs []CRD
	// Namespace and ServiceAccount are where the bridge runs, and as what.
	Namespace, ServiceAccount string
}

// Names of the roles: crbridge for what the bridge reads, in the cluster and in
// namespaces, and crbridge-own for what it writes about itself.
const (
	name    = "crbridge"
	nameOwn = "crbridge-own"
)

// Objects are roles and their bindings, in an order that depends on nothing but
// the options: *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *rbacv1.Role and
// *rbacv1.RoleBinding.
func Objects(o Options) []any {
	everywhere, in := o.resources()
	rules := append([]rbacv1.PolicyRule{{
		APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"get", "list", "watch"},
	}}, everywhere.rules()...)
	if o.Config.Server.Auth == config.AuthKubernetes {
		rules = append(rules, // whose token a reader has, and whether they may read
			rbacv1.PolicyRule{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}},
			rbacv1.PolicyRule{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		)
	}
	objects := o.cluster(rules)
	for _, namespace := range slices.Sorted(maps.Keys(in)) {
		objects = append(objects, o.namespaced(namespace, name, in[namespace].rules())...)
	}
	own := rbacv1.PolicyRule{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}}
	election := o.Config.LeaderElection
	if !election.Enabled {
		return append(objects, o.namespaced(o.Namespace, nameOwn, []rbacv1.PolicyRule{own})...)
	}
	namespace := cmp.Or(election.Namespace, o.Namespace)
	leases := []rbacv1.PolicyRule{
		// A create cannot be restricted to a name: it is not known yet when
		// the request is authorized.
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{election.Name}, Verbs: []string{"get", "update"}},
		// Who became the leader is an Event on the Lease, which client-go writes
		// through the older of the two APIs.
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
	if namespace == o.Namespace {
		return append(objects, o.namespaced(namespace, nameOwn, append(leases, own))...)
	}
	objects = append(objects, o.namespaced(namespace, nameOwn, leases)...)
	return append(objects, o.namespaced(o.Namespace, nameOwn, []rbacv1.PolicyRule{own})...)
}

// resources are names of resources by their group.
type resources map[string]map[string]bool

func (r resources) add(crd string) {
	plural, group, _ := strings.Cut(crd, ".")
	if r[group] == nil {
		r[group] = map[string]bool{}
	}
	r[group][plural] = true
}

func (r resources) has(crd string) bool {
	plural, group, _ := strings.Cut(crd, ".")
	return r[group][plural]
}

// rules list and watch them, one rule for each group.
func (r resources) rules() []rbacv1.PolicyRule {
	rules := make([]rbacv1.PolicyRule, 0, len(r))
	for _, group := range slices.Sorted(maps.Keys(r)) {
		rules = append(rules, rbacv1.PolicyRule{
			APIGroups: []string{group}, Resources: slices.Sorted(maps.Keys(r[group])), Verbs: []string{"list", "watch"},
		})
	}
	return rules
}

// resources are those that are followed in all namespaces, and those that are
// followed in some, by namespace, and not everywhere as well.
func (o Options) resources() (everywhere resources, in map[string]resources) {
	everywhere, in = resources{}, map[string]resources{}
	for i := range o.Config.Routes {
		if r := &o.Config.Routes[i]; len(r.Namespaces) == 0 {
			for _, crd := range o.selected(r) {
				everywhere.add(crd.Name)
			}
		}
	}
	for i := range o.Config.Routes {
		r := &o.Config.Routes[i]
		for _, crd := range o.selected(r) {
			for _, namespace := range r.Namespaces {
				if !crd.Namespaced || everywhere.has(crd.Name) {
					continue
				}
				if in[namespace] == nil {
					in[namespace] = resources{}
				}
				in[namespace].add(crd.Name)
			}
		}
	}
	return everywhere, in
}

// selected are the CRDs that the route names, and those that its wildcards mean.
func (o Options) selected(r *config.Route) []CRD {
	var selected []CRD
	for _, pattern := range r.CRDs {
		if !pattern.IsWildcard() && r.Selects(string(pattern)) {
			selected = append(selected, CRD{Name: string(pattern), Namespaced: true})
		}
	}
	for _, crd := range o.CRDs {
		if r.Selects(crd.Name) && !slices.Contains(r.CRDs, config.CRDPattern(crd.Name)) {
			selected = append(selected, crd)
		}
	}
	return selected
}

var labels = map[string]string{"app.kubernetes.io/name": "crbridge"}

func (o Options) subjects() []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: "ServiceAccount", Name: o.ServiceAccount, Namespace: o.Namespace}}
}

func (o Options) cluster(rules []rbacv1.PolicyRule) []any {
	meta := metav1.ObjectMeta{Name: name, Labels: labels}
	return []any{
		&rbacv1.ClusterRole{TypeMeta: kind("ClusterRole"), ObjectMeta: meta, Rules: rules},
		&rbacv1.ClusterRoleBinding{
			TypeMeta: kind("ClusterRoleBinding"), ObjectMeta: meta, Subjects: o.subjects(),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		},
	}
}

func (o Options) namespaced(namespace, name string, rules []rbacv1.PolicyRule) []any {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}
	return []any{
		&rbacv1.Role{TypeMeta: kind("Role"), ObjectMeta: meta, Rules: rules},
		&rbacv1.RoleBinding{
			TypeMeta: kind("RoleBinding"), ObjectMeta: meta, Subjects: o.subjects(),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		},
	}
}

func kind(k string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: k}
}
