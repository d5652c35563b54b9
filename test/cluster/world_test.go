//go:build linux && cluster

package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/crbridge/crbridge/test/node"
	"github.com/crbridge/crbridge/test/poll"
	"github.com/crbridge/crbridge/test/servers"
)

var shared node.Shared

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

const (
	repository = "crbridge.test/bridge"
	pods       = "app.kubernetes.io/name=crbridge"
	stream     = "K8S"
)

// images are the archives that `make e2e` builds, by tag: two versions of the
// same code.
var images = map[string]string{
	"one": "../../bin/e2e/one/bridge-linux-" + runtime.GOARCH + ".tar",
	"two": "../../bin/e2e/two/bridge-linux-" + runtime.GOARCH + ".tar",
}

// world is a bridge that is deployed with the chart to a namespace of its own.
type world struct {
	*node.Node
	namespace string
	values    map[string]any
}

// newWorld prepares a namespace's worth of values; nothing is deployed yet.
func newWorld(t *testing.T, namespace string) *world {
	t.Helper()
	n := shared.Get(t)
	for tag, archive := range images {
		if _, err := os.Stat(archive); err != nil {
			t.Fatalf("%v: `make e2e` builds it", err)
		}
		if err := n.Import(t.Context(), archive, repository+":"+tag); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{Node: n, namespace: namespace, values: map[string]any{
		"createNamespace":  true,
		"fullnameOverride": namespace, // its cluster roles are its own
		"image":            map[string]any{"repository": repository, "tag": "one", "pullPolicy": "Never"},
	}}
	t.Cleanup(func() {
		if t.Failed() {
			w.tellAll(t)
		}
		// So that it is not at work while the next test runs.
		err := n.Clientset().CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), namespace, metav1.DeleteOptions{})
		if err != nil {
			t.Errorf("clean-up: %v", err)
		}
	})
	return w
}

// tellAll logs what an operator would look at.
func (w *world) tellAll(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"}, {"get", "events", "--sort-by=.lastTimestamp"}, {"logs", "-l", pods, "--prefix", "--tail=40"},
		{"logs", "-l", pods, "--prefix", "--tail=40", "--previous"},
	} {
		out, err := w.Kubectl(ctx, append([]string{"-n", w.namespace}, args...)...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// configure sets the bridge's configuration.
func (w *world) configure(routes ...map[string]any) {
	w.values["config"] = map[string]any{
		"cluster": "node",
		"routes":  routes,
		"sinks": map[string]any{"main": map[string]any{"nats": map[string]any{
			"url": w.NATS.URL(), "jetstream": map[string]any{"stream": stream},
		}}},
	}
}

func route(name, crd string) map[string]any {
	return map[string]any{"name": name, "crds": []string{crd}, "sinks": []string{"main"}}
}

// render renders the chart with the values.
func (w *world) render(t *testing.T) []byte {
	t.Helper()
	helm, err := servers.Path(t.Context(), servers.Helm, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	values, err := yaml.Marshal(w.values)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, values, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), helm, "template", "crbridge", "../../deploy/chart", "-n", w.namespace, "-f", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helm template: %v\n%s", err, stderr.String())
	}
	return out
}

// deploy applies the chart with the values, as they are now.
func (w *world) deploy(t *testing.T) {
	t.Helper()
	if err := w.Apply(t.Context(), w.render(t)); err != nil {
		t.Fatal(err)
	}
}

// ready waits until just so many pods are, of that image.
func (w *world) ready(t *testing.T, count int, tag string) []corev1.Pod {
	t.Helper()
	var running []corev1.Pod
	eventually(t, func() error {
		var err error
		if running, err = w.WaitPods(t.Context(), w.namespace, pods, count); err != nil {
			return err
		}
		for _, pod := range running {
			if image := pod.Spec.Containers[0].Image; image != repository+":"+tag {
				return fmt.Errorf("%s is of %s", pod.Name, image)
			}
		}
		return nil
	})
	return running
}

// leader is the pod that has the lease.
func (w *world) leader(t *testing.T) string {
	t.Helper()
	var name string
	eventually(t, func() error {
		running, err := w.list(t)
		if err != nil {
			return err
		}
		leases, err := w.Clientset().CoordinationV1().Leases(w.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(leases.Items) != 1 || leases.Items[0].Spec.HolderIdentity == nil {
			return fmt.Errorf("%d leases, or one that nobody holds", len(leases.Items))
		}
		holder := *leases.Items[0].Spec.HolderIdentity
		i := slices.IndexFunc(running, func(p corev1.Pod) bool { return p.DeletionTimestamp == nil && strings.HasPrefix(holder, p.Name+"_") })
		if i < 0 {
			return fmt.Errorf("the lease is held by %s, which is no pod that stays", holder)
		}
		name = running[i].Name
		return nil
	})
	return name
}

func (w *world) list(t *testing.T) ([]corev1.Pod, error) {
	t.Helper()
	list, err := w.Clientset().CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: pods})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// restarts are how often the containers of the pods were started again.
func (w *world) restarts(t *testing.T) int32 {
	t.Helper()
	running, err := w.list(t)
	if err != nil {
		t.Fatal(err)
	}
	var restarts int32
	for _, pod := range running {
		for _, status := range pod.Status.ContainerStatuses {
			restarts += status.RestartCount
		}
	}
	return restarts
}

type flow struct{ CRD, Route, State, Reason string }

// flows are what the leader's /api/status says, asked through the API server.
func (w *world) flows(ctx context.Context, client kubernetes.Interface, pod string) ([]flow, error) {
	content, err := client.CoreV1().RESTClient().Get().Namespace(w.namespace).Resource("pods").Name(pod+":8080").
		SubResource("proxy").Suffix("api", "status").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var status struct{ Flows []flow }
	if err := json.Unmarshal(content, &status); err != nil {
		return nil, fmt.Errorf("%w in %s", err, content)
	}
	return status.Flows, nil
}

// waitFlow waits until the leader says that the flow of the route is in a state.
func (w *world) waitFlow(t *testing.T, route, state string) flow {
	t.Helper()
	var found flow
	eventually(t, func() error {
		all, err := w.flows(t.Context(), w.Clientset(), w.leader(t))
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(f flow) bool { return f.Route == route })
		if i < 0 {
			return fmt.Errorf("no flow of route %s among %v", route, all)
		}
		if found = all[i]; found.State != state {
			return fmt.Errorf("the flow of route %s is %s (%s), not %s", route, found.State, found.Reason, state)
		}
		return nil
	})
	return found
}

// patience is how long something may take that takes seconds on a machine that
// has nothing else to do: the kubelet writes a changed ConfigMap within a
// minute or so.
const patience = 3 * time.Minute

func eventually(t *testing.T, condition func() error) {
	t.Helper()
	poll.Eventually(t, patience, condition)
}
