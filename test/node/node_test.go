//go:build linux && cluster

package node_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/test/node"
	"github.com/crbridge/crbridge/test/servers"
)

const visitorImage = "crbridge.test/visitor:1"

// importVisitor builds the program that the pods run and gives the node an
// image with it.
func importVisitor(t *testing.T, n *node.Node) {
	t.Helper()
	dir := t.TempDir()
	program, archive := filepath.Join(dir, "visitor"), filepath.Join(dir, "visitor.tar")
	if err := servers.BuildProgram(t.Context(), program, "node/visitor", nil); err != nil {
		t.Fatal(err)
	}
	if err := node.ProgramImage(archive, program); err != nil {
		t.Fatal(err)
	}
	if err := n.Import(t.Context(), archive, visitorImage); err != nil {
		t.Fatal(err)
	}
}

// visitor returns the manifests of a namespace that enforces the restricted
// policy, and of a pod in it that keeps to it.
func visitor(namespace string) []byte {
	return fmt.Appendf(nil, `
apiVersion: v1
kind: Namespace
metadata:
  name: %[1]s
  labels: {pod-security.kubernetes.io/enforce: restricted}
---
# The pod reads it.
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: %[1]s}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata:
  name: visitor
  namespace: %[1]s
  labels: {app: visitor}
spec:
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: visitor
      image: %[2]s
      imagePullPolicy: Never
      args: [/words/greeting]
      env:
        - {name: NATS_URL, value: "nats://nats.nats.svc:4222"}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources:
        limits: {memory: 64Mi, cpu: 100m} # the tests leave their pods
      volumeMounts:
        - {name: words, mountPath: /words}
  volumes:
    - name: words
      configMap: {name: words}
`, namespace, visitorImage)
}

// TestPod: a pod under the restricted policy runs, has its ConfigMap, reaches
// the API server as its service account, and NATS by its Service's name; its log
// can be read, and it goes when it is deleted.
func TestPod(t *testing.T) {
	n := shared.Get(t)
	importVisitor(t, n)
	connection, err := nats.Connect(n.NATS.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	visits, err := connection.SubscribeSync("visits")
	if err != nil {
		t.Fatal(err)
	}
	if err := connection.Flush(); err != nil {
		t.Fatal(err)
	}

	began := time.Now()
	if err := n.Apply(t.Context(), visitor("pod")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.WaitPods(t.Context(), "pod", "app=visitor", 1); err != nil {
		t.Fatal(err)
	}
	t.Logf("Ready %v after it was applied", time.Since(began).Round(time.Millisecond))

	const user = "system:serviceaccount:pod:default"
	visit, err := visits.NextMsg(10 * time.Second)
	if err != nil || string(visit.Data) != user {
		t.Errorf("NATS got %v, %v; want the user %s", visit, err, user)
	}
	logs, err := n.Logs(t.Context(), "pod", "visitor", "")
	if want := "file: hello\nuser: " + user + "\n"; err != nil || logs != want {
		t.Errorf("logs %q, %v; want %q", logs, err, want)
	}
	described, err := n.Kubectl(t.Context(), "--namespace", "pod", "describe", "pod", "visitor")
	if err != nil || !strings.Contains(described, "Started container visitor") && !strings.Contains(described, "Container started") {
		t.Errorf("kubectl describe: %v\n%s", err, described)
	}

	if err := n.Clientset().CoreV1().Pods("pod").Delete(t.Context(), "visitor", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is there", func() bool {
		_, err := n.Clientset().CoreV1().Pods("pod").Get(t.Context(), "visitor", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// TestRefusedPod: the policy of a namespace is enforced.
func TestRefusedPod(t *testing.T) {
	n := shared.Get(t)
	if err := n.Apply(t.Context(), []byte(`
apiVersion: v1
kind: Namespace
metadata:
  name: refused
  labels: {pod-security.kubernetes.io/enforce: restricted}
`)); err != nil {
		t.Fatal(err)
	}
	_, err := n.Clientset().CoreV1().Pods("refused").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "root"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "root", Image: visitorImage, SecurityContext: &corev1.SecurityContext{Privileged: new(true)},
		}}},
	}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("%v, want: violates PodSecurity", err)
	}
}

// TestContainerdRestarts: pods run on, and others can be started after it.
func TestContainerdRestarts(t *testing.T) {
	n := shared.Get(t)
	importVisitor(t, n)
	if err := n.Apply(t.Context(), visitor("before")); err != nil {
		t.Fatal(err)
	}
	before, err := n.WaitPods(t.Context(), "before", "app=visitor", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.RestartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Apply(t.Context(), visitor("after")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.WaitPods(t.Context(), "after", "app=visitor", 1); err != nil {
		t.Fatal(err)
	}
	after, err := n.WaitPods(t.Context(), "before", "app=visitor", 1)
	if err != nil {
		t.Fatal(err)
	}
	was, is := before[0].Status.ContainerStatuses[0], after[0].Status.ContainerStatuses[0]
	if is.ContainerID != was.ContainerID || is.RestartCount != 0 {
		t.Errorf("container %s, restarted %d times, was %s", is.ContainerID, is.RestartCount, was.ContainerID)
	}
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
