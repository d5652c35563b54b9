//go:build linux

package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/crbridge/crbridge/test/poll"
)

// fieldManager owns the fields that Apply sets.
const fieldManager = "crbridge-test"

// Apply applies the objects of a stream of YAML documents, in their order, as
// `kubectl apply --server-side --force-conflicts` does. An object whose CRD
// comes before it waits until the API server serves it.
func (n *Node) Apply(ctx context.Context, manifests []byte) error {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for number := 1; ; number++ {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("document %d: %w", number, err)
		}
		if len(object.Object) == 0 { // nothing but comments
			continue
		}
		if err := n.apply(ctx, object); err != nil {
			return fmt.Errorf("apply document %d, %s %s/%s: %w", number, object.GetKind(), object.GetNamespace(), object.GetName(), err)
		}
	}
}

func (n *Node) apply(ctx context.Context, object *unstructured.Unstructured) error {
	var mapping *meta.RESTMapping
	err := poll.Until(ctx, patience, "not served", func(context.Context) (err error) {
		kind := object.GroupVersionKind()
		if mapping, err = n.mapper.RESTMapping(kind.GroupKind(), kind.Version); err != nil {
			n.mapper.Reset()
		}
		return err
	})
	if err != nil {
		return err
	}
	var resource dynamic.ResourceInterface = n.dynamic.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		resource = n.dynamic.Resource(mapping.Resource).Namespace(cmp.Or(object.GetNamespace(), metav1.NamespaceDefault))
	}
	_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// Logs returns what a container of a pod has printed; the container's name may
// be empty where there is one only.
func (n *Node) Logs(ctx context.Context, namespace, pod, container string) (string, error) {
	content, err := n.clientset.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("logs of %s/%s: %w", namespace, pod, err)
	}
	return string(content), nil
}

// Kubectl runs kubectl with everything allowed and returns what it prints. Its
// error has what it prints on stderr.
func (n *Node) Kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.files.kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.AdminKubeconfig(), "HOME="+n.folder.dir)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// WaitPods waits until the namespace has that many pods with the labels, each of
// them Ready and none about to go, and returns them. Its error says what the
// pods wait for.
func (n *Node) WaitPods(ctx context.Context, namespace, labels string, count int) ([]corev1.Pod, error) {
	var ready []corev1.Pod
	err := poll.Until(ctx, patience, "pods not ready", func(ctx context.Context) error {
		list, err := n.clientset.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
		if err != nil {
			return err
		}
		ready = list.Items
		var errs []error
		if len(ready) != count {
			errs = append(errs, fmt.Errorf("%d pods in %s with %s, not %d", len(ready), namespace, labels, count))
		}
		for i := range ready {
			if why := unready(&ready[i]); why != "" {
				errs = append(errs, fmt.Errorf("%s: %s", ready[i].Name, why))
			}
		}
		return errors.Join(errs...)
	})
	return ready, err
}

// unready tells why a pod is not Ready, or nothing.
func unready(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return "being deleted"
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			return ""
		}
	}
	why := []string{string(pod.Status.Phase)}
	for _, status := range pod.Status.ContainerStatuses {
		if waiting := status.State.Waiting; waiting != nil {
			why = append(why, status.Name, waiting.Reason, waiting.Message)
		}
		if ended := status.State.Terminated; ended != nil {
			why = append(why, status.Name, "ended with", fmt.Sprint(ended.ExitCode), ended.Message)
		}
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Status != corev1.ConditionTrue && condition.Message != "" {
			why = append(why, string(condition.Type)+":", condition.Message)
		}
	}
	return strings.Join(why, " ")
}
