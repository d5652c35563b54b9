package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// manifests is deploy/, seen from this package's folder.
const manifests = "../../deploy"

// TestDeployDryRun has the API server judge deploy/ as `kubectl apply
// --server-side --dry-run=server -f deploy/` would, file by file in the order
// of their names, with every unknown field an error and every warning a
// failure: the one that counts is pod security's, as the API server only
// warns of a Deployment whose pods it will refuse.
func TestDeployDryRun(t *testing.T) {
	c := newApplier(t)
	namespace := ""
	for _, object := range readManifests(t) {
		dryRun := true
		if object.GetKind() == "Namespace" {
			// For real: what is in a namespace is refused, also in a dry run,
			// while the namespace is not there.
			dryRun, namespace = false, object.GetName()
			t.Cleanup(func() { c.deleteNamespace(t, namespace) })
		}
		if namespace == "" {
			t.Fatalf("%s comes before its Namespace", object.GetKind())
		}
		if err := c.apply(t.Context(), object, dryRun); err != nil {
			t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
		for _, warning := range c.warnings.take() {
			t.Errorf("%s %s: the API server warns: %s", object.GetKind(), object.GetName(), warning)
		}
	}

	t.Run("a pod that is not restricted would be warned of", func(t *testing.T) {
		// Without this the absence of warnings would prove nothing.
		for _, object := range readManifests(t) {
			if object.GetKind() != "Deployment" {
				continue
			}
			unstructured.RemoveNestedField(object.Object, "spec", "template", "spec", "securityContext")
			if err := c.apply(t.Context(), object, true); err != nil {
				t.Fatal(err)
			}
			if got := c.warnings.take(); !slices.ContainsFunc(got, func(w string) bool {
				return strings.Contains(w, "would violate PodSecurity") && strings.Contains(w, "runAsNonRoot")
			}) {
				t.Errorf("warnings %q, none of them about runAsNonRoot", got)
			}
			return
		}
		t.Fatal("there is no Deployment in " + manifests)
	})
}

// readManifests reads the files as kubectl does: in the order of their names,
// and every document in them in turn.
func readManifests(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(manifests, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests in %s: %v", manifests, err)
	}
	var objects []*unstructured.Unstructured
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096); ; {
			var object unstructured.Unstructured
			if err := d.Decode(&object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if object.Object != nil { // a document of comments alone
				objects = append(objects, &object)
			}
		}
	}
	return objects
}

// applier applies objects of any kind, and collects what the API server warns of.
type applier struct {
	client   dynamic.Interface
	mapper   *restmapper.DeferredDiscoveryRESTMapper
	warnings *warnings
}

func newApplier(t *testing.T) *applier {
	t.Helper()
	config := rest.CopyConfig(admin(t))
	w := &warnings{}
	config.WarningHandler = w
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &applier{client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d)), warnings: w}
}

// apply is a server-side apply with strict field validation.
func (c *applier) apply(ctx context.Context, object *unstructured.Unstructured, dryRun bool) error {
	kind := object.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: "crbridge-deploy-test", FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	var resource dynamic.ResourceInterface = c.client.Resource(mapping.Resource)
	if object.GetNamespace() != "" {
		resource = c.client.Resource(mapping.Resource).Namespace(object.GetNamespace())
	}
	_, err = resource.Patch(ctx, object.GetName(), types.ApplyPatchType, body, options)
	return err
}

// deleteNamespace asks for the namespace's end. Without a controller manager
// it stays Terminating if something is in it, which does no harm to a test's
// own API server.
func (c *applier) deleteNamespace(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // t.Context has ended
	defer cancel()
	namespaces := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	if err := c.client.Resource(namespaces).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("namespace %s: %v", name, err)
	}
}

// warnings collects the Warning headers of the API server's answers.
type warnings struct {
	mu   sync.Mutex
	text []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	if text == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

// take is what there was since the last call.
func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.text
	w.text = nil
	return taken
}
