//go:build unix

package sources_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/crbridge/crbridge/pkg/sources"
)

// connections counts the watches that are made over connections of their own.
type connections struct {
	inner http.RoundTripper
	fails error // what becomes of them
	cut   int   // after so many bytes; 0: never

	mu     sync.Mutex
	made   int
	open   int
	protos []string
}

func (c *connections) RoundTrip(request *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	if c.fails != nil {
		return nil, c.fails
	}
	c.mu.Unlock()
	response, err := c.inner.RoundTrip(request)
	c.mu.Lock()
	if err != nil {
		return nil, err
	}
	c.open++
	c.protos = append(c.protos, response.Proto)
	left := io.Reader(response.Body)
	if c.cut > 0 {
		left = io.MultiReader(io.LimitReader(response.Body, int64(c.cut)), broken{io.ErrUnexpectedEOF})
	}
	response.Body = &connectionBody{Reader: left, Closer: response.Body, of: c}
	return response, nil
}

func (c *connections) count() (made, open int, protos []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made, c.open, slices.Clone(c.protos)
}

// broken is what a connection is that broke.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

type connectionBody struct {
	io.Reader
	io.Closer
	of   *connections
	once sync.Once
}

func (b *connectionBody) Close() error {
	b.once.Do(func() {
		b.of.mu.Lock()
		defer b.of.mu.Unlock()
		b.of.open--
	})
	return b.Closer.Close()
}

// dedicated is a cluster whose watches can have connections of their own.
func dedicated(t *testing.T, config *rest.Config) (sources.Cluster, *connections) {
	t.Helper()
	c := cluster(t, config)
	counted := &connections{}
	own := rest.CopyConfig(config)
	own.NextProtos = []string{"http/1.1"}
	own.Wrap(func(inner http.RoundTripper) http.RoundTripper {
		base := inner
		for {
			wrapper, is := base.(utilnet.RoundTripperWrapper)
			if !is {
				break
			}
			base = wrapper.WrappedRoundTripper()
		}
		base.(*http.Transport).DisableKeepAlives = true
		counted.inner = inner
		return counted
	})
	var err error
	if c.Dedicated, err = rest.HTTPClientFor(own); err != nil {
		t.Fatal(err)
	}
	return c, counted
}

// backlog changes an object so often, and returns where that began, and what
// there is to be told.
func (w *world) backlog(t *testing.T, changes int) (from string, want []string) {
	t.Helper()
	const workers = 10
	objects := make([]*unstructured.Unstructured, workers)
	for i := range objects {
		objects[i] = w.createWith(t, fmt.Sprintf("o%d", i), map[string]any{"text": strings.Repeat("x", 2000)})
		from = objects[i].GetResourceVersion()
	}
	var group sync.WaitGroup
	failed := make([]error, workers)
	versions := make([][]string, workers)
	for i, o := range objects {
		group.Go(func() {
			for n := range changes / workers {
				patch := fmt.Sprintf(`{"spec":{"n":%d}}`, n)
				changed, err := w.objects.Patch(t.Context(), o.GetName(), types.MergePatchType, []byte(patch), metav1.PatchOptions{})
				if err != nil {
					failed[i] = err
					return
				}
				versions[i] = append(versions[i], changed.GetResourceVersion())
			}
		})
	}
	group.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	var all []int
	for i, of := range versions {
		for _, version := range of {
			number, err := strconv.Atoi(version)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, number)
			names[version] = objects[i].GetName()
		}
	}
	slices.Sort(all)
	for _, number := range all {
		version := strconv.Itoa(number)
		want = append(want, "changed default/"+names[version]+"@"+version)
	}
	return from, want
}

// TestBusyWatchMoves shows that a watch that brings much gets a connection of its
// own, and later goes back, and that whatever happens to that connection each
// change is told, once, and in order.
func TestBusyWatchMoves(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a watch to be quiet")
	}
	const changes = 4000
	cp := shared.Get(t)
	w := newWorld(t, cp, "busy.example.com")
	from, want := w.backlog(t, changes)

	for _, row := range []struct {
		why   string
		fails error
		cut   int
		block int  // after so many changes, until the watch is closed
		quiet bool // it is waited for that the watch goes back
		made  int  // connections, at least
		most  int
	}{
		{"nothing happens to it", nil, 0, 0, true, 1, 1},
		{"it cannot be made, and is not tried again at once", errors.New("no HTTP/1.1 here"), 0, 0, false, 1, 1},
		{"it breaks again and again", nil, 500_000, 0, false, 5, changes},
		{"its reader is blocked, and lets it go", nil, 0, 2000, false, 1, 2},
	} {
		t.Run(row.why, func(t *testing.T) {
			c, connections := dedicated(t, cp.Admin())
			connections.fails, connections.cut = row.fails, row.cut
			r := newRecorder()
			r.block, r.blocked = row.block, make(chan struct{})
			stop := follow(t, c, w.resource, sources.Start{Position: from}, versioned{r})
			if row.block > 0 {
				r.wait(t, func(told []string, _ error) bool { return len(told) == row.block })
				w.watchers(t, 0)
				close(r.blocked)
			}
			r.waitTold(t, want...)
			if row.quiet {
				eventually(t, func() error {
					if _, open, _ := connections.count(); open > 0 {
						return fmt.Errorf("%d of its connections are open", open)
					}
					return nil
				})
			}
			w.watchers(t, 1)
			last := w.touch(t, w.objects, "o0")
			r.waitTold(t, append(slices.Clone(want), "changed default/o0@"+last.GetResourceVersion())...)
			stop()
			made, open, protos := connections.count()
			if open > 0 {
				t.Errorf("%d of its connections are left open", open)
			}
			if made < row.made || made > row.most {
				t.Errorf("%d connections were made, want %d to %d", made, row.made, row.most)
			}
			if slices.ContainsFunc(protos, func(proto string) bool { return proto != "HTTP/1.1" }) {
				t.Errorf("they speak %v", protos)
			}
			want = append(want, "changed default/o0@"+last.GetResourceVersion())
		})
	}

	t.Run("following ends meanwhile", func(t *testing.T) {
		for _, told := range []int{1000, 1024, 1025, 1500, 3999} {
			c, connections := dedicated(t, cp.Admin())
			r := newRecorder()
			stop := follow(t, c, w.resource, sources.Start{Position: from}, versioned{r})
			r.wait(t, func(all []string, _ error) bool { return len(all) >= told })
			stop()
			if _, open, _ := connections.count(); open > 0 {
				t.Errorf("after %d changes %d connections are left open", told, open)
			}
			if !slices.Equal(r.told, want[:len(r.told)]) {
				t.Errorf("after %d changes others were told", told)
			}
		}
	})
}
