//go:build unix

package chart_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// release is what Helm has installed.
type release struct {
	name, namespace string
	client          kubernetes.Interface
}

func newRelease(t *testing.T, name string) *release {
	t.Helper()
	client, err := kubernetes.NewForConfig(shared.Get(t).Admin())
	if err != nil {
		t.Fatal(err)
	}
	r := &release{name: name, namespace: "helm-" + name, client: client}
	// As docs/deploy.md has it: the namespace comes before, with its labels.
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.namespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *release) helm(t *testing.T, values string, args ...string) error {
	t.Helper()
	_, err := command(t, values, helmPath, append(args, "--kubeconfig", shared.Get(t).AdminKubeconfig(), "--namespace", r.namespace)...)
	return err
}

func (r *release) upgrade(t *testing.T, values string) error {
	t.Helper()
	return r.helm(t, values, "upgrade", "--install", r.name, chart, "--values", "-")
}

// TestUpgrade shows that Helm replaces the pods for what needs a restart, and for
// nothing else, and that a configuration that is bad changes nothing.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "upgrade")
	if err := r.upgrade(t, external); err != nil {
		t.Fatal(err)
	}
	// The API server counts the changes of what a Deployment is to be.
	generation := func() int64 {
		d, err := r.client.AppsV1().Deployments(r.namespace).Get(t.Context(), "upgrade-crbridge", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return d.Generation
	}
	configuration := func() string {
		m, err := r.client.CoreV1().ConfigMaps(r.namespace).Get(t.Context(), "upgrade-crbridge", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return m.Data["config.yaml"]
	}
	for _, row := range []struct {
		why, values string
		restarts    bool
	}{
		{"nothing has changed", external, false},
		{"a route", strings.Replace(external, "routes: [", "routes: [{name: carts, crds: [carts.shop.example.com], sinks: [main]}, ", 1), false},
		{"a sink's stream", strings.Replace(external, "stream: K8S", "stream: OTHER", 1), false},
		{"how it logs", external + "  log: {level: debug}\n", false},
		{"the rights", "rbac: {rules: [{apiGroups: [a.example.com], resources: [b], verbs: [list, watch]}]}\n" + external, false},
		{"the cluster's name", strings.Replace(external, "cluster: demo", "cluster: other", 1), true},
		{"where state is kept", external + "  state: {sink: main}\n", true},
		{"the Lease", external + "  leaderElection: {name: other}\n", true},
		{"where metrics are", external + "  server: {address: ':9090'}\n", true},
		{"where probes are answered", external + "  health: {address: ':9091'}\n", true},
	} {
		if err := r.upgrade(t, external); err != nil {
			t.Fatal(err)
		}
		before := generation()
		if err := r.upgrade(t, row.values); err != nil {
			t.Fatalf("%s: %v", row.why, err)
		}
		if restarts := generation() != before; restarts != row.restarts {
			t.Errorf("%s: new pods: %v, not %v", row.why, restarts, row.restarts)
		}
	}
	before := configuration()
	err := r.upgrade(t, external+"  healht: {}\n")
	if err == nil || !strings.Contains(err.Error(), "additional properties 'healht' not allowed") {
		t.Errorf("a key that there is not: %v", err)
	}
	if after := configuration(); after != before {
		t.Errorf("a bad configuration is in the ConfigMap:\n%s", after)
	}
	if err := r.helm(t, "", "uninstall", r.name); err != nil {
		t.Error(err)
	}
}

// TestNamespaceOutlivesTheRelease shows that a namespace which the chart has taken
// over stays when the release goes, with all that others have in it.
func TestNamespaceOutlivesTheRelease(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "home")
	if err := r.helm(t, "createNamespace: true\n"+external, "upgrade", "--install", r.name, chart, "--values", "-", "--take-ownership"); err != nil {
		t.Fatal(err)
	}
	if err := r.helm(t, "", "uninstall", r.name); err != nil {
		t.Fatal(err)
	}
	namespace, err := r.client.CoreV1().Namespaces().Get(t.Context(), r.namespace, metav1.GetOptions{})
	if err != nil || namespace.DeletionTimestamp != nil {
		t.Errorf("namespace %s: %v, deleted %v", r.namespace, err, namespace.DeletionTimestamp)
	}
	if _, err := r.client.AppsV1().Deployments(r.namespace).Get(t.Context(), "home-crbridge", metav1.GetOptions{}); err == nil {
		t.Error("the Deployment has outlived it as well")
	}
}

// TestEventsOutliveTheRelease shows that the volume of an embedded server stays
// when the release goes.
func TestEventsOutliveTheRelease(t *testing.T) {
	t.Parallel()
	r := newRelease(t, "kept")
	const values = `
replicas: 1
config:
  cluster: demo
  routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]
  sinks: {main: {nats: {embedded: {dir: /var/lib/crbridge}, jetstream: {stream: K8S}}}}
`
	if err := r.upgrade(t, values); err != nil {
		t.Fatal(err)
	}
	if err := r.helm(t, "", "uninstall", r.name); err != nil {
		t.Fatal(err)
	}
	claims, err := r.client.CoreV1().PersistentVolumeClaims(r.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(claims.Items) != 1 || claims.Items[0].DeletionTimestamp != nil {
		t.Errorf("%d claims are left, not 1: %+v", len(claims.Items), claims.Items)
	}
	// Installed again, the release has it again.
	if err := r.upgrade(t, values); err != nil {
		t.Error(err)
	}
	if sets, err := r.client.AppsV1().StatefulSets(r.namespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(sets.Items) != 1 {
		t.Errorf("%d StatefulSets: %v", len(sets.Items), err)
	}
}
