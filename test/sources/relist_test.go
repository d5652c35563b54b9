//go:build unix

package sources_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sources"
)

// meter counts what comes of requests, and may change them on their way, as
// another API server would understand them.
type meter struct {
	inner   http.RoundTripper
	rewrite func(*http.Request)

	mu    sync.Mutex
	named int // requests for one object
	whole int // objects that were read as a whole, by any request
	bytes int // of all answers but those of watches
}

func (m *meter) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	if m.rewrite != nil {
		m.rewrite(request)
	}
	response, err := m.inner.RoundTrip(request)
	if err != nil || request.URL.Query().Has("watch") {
		return response, err
	}
	text, err := io.ReadAll(response.Body)
	if closed := response.Body.Close(); err == nil {
		err = closed
	}
	response.Body = io.NopCloser(bytes.NewReader(text))
	var list struct{ Items []json.RawMessage }
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") && err == nil {
		err = json.Unmarshal(text, &list)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if strings.Contains(request.URL.Query().Get("fieldSelector"), "metadata.name=") {
		m.named++
	}
	m.whole += len(list.Items)
	m.bytes += len(text)
	return response, err
}

func (m *meter) read() (named, whole, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.named, m.whole, m.bytes
}

// metered is a connection of a test's own whose requests are counted.
func metered(t *testing.T, config *rest.Config) (sources.Cluster, *meter) {
	t.Helper()
	c := cluster(t, config)
	m := &meter{inner: c.HTTP.Transport}
	c.HTTP = &http.Client{Transport: m}
	return c, m
}

// fill creates objects with a spec of that many bytes.
func (w *world) fill(t testing.TB, objects dynamic.ResourceInterface, count, size int) (versions map[string]string) {
	t.Helper()
	const workers = 8
	versions = map[string]string{}
	var mu sync.Mutex
	var work sync.WaitGroup
	for worker := range workers {
		work.Go(func() {
			for i := worker; i < count; i += workers {
				o := &unstructured.Unstructured{Object: map[string]any{
					"metadata": map[string]any{"name": fmt.Sprintf("o%05d", i), "labels": map[string]any{"on": "yes"}},
					"spec":     fields(size),
				}}
				o.SetGroupVersionKind(w.resource.Kind)
				created, err := objects.Create(t.Context(), o, metav1.CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				versions[key(created)] = created.GetResourceVersion()
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return versions
}

// fields are a spec of many small fields, as those of real custom resources
// have, each of which its manager is said to own.
func fields(size int) map[string]any {
	const field = 64
	spec := map[string]any{}
	for i := range size / field {
		spec[fmt.Sprintf("field%03d", i)] = strings.Repeat("x", field-16)
	}
	return spec
}

func key(o *unstructured.Unstructured) string {
	return strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
}

func (w *world) touch(t testing.TB, objects dynamic.ResourceInterface, name string) *unstructured.Unstructured {
	t.Helper()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"touched":%q}}}`, time.Now().String())
	o, err := objects.Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// versioned remembers the version of what it is given, and its JSON.
type versioned struct {
	*recorder
}

func (v versioned) Listed(_ context.Context, o *object.Object) { v.give("listed", o) }
func (v versioned) Changed(_ context.Context, o *object.Object) {
	v.at(o.ResourceVersion)
	v.give("changed", o)
}
func (v versioned) Deleted(_ context.Context, o *object.Object) {
	v.at(o.ResourceVersion)
	v.tell("deleted %s", o.Key())
}

func (v versioned) give(how string, o *object.Object) {
	var is metav1.PartialObjectMetadata
	if err := json.Unmarshal(o.JSON, &is); err != nil || is.ResourceVersion != o.ResourceVersion {
		v.tell("%s in version %s has %s (%v)", o.Key(), o.ResourceVersion, o.JSON, err)
		return
	}
	v.tell("%s %s@%s", how, o.Key(), o.ResourceVersion)
}

// TestOnlyWhatIsUnknownIsListed shows that of a list whose objects are known,
// only what has changed is read as a whole: one by one where it is little, and
// by pages where it is much.
func TestOnlyWhatIsUnknownIsListed(t *testing.T) {
	const objects, size = 200, 4 << 10
	w := newWorld(t, shared.Get(t), "unknown.example.com")
	known := w.fill(t, w.objects, objects, size)
	for _, test := range []struct {
		why     string
		changed []int
		named   int // -1: any
		whole   int // at most
	}{
		{"nothing", nil, 0, 0},
		{"few, here and there, the first and the last among them", []int{0, 1, 9, 10, 150, 199}, 6, 6},
		{"all but some", slices.DeleteFunc(numbers(objects), func(i int) bool { return i%40 == 7 }), 0, objects},
		{"what follows each other", numbers(objects)[60:140], -1, 170},
	} {
		t.Run(test.why, func(t *testing.T) {
			want := []string{"list"}
			for _, i := range test.changed {
				o := w.touch(t, w.objects, fmt.Sprintf("o%05d", i))
				want = append(want, fmt.Sprintf("listed %s@%s", key(o), o.GetResourceVersion()))
			}
			r := versioned{newRecorder()}
			r.known = known
			c, m := metered(t, w.cp.Admin())
			stop := follow(t, c, w.resource, sources.Start{}, r)
			r.waitTold(t, append(want, "listed all")...)
			stop()
			named, whole, bytes := m.read()
			t.Logf("%d requests for one object, %d objects read, %d bytes", named, whole, bytes)
			if test.named >= 0 && named != test.named || whole < len(test.changed) || whole > test.whole {
				t.Errorf("%d requests for one object and %d objects read, want %d and %d to %d", named, whole, test.named, len(test.changed), test.whole)
			}
			for _, i := range test.changed {
				k := fmt.Sprintf("default/o%05d", i)
				known[k] = w.version(t, k)
			}
		})
	}
}

func numbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func (w *world) version(t *testing.T, key string) string {
	t.Helper()
	o, err := w.objects.Get(t.Context(), key[strings.LastIndex(key, "/")+1:], metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o.GetResourceVersion()
}

// TestListedAsOfTheList shows that what changes while a list is compared is
// listed as it was then, and told by the watch: no version is skipped for it.
func TestListedAsOfTheList(t *testing.T) {
	for _, test := range []struct {
		why     string
		group   string
		unknown int // of 40 objects: few are asked for one by one
		do      func(t *testing.T, w *world)
		then    []string
	}{
		{"an object changes twice", "twice", 1, func(t *testing.T, w *world) {
			w.touch(t, w.objects, "o00000")
			w.touch(t, w.objects, "o00000")
		}, []string{"changed default/o00000", "changed default/o00000"}},
		{"an object changes, of many that are unknown", "many", 40, func(t *testing.T, w *world) { w.touch(t, w.objects, "o00000") }, []string{"changed default/o00000"}},
		{"an object is deleted", "deleted", 1, func(t *testing.T, w *world) { w.remove(t, "o00000") }, []string{"deleted default/o00000"}},
		{"an object is deleted, of many that are unknown", "deleted-many", 40, func(t *testing.T, w *world) { w.remove(t, "o00000") }, []string{"deleted default/o00000"}},
		{"an object is replaced", "replaced", 1, func(t *testing.T, w *world) {
			w.remove(t, "o00000")
			w.create(t, "o00000")
		}, []string{"deleted default/o00000", "changed default/o00000"}},
	} {
		t.Run(test.why, func(t *testing.T) {
			w := newWorld(t, shared.Get(t), test.group+".relist.example.com")
			const objects = 40
			known := w.fill(t, w.objects, objects, 100)
			want := []string{"list"}
			for i := range test.unknown {
				k := fmt.Sprintf("default/o%05d", i)
				want = append(want, fmt.Sprintf("listed %s@%s", k, known[k]))
				delete(known, k)
			}
			r := versioned{newRecorder()}
			r.known = known
			var once sync.Once
			r.asked = func(context.Context, string) { once.Do(func() { test.do(t, w) }) }
			stop := follow(t, cluster(t, w.cp.Admin()), w.resource, sources.Start{}, r)
			n := len(want) + 1 + len(test.then)
			r.wait(t, func(told []string, _ error) bool { return len(told) >= n })
			stop()
			for i, told := range r.told[len(want)+1:] { // the watch's versions are not known here
				r.told[len(want)+1+i], _, _ = strings.Cut(told, "@")
			}
			if diff := cmp.Diff(slices.Concat(want, []string{"listed all"}, test.then), r.told); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		})
	}
}

func (w *world) remove(t *testing.T, name string) {
	t.Helper()
	if err := w.objects.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestCompactedWhileListing shows that a list whose moment etcd has forgotten
// before all of it was read begins again, and is no error.
func TestCompactedWhileListing(t *testing.T) {
	w := newWorld(t, shared.Get(t), "compacted.example.com")
	known := w.fill(t, w.objects, 40, 100)
	delete(known, "default/o00000")
	r := versioned{newRecorder()}
	r.known = known
	var once sync.Once
	newer := ""
	r.asked = func(context.Context, string) {
		once.Do(func() { //nolint:contextcheck // the test's own
			newer = w.touch(t, w.objects, "o00000").GetResourceVersion()
			if err := w.cp.Compact(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	stop := follow(t, cluster(t, w.cp.Admin()), w.resource, sources.Start{}, r)
	r.wait(t, func(told []string, _ error) bool { return slices.Contains(told, "listed all") })
	stop()
	r.waitTold(t, "list", "list", "listed default/o00000@"+newer, "listed all")
	if r.err != nil {
		t.Errorf("the handler was told of %v", r.err)
	}
}

// TestUnknownOfASelection shows that selectors, namespaces and scope hold for
// what is listed by name as well, and what is asked for.
func TestUnknownOfASelection(t *testing.T) {
	for _, test := range []struct {
		why      string
		group    string
		scope    apiextensions.ResourceScope
		selected sources.Selection
		path     string
		selector url.Values
	}{
		{
			"all namespaces", "all", apiextensions.NamespaceScoped, sources.Selection{}, "/namespaces/default/gadgets",
			url.Values{"fieldSelector": {"metadata.name=o00003"}},
		},
		{
			"one namespace", "single", apiextensions.NamespaceScoped, sources.Selection{Namespace: "default"}, "/namespaces/default/gadgets",
			url.Values{"fieldSelector": {"metadata.name=o00003"}},
		},
		{
			"labels", "labels", apiextensions.NamespaceScoped, sources.Selection{Labels: "on in (yes,perhaps),!off"}, "/namespaces/default/gadgets",
			url.Values{"fieldSelector": {"metadata.name=o00003"}, "labelSelector": {"on in (yes,perhaps),!off"}},
		},
		{
			"fields", "fields", apiextensions.NamespaceScoped, sources.Selection{Fields: "metadata.namespace=default,metadata.name!=o00001"},
			"/namespaces/default/gadgets", url.Values{"fieldSelector": {"metadata.namespace=default,metadata.name!=o00001,metadata.name=o00003"}},
		},
		{
			"no namespaces", "cluster", apiextensions.ClusterScoped, sources.Selection{}, "/v1/gadgets",
			url.Values{"fieldSelector": {"metadata.name=o00003"}},
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			w := newScopedWorld(t, shared.Get(t), test.group+".selection.example.com", test.scope)
			known := w.fill(t, w.objects, 10, 100)
			changed := w.touch(t, w.objects, "o00003")
			r := versioned{newRecorder()}
			r.known = known
			c, m := metered(t, w.cp.Admin())
			var mu sync.Mutex
			var asked []*url.URL
			m.rewrite = func(r *http.Request) {
				if strings.Contains(r.URL.RawQuery, "metadata.name%3Do00003") {
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, r.URL)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- sources.Follow(ctx, c, w.resource, test.selected, sources.Start{}, r) }()
			r.waitTold(t, "list", fmt.Sprintf("listed %s@%s", key(changed), changed.GetResourceVersion()), "listed all")
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(asked) != 1 || !strings.HasSuffix(asked[0].Path, test.path) {
				t.Fatalf("asked for %v", asked)
			}
			got := asked[0].Query()
			got.Del("resourceVersion")
			test.selector.Set("resourceVersionMatch", "Exact")
			if diff := cmp.Diff(test.selector, got); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOddAPIServers shows that a list arrives whole from an API server that has
// no metadata to list, or whose answers do not go together.
func TestOddAPIServers(t *testing.T) {
	for _, test := range []struct {
		why     string
		group   string
		unknown int // of 40
		rewrite func(r *http.Request, query url.Values)
		lists   int
	}{
		{"none that knows metadata only", "plain", 1, func(r *http.Request, _ url.Values) { r.Header.Set("Accept", "application/json") }, 1},
		{"one that knows no exact versions", "inexact", 1, func(_ *http.Request, query url.Values) {
			if query.Has("resourceVersionMatch") {
				query.Del("resourceVersion")
				query.Del("resourceVersionMatch")
			}
		}, 2},
		{"also for many", "inexact-many", 40, func(_ *http.Request, query url.Values) {
			if query.Has("resourceVersionMatch") {
				query.Del("resourceVersion")
				query.Del("resourceVersionMatch")
			}
		}, 2},
		{"one that finds nothing by name", "nameless", 1, func(_ *http.Request, query url.Values) {
			if query.Has("fieldSelector") {
				query.Set("fieldSelector", "metadata.name=nobody")
			}
		}, 2},
	} {
		t.Run(test.why, func(t *testing.T) {
			w := newWorld(t, shared.Get(t), test.group+".odd.example.com")
			const objects = 40
			known := w.fill(t, w.objects, objects, 100)
			for i := range test.unknown {
				delete(known, fmt.Sprintf("default/o%05d", i))
			}
			r := versioned{newRecorder()}
			r.known = known
			var once sync.Once
			r.asked = func(context.Context, string) { once.Do(func() { w.touch(t, w.objects, "o00000") }) } //nolint:contextcheck // the test's own
			c, m := metered(t, w.cp.Admin())
			m.rewrite = func(r *http.Request) {
				query := r.URL.Query()
				test.rewrite(r, query)
				r.URL.RawQuery = query.Encode()
			}
			stop := follow(t, c, w.resource, sources.Start{}, r)
			r.wait(t, func(told []string, _ error) bool { return slices.Contains(told, "listed all") })
			stop()
			lists, whole := 0, map[string]bool{}
			for _, told := range r.told {
				if told == "list" {
					lists++
				}
				name, _, is := strings.Cut(told, "@")
				whole[name] = is
			}
			for i := range objects {
				if name := fmt.Sprintf("listed default/o%05d", i); !whole[name] {
					t.Errorf("not %s", name)
				}
			}
			if lists != test.lists {
				t.Errorf("%d lists began, want %d", lists, test.lists)
			}
		})
	}
}

// BenchmarkRelist measures what an unchanged object costs the process in CPU
// time, all that its connections do included, where a list is made of metadata,
// and where it is of whole objects: 20,000 of 2 KiB, and what their manager owns.
func BenchmarkRelist(b *testing.B) {
	const objects, size = 5000, 2048
	cp := shared.Get(b)
	w := newScopedWorld(b, cp, "bench.example.com", apiextensions.NamespaceScoped)
	known := w.fill(b, w.objects, objects, size)
	some := maps.Clone(known)
	for i := 0; i < objects; i += 40 {
		delete(some, fmt.Sprintf("default/o%05d", i))
	}
	for _, way := range []struct {
		name  string
		known map[string]string
	}{{"metadata", known}, {"metadata, and one in 40 objects", some}, {"whole objects", nil}} {
		b.Run(way.name, func(b *testing.B) {
			c := sources.Cluster{Config: cp.Admin()}
			client, err := rest.HTTPClientFor(c.Config)
			if err != nil {
				b.Fatal(err)
			}
			c.HTTP = client
			var used, wall time.Duration
			for b.Loop() {
				r := counter{recorder: newRecorder(), done: make(chan struct{})}
				r.known = way.known
				ctx, cancel := context.WithCancel(b.Context())
				done := make(chan error, 1)
				began, before := time.Now(), cpu(b)
				go func() { done <- sources.Follow(ctx, c, w.resource, sources.Selection{}, sources.Start{}, r) }()
				<-r.done
				used, wall = used+cpu(b)-before, wall+time.Since(began)
				cancel()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N)/objects/1e3, "cpu-µs/object")
			b.ReportMetric(float64(wall.Nanoseconds())/float64(b.N)/objects/1e3, "µs/object")
		})
	}
}

// counter waits for a list to be done.
type counter struct {
	*recorder
	done chan struct{}
}

func (counter) Listed(context.Context, *object.Object) {}

func (c counter) ListFinished(context.Context, string) { close(c.done) }

// cpu is what the process has used so far.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
