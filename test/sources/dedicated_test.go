//go:build unix

package sources_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/crbridge/crbridge/pkg/sources"
	"github.com/crbridge/crbridge/test/proxy"
)

// misfortune is what becomes of connections.
type misfortune struct {
	fails error // none can be made
	says  int   // the status of each answer; 0: the API server's
	cut   int   // after so many bytes; 0: never
	dies  int   // nothing comes any more after so many; 0: it goes on
}

// connections are those of watches that have their own.
type connections struct {
	misfortune
	inner http.RoundTripper
	line  *proxy.Proxy // to the API server

	mu     sync.Mutex
	made   int
	open   int
	protos []string
}

func (c *connections) RoundTrip(request *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.made++
	c.mu.Unlock()
	if c.fails != nil {
		return nil, c.fails
	}
	response, err := c.inner.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if c.says != 0 {
		response.StatusCode = c.says
		return response, response.Body.Close() // who is in between has nothing more to say
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	c.protos = append(c.protos, response.Proto)
	response.Body = &connectionBody{ReadCloser: response.Body, of: c}
	return response, nil
}

func (c *connections) count() (made, open int, protos []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made, c.open, slices.Clone(c.protos)
}

type connectionBody struct {
	io.ReadCloser
	of   *connections
	read int
	once sync.Once
}

func (b *connectionBody) Read(p []byte) (int, error) {
	if b.of.cut > 0 {
		if p = p[:min(len(p), b.of.cut-b.read)]; len(p) == 0 {
			return 0, io.ErrUnexpectedEOF // as where the connection broke
		}
	}
	if b.of.dies > 0 && b.read >= b.of.dies {
		if err := b.of.line.Set(proxy.Stall); err != nil {
			return 0, err
		}
	}
	n, err := b.ReadCloser.Read(p)
	b.read += n
	return n, err
}

func (b *connectionBody) Close() error {
	b.once.Do(func() {
		b.of.mu.Lock()
		defer b.of.mu.Unlock()
		b.of.open--
	})
	return b.ReadCloser.Close()
}

// atOnce is a transport whose first watch is not read before it has brought so
// much: however slow the machine is, that comes at once then. Of nothing it waits
// for nothing.
type atOnce struct {
	inner http.RoundTripper
	bytes int
	once  sync.Once
}

func (a *atOnce) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := a.inner.RoundTrip(request)
	if err != nil || request.URL.Query().Get("watch") == "" {
		return response, err
	}
	a.once.Do(func() {
		first := make([]byte, a.bytes)
		if _, err = io.ReadFull(response.Body, first); err != nil {
			return
		}
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(first), response.Body), response.Body}
	})
	return response, err
}

// dedicated is a cluster whose watches can have connections of their own, and
// that brings so many bytes of the first at once.
func dedicated(t *testing.T, config *rest.Config, bytes int) (sources.Cluster, *connections) {
	t.Helper()
	c := cluster(t, config)
	c.Requests = sources.NewRequests()
	own, line := over(t, config)
	counted := &connections{line: line}
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
		counted.inner = &atOnce{inner: inner, bytes: bytes}
		return counted
	})
	var err error
	if c.Dedicated, err = rest.HTTPClientFor(own); err != nil {
		t.Fatal(err)
	}
	return c, counted
}

// over is the configuration for connections over a line of their own.
func over(t *testing.T, config *rest.Config) (*rest.Config, *proxy.Proxy) {
	t.Helper()
	line, err := proxy.Start(t.Context(), strings.TrimPrefix(config.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := line.Close(); err != nil {
			t.Error(err)
		}
	})
	own := rest.CopyConfig(config)
	own.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, line.Addr())
	}
	return own, line
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

// TestBusyWatch shows that a watch that may have much to catch up with gets a
// connection of its own, and later goes back, and that whatever happens to that
// connection each change is told, once, and in order, and no trouble is.
func TestBusyWatch(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a watch to be quiet")
	}
	const (
		changes = 4000
		each    = 2000 // bytes of an event, at least
		busy    = 1024 // events that are much
	)
	cp := shared.Get(t)
	w := newWorld(t, cp, "busy.example.com")
	from, want := w.backlog(t, changes)

	for _, row := range []struct {
		why   string
		what  misfortune
		stall bool // nothing gets through from the beginning on
		block int  // after so many changes, until the watch is closed
		quiet bool // it is waited for that the watch goes back
		most  int  // connections
	}{
		{"nothing happens to it", misfortune{}, false, 0, true, 1},
		{"it is refused", misfortune{fails: errors.New("no HTTP/1.1 here")}, false, 0, false, 1},
		{"who is asked hangs up", misfortune{fails: io.EOF}, false, 0, false, 1},
		{"it times out", misfortune{fails: os.ErrDeadlineExceeded}, false, 0, false, 1},
		{"who is between refuses it", misfortune{says: http.StatusHTTPVersionNotSupported}, false, 0, false, 1},
		{"nobody answers", misfortune{}, true, 0, false, 1},
		{"it breaks at once", misfortune{cut: 1}, false, 0, false, 1},
		{"it breaks before it was worth it", misfortune{cut: 100 * each}, false, 0, false, 1},
		{"it breaks again and again", misfortune{cut: (busy + 200) * each * 5 / 4}, false, 0, false, changes/busy + 1},
		{"it dies", misfortune{dies: 100 * each}, false, 0, false, 1},
		{"its reader is blocked, and lets it go", misfortune{}, false, 2000, false, 2},
	} {
		t.Run(row.why, func(t *testing.T) {
			c, connections := dedicated(t, cp.Admin(), 2*busy*each)
			connections.misfortune = row.what
			if row.stall {
				if err := connections.line.Set(proxy.Stall); err != nil {
					t.Fatal(err)
				}
			}
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
			last := w.touch(t, w.objects, "o0")
			want = append(want, "changed default/o0@"+last.GetResourceVersion())
			r.waitTold(t, want...)
			stop()
			if row.quiet {
				want := `# HELP bridge_watches_total Watches of objects that the API server granted, by their connection: shared with others, or their own.
# TYPE bridge_watches_total counter
bridge_watches_total{connection="own"} 1
bridge_watches_total{connection="shared"} 1
`
				if err := testutil.CollectAndCompare(c.Requests, strings.NewReader(want)); err != nil {
					t.Error(err)
				}
			}
			made, open, protos := connections.count()
			if open > 0 {
				t.Errorf("%d of its connections are left open", open)
			}
			if made < 1 || made > row.most {
				t.Errorf("%d connections were made, want 1 to %d", made, row.most)
			}
			if slices.ContainsFunc(protos, func(proto string) bool { return proto != "HTTP/1.1" }) {
				t.Errorf("they speak %v", protos)
			}
			if r.troubles > 0 && row.what.says == 0 {
				t.Errorf("trouble was told %d times", r.troubles)
			}
		})
	}

	t.Run("following ends meanwhile", func(t *testing.T) {
		for _, told := range []int{busy - 1, busy, busy + 1, 1500, changes - 1} {
			c, connections := dedicated(t, cp.Admin(), 2*busy*each)
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

// TestBacklogAfterOutage shows that an API server which cannot be reached does not
// have the bridge think that it has no connections for watches of their own: when
// it is back there may be much to catch up with.
func TestBacklogAfterOutage(t *testing.T) {
	cp := shared.Get(t)
	w := newWorld(t, cp, "outage.example.com")
	for _, row := range []struct {
		why   string
		down  func(*proxy.Proxy) error
		tries int // until it has been given up once
	}{
		{"nobody listens", func(line *proxy.Proxy) error { return line.Set(proxy.Refuse) }, 2},
		{"who listens hangs up", func(line *proxy.Proxy) error {
			line.SetTarget("127.0.0.1:1") // which nobody may use
			return errors.Join(line.Set(proxy.Refuse), line.Set(proxy.Pass))
		}, 12}, // client-go tries eleven times, and takes that for a watch that has ended
	} {
		t.Run(row.why, func(t *testing.T) {
			o := w.create(t, "o")
			c, connections := dedicated(t, cp.Admin(), 0)
			config, line := over(t, cp.Admin())
			all := cluster(t, config)
			all.Dedicated = c.Dedicated
			r := newRecorder()
			stop := follow(t, all, w.resource, sources.Start{Position: o.GetResourceVersion()}, versioned{r})
			shares := func(granted int) {
				t.Helper()
				eventually(t, func() error {
					if _, open, protos := connections.count(); open > 0 || len(protos) != granted {
						return fmt.Errorf("%d connections granted a watch, want %d; %d are open", len(protos), granted, open)
					}
					return nil
				})
				w.watchers(t, 1)
			}
			shares(1)
			if err := errors.Join(row.down(connections.line), row.down(line)); err != nil {
				t.Fatal(err)
			}
			w.remove(t, "o")
			before, _, _ := connections.count()
			eventually(t, func() error {
				if made, _, _ := connections.count(); made < before+row.tries {
					return fmt.Errorf("%d connections were tried, want %d", made-before, row.tries)
				}
				return nil
			})
			// Were both there again at once, one that was tried over its own just before
			// that would get the shared one, and rightly so.
			for n, line := range []*proxy.Proxy{connections.line, line} {
				line.SetTarget(strings.TrimPrefix(cp.Admin().Host, "https://"))
				if err := line.Set(proxy.Pass); err != nil {
					t.Fatal(err)
				}
				eventually(t, func() error {
					if _, _, protos := connections.count(); len(protos) != 2 {
						return fmt.Errorf("%d lines are there again, and %d connections granted a watch, want 2", n+1, len(protos))
					}
					return nil
				})
			}
			shares(2)
			r.wait(t, func(told []string, _ error) bool { return len(told) == 1 })
			stop()
		})
	}
}
