//go:build browser && unix

package browser_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/poll"
	"github.com/crbridge/crbridge/test/process"
)

var groups atomic.Int64

// group makes up a group of API resources for a test.
func group() string { return fmt.Sprintf("b%d.example.com", groups.Add(1)) }

// kind is a custom resource.
type kind struct {
	plural, group string
	crds          apiextensionsclient.Interface
	objects       dynamic.ResourceInterface
}

func (k *kind) name() string { return k.plural + "." + k.group }

// newKind makes up a custom resource; its CRD is not created yet.
func newKind(t *testing.T, plural, group string) *kind {
	t.Helper()
	admin := shared.Get(t).Admin()
	crds, err := apiextensionsclient.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	k := &kind{plural: plural, group: group, crds: crds}
	k.objects = client.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}).Namespace("default")
	t.Cleanup(func() {
		err := crds.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), k.name(), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("clean-up: %v", err)
		}
	})
	return k
}

// create creates the CRD and waits until its objects can be.
func (k *kind) create(t *testing.T) {
	t.Helper()
	singular := strings.TrimSuffix(k.plural, "s")
	crd := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: k.name()},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: k.group, Scope: apiextensions.NamespaceScoped,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: k.plural, Singular: singular, Kind: strings.ToUpper(singular[:1]) + singular[1:], ListKind: singular + "List"},
			Versions: []apiextensions.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}},
			}},
		},
	}
	if _, err := k.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := k.objects.List(t.Context(), metav1.ListOptions{})
		return err
	})
}

func (k *kind) remove(t *testing.T) {
	t.Helper()
	if err := k.crds.ApiextensionsV1().CustomResourceDefinitions().Delete(t.Context(), k.name(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// put creates or changes an object.
func (k *kind) put(t *testing.T, name string, size int64, annotations map[string]any) {
	t.Helper()
	singular := strings.TrimSuffix(k.plural, "s")
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": k.group + "/v1", "kind": strings.ToUpper(singular[:1]) + singular[1:],
		"metadata": map[string]any{"name": name, "annotations": annotations}, "spec": map[string]any{"size": size},
	}}
	eventually(t, func() error {
		_, err := k.objects.Apply(t.Context(), name, object, metav1.ApplyOptions{FieldManager: "test", Force: true})
		return err
	})
}

// bridge is a running bridge.
type bridge struct {
	*process.Process
	url string
}

// startBridge runs a bridge with that configuration until the test ends.
func startBridge(t *testing.T, kubeconfig, body string) *bridge {
	t.Helper()
	port, err := controlplane.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	path := filepath.Join(t.TempDir(), "config.yaml")
	content := fmt.Sprintf("cluster: demo\nhealth: {address: %q}\nserver: {address: %q}\n%s", address, address, body)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bridge{url: "http://" + address}
	b.Process = process.New(process.Command{
		Name: "bridge", Path: bridgePath, Args: []string{"run", "--config", path, "--kubeconfig", kubeconfig},
		LogFile: filepath.Join(t.ArtifactDir(), "bridge.log"),
		Ready: func(ctx context.Context) error {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/healthz", nil)
			if err != nil {
				return err
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				return err
			}
			return answer.Body.Close()
		},
	})
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			t.Logf("the bridge's log ends:\n%s", b.LogTail())
		}
	})
	if err := b.Start(t.Context()); err != nil {
		t.Fatalf("starting the bridge: %v", err)
	}
	return b
}

func route(name string, crds ...string) string {
	return fmt.Sprintf("  - {name: %s, crds: [%s], sinks: [main]}\n", name, strings.Join(crds, ", "))
}

func sinkTo(server *controlplane.NATSServer) string {
	return fmt.Sprintf("sinks: {main: {nats: {url: %q, subject: 'k8s.{cluster}.{group}.{resource}.{namespace}.{name}.{route}', jetstream: {stream: K8S, maxBytes: 104857600}}}}\n", server.URL())
}

func eventually(t *testing.T, condition func() error) {
	t.Helper()
	poll.Eventually(t, patience, condition)
}
