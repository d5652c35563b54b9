//go:build linux && cluster

package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// TestInstall does what README says of a cluster: deploy/install.yaml and
// configuration.yaml, with another image and another NATS, a CRD and its objects by
// kubectl, and a subscriber outside that gets their events. The namespace enforces
// the restricted policy.
func TestInstall(t *testing.T) {
	w := newWorld(t, "crbridge-system")
	image := regexp.MustCompile(`image: .*`)
	install := edited(t, "install.yaml", "imagePullPolicy: IfNotPresent", "imagePullPolicy: Never")
	install = image.ReplaceAllString(install, "image: "+repository+":one")
	files := []string{
		write(t, "install.yaml", install),
		write(t, "configuration.yaml", edited(t, "configuration.yaml", "nats://nats.nats.svc:4222", w.NATS.URL())),
	}
	connection, err := nats.Connect(w.NATS.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	events, err := connection.SubscribeSync("k8s.demo.shop_example_com.>")
	if err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	w.kubectl(t, nil, "apply", "-f", files[0], "-f", files[1])
	w.kubectl(t, nil, "rollout", "status", "-n", w.namespace, "deployment/crbridge", "--timeout=2m")
	t.Logf("rolled out %v after kubectl apply", time.Since(began).Round(100*time.Millisecond))
	namespace, err := w.Clientset().CoreV1().Namespaces().Get(t.Context(), w.namespace, metav1.GetOptions{})
	if err != nil || namespace.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("the namespace enforces %v, %v", namespace.Labels, err)
	}
	w.waitFlow(t, "orders", "waiting")
	w.kubectl(t, orders("shop.example.com"), "apply", "-f", "-")
	w.kubectl(t, nil, "wait", "--for=condition=Established", "crd/orders.shop.example.com", "--timeout=1m")
	body, err := json.Marshal(order("shop.example.com", "first"))
	if err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, body, "apply", "-f", "-")
	w.kubectl(t, nil, "patch", "orders.shop.example.com", "first", "--type=merge", "-p", `{"spec":{"size":7}}`)
	w.kubectl(t, nil, "delete", "orders.shop.example.com", "first")
	for _, want := range []string{"created", "updated", "deleted"} {
		m, err := events.NextMsg(patience)
		if err != nil {
			t.Fatalf("no event of the object that was %s: %v", want, err)
		}
		if got := m.Header.Get("ce-type"); got != "dev.crbridge.resource."+want+".v1" || m.Header.Get("ce-subject") != "default/first" {
			t.Errorf("an event of type %s about %s, not %s", got, m.Header.Get("ce-subject"), want)
		}
	}

	t.Run("the bridge in the pod finds nothing wrong", func(t *testing.T) {
		out := w.kubectl(t, nil, "-n", w.namespace, "exec", "deploy/crbridge", "--", "/bridge", "validate", "--cluster", "--config", "/etc/crbridge/config.yaml")
		if !strings.Contains(out, "orders.shop.example.com") || strings.Contains(out, "WRONG") {
			t.Errorf("bridge validate --cluster:\n%s", out)
		}
	})
	t.Run("a route is taken without a restart", func(t *testing.T) { w.addsRoute(t) })
	t.Run("the token has a short life", func(t *testing.T) { w.tokenIsShort(t) })
	t.Run("one right less", func(t *testing.T) { w.rightLess(t) })
}

// edited is a file of deploy/ with something else in it.
func edited(t *testing.T, name, old, instead string) string {
	t.Helper()
	content, err := os.ReadFile("../../deploy/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), old) {
		t.Fatalf("deploy/%s has no %q", name, old)
	}
	return strings.ReplaceAll(string(content), old, instead)
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// kubectl runs kubectl, which must succeed.
func (w *world) kubectl(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	if stdin != nil {
		file := write(t, "stdin", string(stdin))
		for i, arg := range args {
			if arg == "-" {
				args[i] = file
			}
		}
	}
	out, err := w.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// addsRoute edits the ConfigMap and waits for the flow; the pods stay.
func (w *world) addsRoute(t *testing.T) {
	before := uids(w.ready(t, 2, "one"))
	maps := w.Clientset().CoreV1().ConfigMaps(w.namespace)
	config, err := maps.Get(t.Context(), "crbridge", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config.Data["config.yaml"] = strings.Replace(config.Data["config.yaml"], "routes:\n",
		"routes:\n- {name: more, crds: [orders.shop.example.com], events: [deleted], sinks: [main]}\n", 1)
	if _, err := maps.Update(t.Context(), config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.waitFlow(t, "more", "running")
	t.Logf("in force %v after the ConfigMap was changed, most of which is the kubelet's", time.Since(began).Round(100*time.Millisecond))
	if after := uids(w.ready(t, 2, "one")); after != before || w.restarts(t) != 0 {
		t.Errorf("pods %s, %d restarts; they were %s", after, w.restarts(t), before)
	}
}

func uids(pods []corev1.Pod) string {
	var ids []string
	for _, pod := range pods {
		ids = append(ids, string(pod.UID))
	}
	return strings.Join(ids, " ")
}

// tokenIsShort looks at how long the projected token lives.
func (w *world) tokenIsShort(t *testing.T) {
	for _, pod := range w.ready(t, 2, "one") {
		found := false
		for _, volume := range pod.Spec.Volumes {
			if volume.Projected == nil {
				continue
			}
			for _, source := range volume.Projected.Sources {
				if token := source.ServiceAccountToken; token != nil {
					found = true
					if *token.ExpirationSeconds > 3600 {
						t.Errorf("the token lives for %d s", *token.ExpirationSeconds)
					}
				}
			}
		}
		if !found {
			t.Errorf("%s has no projected token", pod.Name)
		}
	}
}

// rightLess compares the rights with what `bridge rbac` prints, by asking the
// bridge in the pod, and takes one away.
func (w *world) rightLess(t *testing.T) {
	printed := w.kubectl(t, nil, "exec", "-n", w.namespace, "deploy/crbridge", "--", "/bridge", "rbac",
		"--config", "/etc/crbridge/config.yaml", "--namespace", w.namespace, "--service-account", "crbridge")
	found := 0
	for _, object := range documents(t, []byte(printed)) {
		if !strings.HasSuffix(object.GetKind(), "Role") {
			continue
		}
		found++
		resource := schema.GroupVersionResource{Group: rbacv1.GroupName, Version: "v1", Resource: strings.ToLower(object.GetKind()) + "s"}
		deployed, err := w.dynamic(t).Resource(resource).Namespace(object.GetNamespace()).Get(t.Context(), object.GetName(), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(object.Object["rules"], deployed.Object["rules"]); diff != "" {
			t.Errorf("%s %s (-bridge rbac +deployed):\n%s", object.GetKind(), object.GetName(), diff)
		}
	}
	if found < 2 {
		t.Fatalf("bridge rbac prints %d roles:\n%s", found, printed)
	}

	roles := w.Clientset().RbacV1().ClusterRoles()
	role, err := roles.Get(t.Context(), "crbridge", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	enough := role.DeepCopy()
	for i := range role.Rules {
		if role.Rules[i].APIGroups[0] == "shop.example.com" {
			role.Rules[i].Verbs = []string{"list"}
		}
	}
	if role, err = roles.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// A watch that is open goes on; a new one is refused.
	if err := w.Clientset().CoreV1().Pods(w.namespace).Delete(t.Context(), w.leader(t), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if f := w.waitFlow(t, "orders", "forbidden"); !strings.Contains(f.Reason, "watch") {
		t.Errorf("without the right to watch the reason is %q", f.Reason)
	}
	role.Rules = enough.Rules
	if _, err := roles.Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.waitFlow(t, "orders", "running")
}

func documents(t *testing.T, content []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096); ; {
		object := &unstructured.Unstructured{}
		err := d.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if object.Object != nil {
			all = append(all, object)
		}
	}
}
