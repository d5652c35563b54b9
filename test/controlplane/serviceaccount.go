//go:build unix

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/crbridge/crbridge/test/poll"
)

// ServiceAccount is a service account of a control plane, with a token.
type ServiceAccount struct {
	Namespace, Name string

	// Kubeconfig is the path of a kubeconfig that authenticates as it.
	Kubeconfig string

	config *rest.Config
	client *kubernetes.Clientset // as admin
}

// tokenSeconds is how long a service account's token is good.
const tokenSeconds = 24 * 60 * 60

// ServiceAccount makes a service account, and its namespace if need be, and
// gives it the rules in the whole cluster. With no rules it may do what every
// authenticated user may: discovery. The rules are in force when it returns.
//
// For one that exists it does the same, with a new token.
func (cp *ControlPlane) ServiceAccount(ctx context.Context, namespace, name string, rules []rbacv1.PolicyRule) (*ServiceAccount, error) {
	sa := &ServiceAccount{
		Namespace:  namespace,
		Name:       name,
		Kubeconfig: filepath.Join(cp.dir, namespace+"."+name+".kubeconfig"),
		client:     cp.client,
	}
	if err := sa.create(ctx, cp.admin); err != nil {
		return nil, fmt.Errorf("service account %s/%s: %w", namespace, name, err)
	}
	return sa, sa.SetClusterRules(ctx, rules)
}

func (sa *ServiceAccount) create(ctx context.Context, admin *rest.Config) error {
	core := sa.client.CoreV1()
	_, err := core.Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: sa.Namespace},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err = core.ServiceAccounts(sa.Namespace).Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: sa.Name},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	token, err := core.ServiceAccounts(sa.Namespace).CreateToken(ctx, sa.Name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](tokenSeconds)},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	sa.config = rest.AnonymousClientConfig(admin)
	sa.config.BearerToken = token.Status.Token
	return writeKubeconfig(sa.Kubeconfig, sa.config)
}

// Config returns a configuration for a client that is this service account and
// is not throttled. The caller may change it.
func (sa *ServiceAccount) Config() *rest.Config { return rest.CopyConfig(sa.config) }

// SetClusterRules replaces the rules that the service account has in the whole
// cluster. The API server enforces the new ones when it returns.
func (sa *ServiceAccount) SetClusterRules(ctx context.Context, rules []rbacv1.PolicyRule) error {
	return sa.setRules(ctx, "", rules)
}

// SetRules replaces the rules that the service account has in one namespace,
// which must exist. The API server enforces the new ones when it returns.
func (sa *ServiceAccount) SetRules(ctx context.Context, namespace string, rules []rbacv1.PolicyRule) error {
	return sa.setRules(ctx, namespace, rules)
}

// setRules replaces the rules in a namespace, or in the cluster if it is empty.
func (sa *ServiceAccount) setRules(ctx context.Context, namespace string, rules []rbacv1.PolicyRule) error {
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		generation, err := sa.writeRole(ctx, namespace, rules)
		if err != nil {
			return err
		}
		if err := sa.writeBinding(ctx, namespace); err != nil {
			return err
		}
		return sa.waitEnforced(ctx, namespace, generation)
	})
	if err != nil {
		return fmt.Errorf("rules of service account %s/%s in namespace %q: %w", sa.Namespace, sa.Name, namespace, err)
	}
	return nil
}

// The role that setRules writes has one more rule, about a resource that does
// not exist and whose name is new each time. The API server's authorizer sees a
// role as a whole, so when it grants that rule the others are in force too, and
// those that were replaced are not.
const markerGroup = "rules.crbridge.test"

func markerRule(generation string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{markerGroup}, Resources: []string{generation}, Verbs: []string{"get"}}
}

// roleName is unique in the cluster, and tells whose role it is.
func (sa *ServiceAccount) roleName() string { return sa.Namespace + ":" + sa.Name }

// writeRole returns the name of the resource in the marker rule.
func (sa *ServiceAccount) writeRole(ctx context.Context, namespace string, rules []rbacv1.PolicyRule) (generation string, err error) {
	marked := func(meta *metav1.ObjectMeta) []rbacv1.PolicyRule {
		generation = "generation-0"
		if meta.ResourceVersion != "" {
			generation = "generation-" + meta.ResourceVersion
		}
		return append(slices.Clone(rules), markerRule(generation))
	}
	if namespace == "" {
		roles := sa.client.RbacV1().ClusterRoles()
		role, err := roles.Get(ctx, sa.roleName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			role = &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: sa.roleName()}}
			role.Rules = marked(&role.ObjectMeta)
			_, err = roles.Create(ctx, role, metav1.CreateOptions{})
			return generation, err
		}
		if err != nil {
			return "", err
		}
		role.Rules = marked(&role.ObjectMeta)
		_, err = roles.Update(ctx, role, metav1.UpdateOptions{})
		return generation, err
	}
	roles := sa.client.RbacV1().Roles(namespace)
	role, err := roles.Get(ctx, sa.roleName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		role = &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: sa.roleName(), Namespace: namespace}}
		role.Rules = marked(&role.ObjectMeta)
		_, err = roles.Create(ctx, role, metav1.CreateOptions{})
		return generation, err
	}
	if err != nil {
		return "", err
	}
	role.Rules = marked(&role.ObjectMeta)
	_, err = roles.Update(ctx, role, metav1.UpdateOptions{})
	return generation, err
}

func (sa *ServiceAccount) writeBinding(ctx context.Context, namespace string) error {
	meta := metav1.ObjectMeta{Name: sa.roleName(), Namespace: namespace}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: sa.Namespace, Name: sa.Name}}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: sa.roleName()}
	var err error
	if namespace == "" {
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref}
		_, err = sa.client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	} else {
		ref.Kind = "Role"
		binding := &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: ref}
		_, err = sa.client.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{})
	}
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (sa *ServiceAccount) waitEnforced(ctx context.Context, namespace, generation string) error {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:" + sa.Namespace + ":" + sa.Name,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Group: markerGroup, Resource: generation, Verb: "get",
		},
	}}
	return poll.Until(ctx, patience, "not in force", func(ctx context.Context) error {
		answer, err := sa.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if !answer.Status.Allowed {
			return errors.New("the API server does not know the rules yet")
		}
		return nil
	})
}
