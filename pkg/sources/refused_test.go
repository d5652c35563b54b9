package sources

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/crbridge/crbridge/pkg/object"
)

// TestLastWaiterLeaves: one that has taken everything leaves in the moment in which
// the patience with a slow one runs out; a feed that nobody reads is stopped.
func TestLastWaiterLeaves(t *testing.T) {
	for try := range 200 {
		bad := false
		synctest.Test(t, func(t *testing.T) {
			g := &group{}
			g.mu.Lock()
			f := newFeed(g)
			stopped := false
			ctx, cancel := context.WithCancel(t.Context())
			f.stop = func() { stopped = true; cancel() }
			a, b := newReader(Start{Position: "1"}, newFollower()), newReader(Start{Position: "1"}, newFollower())
			g.feeds = append(g.feeds, f)
			f.works, f.base, f.head = true, 1, 1
			f.attach(a)
			f.attach(b)
			g.mu.Unlock()
			big := make([]byte, 40<<10)
			f.Changed(ctx, &object.Object{ResourceVersion: "2", JSON: big})
			g.mu.Lock()
			f.took(a)
			a.position = 2
			g.mu.Unlock()
			done := make(chan struct{})
			go func() { time.Sleep(slowPatience); g.mu.Lock(); a.leave(); g.mu.Unlock() }()
			go func() { defer close(done); f.Changed(ctx, &object.Object{ResourceVersion: "3", JSON: big}) }()
			time.Sleep(2 * slowPatience)
			g.mu.Lock()
			if b.feed == nil && f.over && !stopped {
				bad = true
			}
			g.mu.Unlock()
			cancel()
			<-done
		})
		if bad {
			t.Fatalf("try %d: the feed has no reader, is over, and was never stopped", try)
		}
	}
}

// TestSurveyIsRefused: the watch after a survey begins where it was to begin, also
// where the list was refused so that the reflector asks for the newest.
func TestSurveyIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := apierrors.NewTimeoutError("Too large resource version", 1)
		refused.ErrStatus.Code = http.StatusGatewayTimeout
		refused.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge}}
		lists, began := 0, []string{}
		lw := &toolscache.ListWatch{
			ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				if lists++; lists == 1 {
					return nil, refused
				}
				list := &unstructured.UnstructuredList{}
				list.SetResourceVersion("200")
				return list, nil
			},
			WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
				began = append(began, o.ResourceVersion)
				return watch.NewFake(), nil
			},
		}
		follower := newFollower()
		follower.surveys = 1
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		NewInformer(lw, Start{Position: "6", Survey: true}, nil, follower).RunWithContext(ctx)
		if lists != 2 || len(began) == 0 || began[0] != "6" {
			t.Errorf("after %d lists watches begin at %q, the first not at 6", lists, began)
		}
	})
}
