//go:build unix

// Package chart_test renders the Helm chart in deploy/chart, installs it and
// has a real API server and the built bridge judge what comes out.
package chart_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/servers"
)

// Files of the repository, seen from this package's folder.
const (
	chart   = "../../deploy/chart"
	install = "../../deploy/install.yaml"
	example = "../../deploy/configuration.yaml"
)

var shared controlplane.Shared

// bridgePath and helmPath are what is tested, and what it is tested with.
var bridgePath, helmPath string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crbridge-chart-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if bridgePath, err = servers.BuildBridge(context.Background(), dir, os.Stderr); err == nil {
		helmPath, err = servers.Path(context.Background(), servers.Helm, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return shared.Run(m)
}

// command runs a program; the error has what it says.
func command(t *testing.T, stdin, path string, args ...string) (stdout string, err error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), path, args...)
	home := t.TempDir()
	c.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, stderr strings.Builder
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(path), args[0], err, &stderr)
	}
	return out.String(), nil
}

// render is what `helm template` makes of values.
func render(t *testing.T, release, namespace, values string, args ...string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	text, err := command(t, values, helmPath, append([]string{"template", release, chart, "--namespace", namespace, "--values", "-"}, args...)...)
	if err != nil {
		return nil, err
	}
	return objectsIn(t, text), nil
}

func mustRender(t *testing.T, release, namespace, values string, args ...string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := render(t, release, namespace, values, args...)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// objectsIn reads the objects of a file, in which a key that is there twice is an
// error, as it is for the API server.
func objectsIn(t *testing.T, text string) (objects []*unstructured.Unstructured) {
	t.Helper()
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		var object unstructured.Unstructured
		if err == nil {
			err = yaml.UnmarshalStrict(document, &object.Object)
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if object.Object != nil { // a document of comments alone
			objects = append(objects, &object)
		}
	}
}

// read reads the objects of a file of the repository.
func read(t *testing.T, path string) []*unstructured.Unstructured {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return objectsIn(t, string(content))
}

// only is the one object of the kind.
func only(t *testing.T, objects []*unstructured.Unstructured, kind string) *unstructured.Unstructured {
	t.Helper()
	var found []*unstructured.Unstructured
	for _, object := range objects {
		if object.GetKind() == kind {
			found = append(found, object)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of kind %s, not 1", len(found), kind)
	}
	return found[0]
}

// configuration writes the file that the bridge is given, and returns its path.
func configuration(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	content, found, err := unstructured.NestedString(only(t, objects, "ConfigMap").Object, "data", "config.yaml")
	if err != nil || !found {
		t.Fatalf("no config.yaml in the ConfigMap: %v", err)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
