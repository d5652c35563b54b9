//go:build unix

// Package sources_test runs pkg/sources against a real API server.
package sources_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	runtimego "runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sources"
	"github.com/crbridge/crbridge/test/controlplane"
)

var shared controlplane.Shared

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// patience is how long a test waits for something that should happen at once.
const patience = 30 * time.Second

// recorder is a handler that remembers what it is told, and blocks while it
// is told to.
type recorder struct {
	mu       sync.Mutex
	told     []string
	position string
	err      error
	troubles int // how often there was one
	changed  chan struct{}
	gate     sync.Mutex // held by a test: the handler blocks

	block   int           // after being told so much it blocks; 0: never
	blocked chan struct{} // until this is closed

	known map[string]string                     // versions by key, of what a list may leave out
	asked func(ctx context.Context, key string) // called before Unchanged answers
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{}, 1)} }

func (r *recorder) tell(format string, args ...any) {
	r.gate.Lock()
	defer r.gate.Unlock()
	r.mu.Lock()
	r.told = append(r.told, fmt.Sprintf(format, args...))
	block := len(r.told) == r.block
	r.mu.Unlock()
	r.wake()
	if block {
		<-r.blocked
	}
}

func (r *recorder) wake() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *recorder) ListStarted(context.Context, string) error {
	r.tell("list")
	return nil
}

func (r *recorder) Listed(_ context.Context, o *object.Object) {
	r.tell("listed %s", o.Name)
}

func (r *recorder) Knows(context.Context) bool { return r.known != nil }

func (r *recorder) Unchanged(ctx context.Context, o *object.Object) bool {
	if r.asked != nil {
		r.asked(ctx, o.Key())
	}
	return r.known[o.Key()] == o.ResourceVersion
}

func (r *recorder) ListFinished(_ context.Context, version string) {
	r.at(version)
	r.tell("listed all")
}
func (r *recorder) Changed(_ context.Context, o *object.Object) {
	r.at(o.ResourceVersion)
	r.tell("changed %s", o.Name)
}
func (r *recorder) Deleted(_ context.Context, o *object.Object) {
	r.at(o.ResourceVersion)
	r.tell("deleted %s", o.Name)
}
func (r *recorder) Progressed(_ context.Context, version string) { r.at(version) }
func (r *recorder) CaughtUp(context.Context)                     {}
func (r *recorder) Busy() bool                                   { return false }

func (r *recorder) at(version string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.position = version
}

func (r *recorder) Condition(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if err != nil {
		r.troubles++
	}
	r.wake()
}

// wait waits until the condition holds of what was told.
func (r *recorder) wait(t *testing.T, condition func(told []string, err error) bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		told, err := slices.Clone(r.told), r.err
		r.mu.Unlock()
		if condition(told, err) {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			t.Fatalf("told so far: %q, condition %v", told, err)
		}
	}
}

func (r *recorder) waitTold(t *testing.T, want ...string) {
	t.Helper()
	r.wait(t, func(told []string, _ error) bool { return len(told) >= len(want) })
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.told, want) {
		t.Fatalf("told %q, not %q", r.told, want)
	}
}

// world is a CRD of a test's own.
type world struct {
	cp       *controlplane.ControlPlane
	resource sources.Resource
	objects  dynamic.ResourceInterface
	crds     apiextensionsclient.Interface
	name     string
}

func newWorld(t *testing.T, cp *controlplane.ControlPlane, group string) *world {
	t.Helper()
	return newScopedWorld(t, cp, group, apiextensions.NamespaceScoped)
}

func newScopedWorld(t testing.TB, cp *controlplane.ControlPlane, group string, scope apiextensions.ResourceScope) *world {
	t.Helper()
	w := &world{cp: cp, name: "gadgets." + group, resource: sources.Resource{
		Kind: schema.GroupVersionKind{Group: group, Version: "v1", Kind: "Gadget"}, Plural: "gadgets", Namespaced: scope == apiextensions.NamespaceScoped,
	}}
	config := cp.Admin()
	w.crds = apiextensionsclient.NewForConfigOrDie(config)
	all := dynamic.NewForConfigOrDie(config).Resource(w.resource.Kind.GroupVersion().WithResource("gadgets"))
	if w.objects = all; w.resource.Namespaced {
		w.objects = all.Namespace("default")
	}
	crd := &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: w.name},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: group, Scope: scope,
			Names: apiextensions.CustomResourceDefinitionNames{Plural: "gadgets", Singular: "gadget", Kind: "Gadget", ListKind: "GadgetList"},
			Versions: []apiextensions.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: &apiextensions.JSONSchemaProps{
					Type: "object", XPreserveUnknownFields: new(true),
				}},
			}},
		},
	}
	if _, err := w.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := w.objects.List(t.Context(), metav1.ListOptions{})
		return err
	})
	return w
}

func eventually(t testing.TB, condition func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *world) create(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	return w.createWith(t, name, nil)
}

// createWith creates an object with a spec.
func (w *world) createWith(t *testing.T, name string, spec map[string]any) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name}, "spec": spec}}
	object.SetGroupVersionKind(w.resource.Kind)
	var created *unstructured.Unstructured
	eventually(t, func() (err error) {
		created, err = w.objects.Create(t.Context(), object, metav1.CreateOptions{})
		return err
	})
	return created
}

// watchers is how many watches of the CRD's objects the API server serves.
func (w *world) watchers(t *testing.T, want float64) {
	t.Helper()
	eventually(t, func() error {
		n, err := w.cp.Metric(t.Context(), "apiserver_longrunning_requests", map[string]string{"group": w.resource.Kind.Group, "verb": "WATCH"})
		if err != nil {
			return err
		}
		if n != want {
			return fmt.Errorf("the API server serves %v watches, not %v", n, want)
		}
		return nil
	})
}

// cluster is a connection of a test's own, closed when the test ends, so that
// what is left of goroutines then is a leak.
func cluster(t *testing.T, config *rest.Config) sources.Cluster {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return sources.Cluster{Config: config, HTTP: client}
}

// follow runs Follow until the returned function is called, which waits for
// its end.
func follow(t *testing.T, c sources.Cluster, r sources.Resource, from sources.Start, h sources.Handler) (stop func()) {
	t.Helper()
	return followSelected(t, c, r, sources.Selection{}, from, h)
}

func followSelected(t *testing.T, c sources.Cluster, r sources.Resource, s sources.Selection, from sources.Start, h sources.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sources.Follow(ctx, c, r, s, from, h) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Follow: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// bytesOf remembers the JSON of objects.
type bytesOf struct {
	*recorder
	listed, changed string
}

func (b *bytesOf) Listed(ctx context.Context, o *object.Object) {
	b.listed = string(o.JSON)
	b.recorder.Listed(ctx, o)
}

func (b *bytesOf) Changed(ctx context.Context, o *object.Object) {
	b.changed = string(o.JSON)
	b.recorder.Changed(ctx, o)
}

// TestBytesPassThrough shows that an object is handed over as the API server
// writes it, by list and by watch, whatever is in it.
func TestBytesPassThrough(t *testing.T) {
	w := newWorld(t, shared.Get(t), "bytes.example.com")
	created := w.create(t, "a")
	spec := map[string]any{
		"text": "<b> & \u2028 ü 🚢 \x00\n\"", "numbers": []any{int64(9007199254740993), 0.1, 1e21, int64(-1)},
		"empty": []any{nil, map[string]any{}, []any{}, ""},
	}
	created.Object["spec"] = spec
	if _, err := w.objects.Update(t.Context(), created, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b := &bytesOf{recorder: newRecorder()}
	stop := follow(t, cluster(t, w.cp.Admin()), w.resource, sources.Start{}, b)
	b.wait(t, func(told []string, _ error) bool { return slices.Contains(told, "listed all") })
	if want := w.raw(t, "a"); b.listed != want || !strings.Contains(want, `"\u003cb\u003e \u0026 `) {
		t.Errorf("the list has\n%s, want\n%s", b.listed, want)
	}
	latest, err := w.objects.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	latest.SetLabels(map[string]string{"b": "c"})
	if _, err := w.objects.Update(t.Context(), latest, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.wait(t, func(told []string, _ error) bool { return slices.Contains(told, "changed a") })
	stop()
	if want := w.raw(t, "a"); b.changed != want {
		t.Errorf("the watch has\n%s, want\n%s", b.changed, want)
	}
}

// raw is the answer of the API server to a GET.
func (w *world) raw(t *testing.T, name string) string {
	t.Helper()
	client, err := rest.HTTPClientFor(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	kind := w.resource.Kind
	address := w.cp.Admin().Host + "/apis/" + kind.Group + "/" + kind.Version + "/namespaces/default/gadgets/" + name
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", response.Status, text, err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

// TestFollow shows the first list, the changes after it, and that a later
// Follow takes up where the first one was: without a list, and with what
// happened in between, even of an object that came and went.
func TestFollow(t *testing.T) {
	w := newWorld(t, shared.Get(t), "follow.example.com")
	c := cluster(t, w.cp.Admin())
	w.create(t, "old")

	first := newRecorder()
	stop := follow(t, c, w.resource, sources.Start{}, first)
	first.waitTold(t, "list", "listed old", "listed all")
	w.create(t, "new")
	first.waitTold(t, "list", "listed old", "listed all", "changed new")
	stop()
	w.watchers(t, 0)

	w.create(t, "brief")
	if err := w.objects.Delete(t.Context(), "brief", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	second := newRecorder()
	follow(t, c, w.resource, sources.Start{Position: first.position}, second)
	second.waitTold(t, "changed brief", "deleted brief")

	// A survey lists, and does not stand for what the watch has to tell.
	third := newRecorder()
	follow(t, c, w.resource, sources.Start{Position: first.position, Survey: true}, third)
	third.waitTold(t, "list", "listed new", "listed old", "listed all", "changed brief", "deleted brief")
}

// TestListIsPaged shows that a list of more than a page arrives whole.
func TestListIsPaged(t *testing.T) {
	w := newWorld(t, shared.Get(t), "paged.example.com")
	const objects = 250
	for i := range objects {
		w.create(t, fmt.Sprintf("o%03d", i))
	}
	r := newRecorder()
	follow(t, cluster(t, w.cp.Admin()), w.resource, sources.Start{}, r)
	want := []string{"list"}
	for i := range objects {
		want = append(want, fmt.Sprintf("listed o%03d", i))
	}
	r.waitTold(t, append(want, "listed all")...)
}

// TestHistoryExpired shows that a position of which the API server has no
// history any more leads to a list, and not to an error.
func TestHistoryExpired(t *testing.T) {
	w := newWorld(t, shared.Get(t), "expired.example.com")
	w.create(t, "one")
	r := newRecorder()
	follow(t, cluster(t, w.cp.Admin()), w.resource, sources.Start{Position: "1"}, r)
	r.waitTold(t, "list", "listed one", "listed all")
	r.wait(t, func(_ []string, err error) bool { return err == nil })
}

// TestCondition shows that the handler hears why it gets nothing.
func TestCondition(t *testing.T) {
	cp := shared.Get(t)
	account, err := cp.ServiceAccount(t.Context(), "default", "condition-test", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, cp, "condition.example.com")
	r := newRecorder()
	follow(t, cluster(t, account.Config()), w.resource, sources.Start{}, r)
	r.wait(t, func(_ []string, err error) bool { return err != nil })
}

// TestBlockedHandler shows that a handler that blocks for long costs no watch,
// and that nothing is lost by it.
func TestBlockedHandler(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for sources.BlockedWatchTimeout")
	}
	w := newWorld(t, shared.Get(t), "blocked.example.com")
	r := newRecorder()
	follow(t, cluster(t, w.cp.Admin()), w.resource, sources.Start{}, r)
	r.waitTold(t, "list", "listed all")
	w.watchers(t, 1)
	r.gate.Lock()
	want := []string{"list", "listed all"}
	for i := range 5 {
		name := fmt.Sprintf("o%d", i)
		w.createWith(t, name, map[string]any{"large": strings.Repeat("x", 16<<10)})
		want = append(want, "changed "+name)
	}
	w.watchers(t, 0)
	r.gate.Unlock()
	r.waitTold(t, want...)
	w.watchers(t, 1)
}

// TestRemoveInformer shows that controller-runtime's RemoveInformer alone, with
// the cache running on, ends our informer: its goroutines and its watch.
func TestRemoveInformer(t *testing.T) {
	w := newWorld(t, shared.Get(t), "remove.example.com")
	config := w.cp.Admin()
	c := cluster(t, config)
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{w.resource.Kind.GroupVersion()})
	mapper.Add(w.resource.Kind, meta.RESTScopeNamespace)
	r := newRecorder()
	informers := make(chan *sources.Informer, 1)
	objects, err := cache.New(c.Config, cache.Options{
		HTTPClient: c.HTTP, Mapper: mapper, Scheme: runtime.NewScheme(),
		NewInformer: func(lw toolscache.ListerWatcher, _ runtime.Object, _ time.Duration, _ toolscache.Indexers) toolscache.SharedIndexInformer {
			i := sources.NewInformer(lw, sources.Start{}, nil, r)
			informers <- i
			return i
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- objects.Start(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if !objects.WaitForCacheSync(ctx) {
		t.Fatal("the cache did not start")
	}
	before := goleak.IgnoreCurrent()

	example := &unstructured.Unstructured{}
	example.SetGroupVersionKind(w.resource.Kind)
	if _, err := objects.GetInformer(ctx, example, cache.BlockUntilSynced(false)); err != nil {
		t.Fatal(err)
	}
	informer := <-informers
	r.waitTold(t, "list", "listed all")
	w.watchers(t, 1)
	if !informer.HasSynced() || informer.IsStopped() {
		t.Errorf("synced is %v and stopped is %v while it runs", informer.HasSynced(), informer.IsStopped())
	}

	if err := objects.RemoveInformer(ctx, example); err != nil {
		t.Fatal(err)
	}
	w.watchers(t, 0)
	eventually(t, func() error {
		if !informer.IsStopped() {
			return fmt.Errorf("the informer has not ended")
		}
		c.HTTP.CloseIdleConnections()
		return goleak.Find(before)
	})
}

// TestFollowLeavesNothing shows that following a resource again and again, as
// for a CRD that flaps, costs no memory and no goroutine in the end.
func TestFollowLeavesNothing(t *testing.T) {
	w := newWorld(t, shared.Get(t), "again.example.com")
	w.create(t, "one")
	c := cluster(t, w.cp.Admin())
	heap := func() uint64 {
		runtimego.GC()
		runtimego.GC()
		var m runtimego.MemStats
		runtimego.ReadMemStats(&m)
		return m.HeapAlloc
	}
	again := func() {
		r := newRecorder()
		ctx, cancel := context.WithCancel(t.Context()) // follow would keep a clean-up for each time
		done := make(chan error, 1)
		go func() { done <- sources.Follow(ctx, c, w.resource, sources.Selection{}, sources.Start{}, r) }()
		r.waitTold(t, "list", "listed one", "listed all")
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		again()
	}
	before, goroutines := heap(), runtimego.NumGoroutine()
	const times = 300
	for range times {
		again()
	}
	w.watchers(t, 0)
	eventually(t, func() error {
		if n := runtimego.NumGoroutine(); n > goroutines {
			return fmt.Errorf("%d goroutines, %d before", n, goroutines)
		}
		return nil
	})
	after := heap()
	t.Logf("heap %d, then %d bytes", before, after)
	if after > before+times*512 {
		t.Errorf("the heap grew from %d to %d bytes over %d times", before, after, times)
	}
}
