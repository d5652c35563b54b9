//go:build unix && docs

package docs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/process"
	"github.com/crbridge/crbridge/test/servers"
)

// repository is where the documents say that the sources are. git is told to
// take the sources of this tree instead.
const repository = "https://github.com/crbridge/crbridge"

// world is what a reader of a document has: a clone, a cluster that
// ~/.kube/config leads to, a NATS server, and bridge, kubectl, helm
// and nats in the PATH.
//
// Of the commands themselves one thing is changed: the documents' addresses on
// loopback are those of this world, as others are used by other tests. The
// bridge's own come from its environment.
type world struct {
	t       *testing.T // of the document
	clone   string
	env     []string
	own     []string // addresses of the bridge that a document runs
	cp      *controlplane.ControlPlane
	nats    *controlplane.NATSServer
	server  string // the bridge's
	running []*command
}

// configuration is the config.yaml that the documents but README.md, which says
// how to write it, take for granted.
const configuration = `cluster: demo
routes:
  - name: orders
    crds: [orders.shop.example.com]
    sinks: [main]
sinks:
  main:
    nats:
      url: nats://127.0.0.1:4222
      jetstream:
        stream: K8S
`

func newWorld(t *testing.T, document, bridge string) *world {
	t.Helper()
	w := &world{t: t}
	dir := t.TempDir()
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o750); err != nil {
		t.Fatal(err)
	}
	w.clone = filepath.Join(work, "crbridge")
	home, bin := filepath.Join(dir, "home"), filepath.Join(dir, "bin")
	w.cp = controlplane.ForTest(t, controlplane.Options{})
	w.nats = controlplane.NATSForTest(t, controlplane.NATSOptions{})
	kubeconfig, err := os.ReadFile(w.cp.AdminKubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, ".kube", "config"), string(kubeconfig))
	for _, name := range []servers.Server{servers.Kubectl, servers.Helm, servers.NATS} {
		path, err := servers.Path(t.Context(), name, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		link(t, path, filepath.Join(bin, string(name)))
	}
	w.server = address(t)
	w.own = []string{"BRIDGE__SERVER__ADDRESS=" + w.server, "BRIDGE__HEALTH__ADDRESS=" + address(t)}
	w.env = append(os.Environ(),
		"HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"), "XDG_CACHE_HOME="+userCache(t), "KUBECONFIG=",
		"TMPDIR="+dir, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url.file://"+filepath.Join(dir, "origin")+".insteadOf", "GIT_CONFIG_VALUE_0="+repository,
	)
	for _, variable := range []string{"GOPATH", "GOCACHE", "GOMODCACHE"} { // they are below the home that has another place now
		w.env = append(w.env, variable+"="+run(t, top, nil, "go", "env", variable))
	}
	w.origin(t, filepath.Join(dir, "origin"))
	if document == "README.md" {
		return w // it begins with a clone, and a cluster that has no CRD
	}
	run(t, dir, w.env, "git", "clone", "--quiet", repository, w.clone)
	link(t, bridge, filepath.Join(bin, "bridge"))
	w.prepare(t)
	w.bridge(t, bridge)
	return w
}

// origin makes a repository of the tree as it is now, with what is not
// committed.
func (w *world) origin(t *testing.T, dir string) {
	t.Helper()
	files := run(t, top, nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for name := range strings.SplitSeq(strings.Trim(files, "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(top, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and git has not been told
		}
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), string(content))
	}
	commit := append([]string{"-c", "user.name=docs", "-c", "user.email=docs@localhost", "-c", "commit.gpgSign=false"}, "commit", "--quiet", "-m", "as it is")
	for _, args := range [][]string{{"init", "--quiet", "-b", "main"}, {"add", "--all"}, commit} {
		run(t, dir, w.env, "git", args...)
	}
}

// ports are what the documents have where this world has others: NATS' own
// port, and the one that the demo happened to have when its output was copied.
var ports = regexp.MustCompile(`127\.0\.0\.1:(4222|25591)\b`)

// replace puts this world's addresses in the place of the documents'.
func (w *world) replace(script string) string {
	script = ports.ReplaceAllString(script, w.nats.Address())
	return strings.ReplaceAll(script, "127.0.0.1:8080", w.server)
}

// prepare makes what the documents take for granted: a CRD and two orders, and
// the namespace of deploy/.
func (w *world) prepare(t *testing.T) {
	t.Helper()
	write(t, filepath.Join(w.clone, "config.yaml"), w.replace(configuration))
	content, err := os.ReadFile(filepath.Join("..", "cmd", "demo", "manifests", "orders.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &crd); err != nil {
		t.Fatal(err)
	}
	crds, err := apiextensions.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := crds.CustomResourceDefinitions().Create(t.Context(), &crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "crbridge-system"}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for number := 1; number <= 2; number++ {
		if err := place(t.Context(), w.orders(t), number); err != nil {
			t.Fatal(err)
		}
	}
}

// orders is a client of the orders.
func (w *world) orders(t *testing.T) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(schema.GroupVersionResource{Group: "shop.example.com", Version: "v1", Resource: "orders"}).Namespace("default")
}

// place creates an order, as soon as the API server serves its kind.
func place(ctx context.Context, orders dynamic.ResourceInterface, number int) error {
	order := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "shop.example.com/v1", "kind": "Order",
		"metadata": map[string]any{"name": name(number)},
		"spec": map[string]any{
			"customer": "Barbara", "total": "26.05",
			"items": []any{map[string]any{"product": "honey", "quantity": int64(1)}},
		},
	}}
	for {
		_, err := orders.Create(ctx, order, metav1.CreateOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func name(number int) string { return fmt.Sprintf("order-%04d", number) }

// change makes orders come, change and go until what it returns is called, for
// commands that print what happens from now on.
func (w *world) change(t *testing.T, first int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	orders := w.orders(t)
	go func() {
		defer close(ended)
		for number := first; ; number++ {
			for _, step := range []func() error{
				func() error { return place(ctx, orders, number) },
				func() error {
					_, err := orders.Patch(ctx, name(number), types.MergePatchType, []byte(`{"spec": {"total": "52.10"}}`), metav1.PatchOptions{})
					return err
				},
				func() error { return orders.Delete(ctx, name(number), metav1.DeleteOptions{}) },
			} {
				if err := step(); ctx.Err() == nil && err != nil {
					t.Errorf("%s: %v", name(number), err)
					return
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(pace):
				}
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// pace is how often something changes.
const pace = 100 * time.Millisecond

// bridge runs the bridge, for documents that take it for granted, and waits for
// its flow.
func (w *world) bridge(t *testing.T, path string) {
	t.Helper()
	b := process.New(process.Command{
		Name: "bridge", Path: path,
		Args:    []string{"run", "--config", filepath.Join(w.clone, "config.yaml"), "--kubeconfig", w.cp.AdminKubeconfig()},
		Env:     w.own,
		LogFile: filepath.Join(t.ArtifactDir(), "bridge.log"),
		Ready: func(ctx context.Context) error {
			return answers(ctx, "http://"+w.server+"/api/status", `"state": "running"`)
		},
	})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Kill)
}

func address(t *testing.T) string {
	t.Helper()
	port, err := controlplane.FreePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

func userCache(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

// run runs a command of the test's own, and returns what it prints.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}
