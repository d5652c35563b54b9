//go:build unix

package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
)

// rights are roles as `bridge rbac` prints them, of a service account of their
// own.
type rights struct {
	clusterRoles []rbacv1.ClusterRole
	roles        []rbacv1.Role
	bindings     []any
}

// printedRights has `bridge rbac` print the rights for a file. Names of roles
// are made the test's own.
func printedRights(t *testing.T, path, kubeconfig, namespace, account string) *rights {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, bridgePath, "rbac", "--config", path, "--kubeconfig", kubeconfig, "--namespace", namespace, "--service-account", account)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("bridge rbac: %v: %s", err, &stderr)
	}
	r := &rights{}
	for d := yaml.NewYAMLReader(bufio.NewReader(&stdout)); ; {
		document, err := d.Read()
		if errors.Is(err, io.EOF) {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		r.take(t, document, account)
	}
}

func (r *rights) take(t *testing.T, document []byte, account string) {
	t.Helper()
	var kind metav1.TypeMeta
	decode := func(into any) {
		if err := yaml.Unmarshal(document, into); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
	}
	decode(&kind)
	switch kind.Kind {
	case "ClusterRole":
		var o rbacv1.ClusterRole
		decode(&o)
		o.Name += account
		r.clusterRoles = append(r.clusterRoles, o)
	case "Role":
		var o rbacv1.Role
		decode(&o)
		o.Name += account
		r.roles = append(r.roles, o)
	case "ClusterRoleBinding":
		var o rbacv1.ClusterRoleBinding
		decode(&o)
		o.Name, o.RoleRef.Name = o.Name+account, o.RoleRef.Name+account
		r.bindings = append(r.bindings, &o)
	case "RoleBinding":
		var o rbacv1.RoleBinding
		decode(&o)
		o.Name, o.RoleRef.Name = o.Name+account, o.RoleRef.Name+account
		r.bindings = append(r.bindings, &o)
	default:
		t.Fatalf("bridge rbac prints %s", kind.Kind)
	}
}

// each calls f for every verb of every rule; what f gets it can change.
func (r *rights) each(f func(what string, verb string, rule *rbacv1.PolicyRule)) {
	for i := range r.clusterRoles {
		for n := range r.clusterRoles[i].Rules {
			rule := &r.clusterRoles[i].Rules[n]
			for _, verb := range slices.Clone(rule.Verbs) {
				f(verb+" "+resourceOf(rule), verb, rule)
			}
		}
	}
	for i := range r.roles {
		for n := range r.roles[i].Rules {
			rule := &r.roles[i].Rules[n]
			for _, verb := range slices.Clone(rule.Verbs) {
				f(verb+" "+resourceOf(rule)+" in a namespace", verb, rule)
			}
		}
	}
}

func resourceOf(rule *rbacv1.PolicyRule) string {
	return schema.GroupResource{Group: rule.APIGroups[0], Resource: rule.Resources[0]}.String()
}

// apply grants the rights.
func (r *rights) apply(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	must := func(err error) {
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	for i := range r.clusterRoles {
		_, err := client.RbacV1().ClusterRoles().Create(t.Context(), &r.clusterRoles[i], metav1.CreateOptions{})
		must(err)
	}
	for i := range r.roles {
		_, err := client.RbacV1().Roles(r.roles[i].Namespace).Create(t.Context(), &r.roles[i], metav1.CreateOptions{})
		must(err)
	}
	for _, b := range r.bindings {
		var err error
		switch b := b.(type) {
		case *rbacv1.ClusterRoleBinding:
			_, err = client.RbacV1().ClusterRoleBindings().Create(t.Context(), b, metav1.CreateOptions{})
		case *rbacv1.RoleBinding:
			_, err = client.RbacV1().RoleBindings(b.Namespace).Create(t.Context(), b, metav1.CreateOptions{})
		}
		must(err)
	}
}

// TestRights shows that what `bridge rbac` prints is enough for a bridge to do
// all that its file wants, and that with one right less it does not, and says
// so.
func TestRights(t *testing.T) {
	slow(t)
	t.Parallel()
	w := newWorld(t)
	client, err := kubernetes.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	everywhere, inOne, wild := w.kind, newKind(t, w.cp.Admin()), newKind(t, w.cp.Admin())
	for _, k := range []*kind{everywhere, inOne, wild} {
		k.create(t)
	}
	namespace := inOne.namespace(t, w.cp, "only")
	routes := everywhere.route("test") + inOne.route("one", "namespaces: ["+namespace+"]", "labelSelector: on=yes") +
		fmt.Sprintf("  - {name: wild, crds: ['*.%s'], sinks: [main]}\n", wild.group)
	// Each bridge has a stream of its own: it begins with lists, and knows of
	// no other.
	body := func(account string) string {
		sinks := natsConfig(w.nats)
		if account != "enough" {
			sinks = fmt.Sprintf("sinks:\n  main: {nats: {url: %q, subject: '%s.{group}.{namespace}.{name}', jetstream: {stream: %s}}}\n", w.nats.URL(), account, account)
		}
		return fmt.Sprintf("leaderElection: {enabled: true, namespace: rights, name: %s}\nroutes:\n", account) + routes + sinks
	}
	// start runs a bridge that may do what is printed, but for what less takes
	// away.
	start := func(t *testing.T, account string, less func(*rights)) *bridge {
		t.Helper()
		sa, err := w.cp.ServiceAccount(t.Context(), "rights", account, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := newBridge(t, config{kubeconfig: sa.Kubeconfig, body: body(account), env: []string{"POD_NAME=" + account, "POD_NAMESPACE=rights"}})
		granted := printedRights(t, b.config, w.cp.AdminKubeconfig(), "rights", account)
		less(granted)
		granted.apply(t, client)
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return b
	}

	b := start(t, "enough", func(*rights) {})
	b.waitState(t, everywhere.name, "test", "running")
	b.waitState(t, inOne.name, "one", "running")
	b.waitState(t, wild.name, "wild", "running")
	everywhere.put(t, "default", "a")
	inOne.put(t, namespace, "a", "on=yes")
	inOne.put(t, "default", "a", "on=yes")
	wild.put(t, "default", "a")
	w.stream.wait(t, everywhere.name, 1)
	w.stream.wait(t, wild.name, 1)
	if got := summary(w.stream.wait(t, inOne.name, 1)); got != "created "+namespace+"/a" {
		t.Errorf("in one namespace: %s", got)
	}
	if strings.Contains(b.log(t), "forbidden") {
		t.Error("something is forbidden, and the bridge works all the same")
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	var all []string
	whole := printedRights(t, b.config, w.cp.AdminKubeconfig(), "rights", "enough")
	whole.each(func(what, _ string, _ *rbacv1.PolicyRule) { all = append(all, what) })
	if len(all) != 16 {
		t.Errorf("%d rights: %q", len(all), all)
	}
	for i := range all {
		if strings.HasPrefix(all[i], "patch events") {
			continue // only an Event that repeats is patched
		}
		t.Run("without "+all[i], func(t *testing.T) {
			t.Parallel()
			n := 0
			b := start(t, fmt.Sprintf("less-%d", i), func(r *rights) {
				r.each(func(_, verb string, rule *rbacv1.PolicyRule) {
					if n == i {
						rule.Verbs = slices.DeleteFunc(rule.Verbs, func(v string) bool { return v == verb })
					}
					n++
				})
				r.withoutEmpty()
			})
			switch all[i] {
			case "create events.events.k8s.io in a namespace":
				b.waitState(t, wild.name, "wild", "running")
				b.rewrite(t, "routes: 1\n") // an Event on the pod says that it is bad
			case "get customresourcedefinitions.apiextensions.k8s.io":
				// It is asked for a CRD that is new, or gone.
				b.waitState(t, wild.name, "wild", "running")
				more := newKind(t, w.cp.Admin())
				b.rewrite(t, strings.Replace(body(fmt.Sprintf("less-%d", i)), "'*."+wild.group+"'", "'*."+more.group+"'", 1))
				more.create(t)
			}
			b.logs(t, "forbidden")
		})
	}
}

// withoutEmpty removes rules without verbs, which the API server refuses.
func (r *rights) withoutEmpty() {
	empty := func(rule rbacv1.PolicyRule) bool { return len(rule.Verbs) == 0 }
	for i := range r.clusterRoles {
		r.clusterRoles[i].Rules = slices.DeleteFunc(r.clusterRoles[i].Rules, empty)
	}
	for i := range r.roles {
		r.roles[i].Rules = slices.DeleteFunc(r.roles[i].Rules, empty)
	}
}

// TestRightsOfWildcardsRefused shows that a wildcard is not made wider where
// the cluster cannot be asked what it means.
func TestRightsOfWildcardsRefused(t *testing.T) {
	w := newWorld(t)
	b := newBridge(t, config{kubeconfig: "/nowhere", body: "routes:\n  - {name: test, crds: ['*'], sinks: [main]}\n" + natsConfig(w.nats)})
	c := exec.CommandContext(t.Context(), bridgePath, "rbac", "--config", b.config, "--kubeconfig", "/nowhere")
	output, err := c.CombinedOutput()
	if exit, is := errors.AsType[*exec.ExitError](err); !is || exit.ExitCode() == 0 || !strings.Contains(string(output), "name the CRDs, or say with --kubeconfig") {
		t.Errorf("bridge rbac: %v: %s", err, output)
	}
}
