package flow

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/sources"
)

// others begins the drain of what is left of the CRD before the target's.
func (h *harness) others(ctx context.Context, next Successor, c *cluster) *Run {
	drain := h.flow.newDrainOthers(ctx, h.target, next)
	if c != nil {
		drain.presence = c
	}
	go drain.run(false)
	return drain
}

// told are the events since the first n, in the order of their names.
func (p *place) told(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(slices.Values(p.stored[n:]))
}

func these(objects ...*unstructured.Unstructured) []*unstructured.Unstructured { return objects }

var errUnable = apierrors.NewInternalError(errors.New("error resolving resource"))

var listed = Successor{Reason: "because", Resource: sources.Resource{Plural: "widgets"}}

// TestDrainOthers shows that the objects of a CRD that was replaced by one which
// cannot be followed get their end, at a version that nothing that is told of the
// next one's objects can be below.
func TestDrainOthers(t *testing.T) {
	nameless := thing("z", "2", 15)
	nameless.SetUID("not a UUID")
	for _, test := range []struct {
		why     string
		crd     types.UID
		next    Successor
		cluster *cluster
		change  func(*RuleOptions) // of the route, since
		end     []string
	}{
		{
			"it has no objects yet: they were gone by then", "crd-2",
			Successor{Empty: 20}, nil, nil,
			[]string{"deleted ns/a@20 inferred", "deleted ns/b@20 inferred"},
		},
		{
			"it has a namesake, which is older than the answer that tells of it", "crd-2",
			listed, &cluster{objects: these(thing("a", "2", 15), thing("c", "", 3)), asOf: 30}, nil,
			[]string{"deleted ns/a@14 inferred", "deleted ns/b@30 inferred"},
		},
		{
			"nobody can say what it has: right behind what was told", "crd-2",
			Successor{}, &cluster{asOf: 30}, nil,
			[]string{"deleted ns/a@8 inferred", "deleted ns/b@8 inferred"},
		},
		{
			"it has the object itself, which was heard of before it was", "crd-2",
			listed, &cluster{objects: these(thing("a", "", 5)), asOf: 30}, nil,
			[]string{"deleted ns/b@30 inferred"},
		},
		{
			"the route no longer selects objects there, and may not look", "crd-2",
			listed, &cluster{forbidden: "ns", asOf: 30}, func(o *RuleOptions) { o.Namespaces = []string{"other"} },
			[]string{"deleted ns/a@8 inferred", "deleted ns/b@8 inferred"},
		},
		{
			"the route selects objects of one more namespace, and may not look there", "crd-2",
			listed, &cluster{forbidden: "more", asOf: 30}, func(o *RuleOptions) { o.Namespaces = []string{"more", "ns"} },
			[]string{"deleted ns/a@30 inferred", "deleted ns/b@30 inferred"},
		},
		{
			"the API server answers the second time", "crd-2",
			listed, &cluster{fails: 1, failure: errUnable, asOf: 30}, nil,
			[]string{"deleted ns/a@30 inferred", "deleted ns/b@30 inferred"},
		},
		{
			"the API server says for long that it cannot answer", "crd-2",
			listed, &cluster{fails: math.MaxInt, failure: errUnable}, nil,
			[]string{"deleted ns/a@8 inferred", "deleted ns/b@8 inferred"},
		},
		{
			"an object that cannot be understood is left out", "crd-2",
			listed, &cluster{objects: these(nameless), asOf: 30}, nil,
			[]string{"deleted ns/a@30 inferred", "deleted ns/b@30 inferred"},
		},
		{"the same one", "crd-1", Successor{Empty: 20}, nil, nil, nil},
	} {
		t.Run(test.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				p := newPlace()
				h := p.process(t, nil)
				r := h.start(ctx)
				list(ctx, r, 10, thing("a", "", 5), thing("b", "", 7))
				end(r, time.Minute)
				began := 2

				h.target.CRD = test.crd
				if test.change != nil {
					h.target.Rules = rulesFor(t, test.change)
				}
				if got := h.flow.HoldsOthers(test.crd); got != (test.end != nil) {
					t.Errorf("HoldsOthers is %t", got)
				}
				<-h.others(ctx, test.next, test.cluster).Done()
				if diff := cmp.Diff(test.end, p.told(began), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				if h.flow.HoldsOthers(test.crd) {
					t.Error("there is something left")
				}
				if next, is := h.flow.HoldsOthers("crd-3"), h.flow.ledger.objects() > 0; next != is {
					t.Errorf("HoldsOthers of the one after is %t, and it is %t that there are objects", next, is)
				}
			})
		})
	}
}

// TestAfterDrainOthers shows that the next CRD's objects are told of when it can be
// followed, whatever of the drain came before.
func TestAfterDrainOthers(t *testing.T) {
	ofCluster := func(o *unstructured.Unstructured) *unstructured.Unstructured {
		o.SetNamespace("")
		return o
	}
	for _, test := range []struct {
		why     string
		known   *unstructured.Unstructured
		next    Successor
		cluster *cluster
		change  func(*RuleOptions) // of the route while it is drained
		then    *unstructured.Unstructured
		want    []string
	}{
		{
			"a namesake that came later", thing("a", "", 5),
			Successor{Empty: 20}, nil, nil,
			thing("a", "2", 25), []string{"created ns/a@25", "created ns/a@5", "deleted ns/a@20 inferred", "updated ns/a@45"},
		},
		{
			"a namesake that was there", thing("a", "", 5),
			listed, &cluster{objects: these(thing("a", "2", 15)), asOf: 30}, nil,
			thing("a", "2", 15), []string{"created ns/a@15", "created ns/a@5", "deleted ns/a@14 inferred", "updated ns/a@45"},
		},
		{
			"a namesake that outlived its CRD: of a later sequence than the deletion", thing("a", "", 5),
			Successor{Empty: 20}, nil, nil,
			thing("a", "2", 15), []string{"created ns/a@15 s40", "created ns/a@5", "deleted ns/a@20 inferred", "updated ns/a@45"},
		},
		{
			"the object itself", thing("a", "2", 5),
			listed, &cluster{objects: these(thing("a", "2", 5)), asOf: 30}, nil,
			thing("a", "2", 5), []string{"created ns/a@5", "updated ns/a@45"},
		},
		{
			"a namesake of the cluster, while the route selects namespaces", ofCluster(thing("a", "", 5)),
			Successor{Empty: 20}, nil, func(o *RuleOptions) { o.Namespaces = []string{"x"} },
			ofCluster(thing("a", "2", 15)), []string{"created a@15", "created a@5", "deleted a@6 inferred", "updated a@45"},
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			ctx := t.Context()
			p := newPlace()
			h := p.process(t, nil)
			h.target.Resource.Namespaced = test.known.GetNamespace() != ""
			r := h.start(ctx)
			list(ctx, r, 10, test.known)
			end(r, time.Minute)

			rules := h.target.Rules
			h.target.CRD = "crd-2"
			if test.change != nil {
				h.target.Rules = rulesFor(t, test.change)
			}
			<-h.others(ctx, test.next, test.cluster).Done()

			h.target.Rules = rules
			r = h.start(ctx)
			list(ctx, r, 40, test.then)
			changed := test.then.DeepCopy()
			changed.SetResourceVersion("45")
			r.Changed(ctx, changed)
			end(r, time.Minute)
			if diff := cmp.Diff(test.want, p.told(0)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDrainOthersWaits shows that a drain which waits for the API server's answer
// says so, tells nothing, and ends when it is told to, or when the CRD goes as
// well.
func TestDrainOthersWaits(t *testing.T) {
	for _, test := range []struct {
		why   string
		fresh bool // the process is a new one
		end   func(*Run)
		is    []string
	}{
		{"stopped", false, func(r *Run) { r.Stop(time.Minute) }, nil},
		{"stopped, in a new process", true, func(r *Run) { r.Stop(time.Minute) }, nil},
		{"the CRD goes", false, func(r *Run) { r.Drain(40) }, []string{"deleted ns/a@40 inferred"}},
	} {
		t.Run(test.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				p := newPlace()
				h := p.process(t, nil)
				r := h.start(ctx)
				list(ctx, r, 10, thing("a", "", 5))
				end(r, time.Minute)
				if test.fresh {
					h = p.process(t, nil)
				}
				h.target.CRD = "crd-2"
				drain := h.others(ctx, listed, &cluster{fails: math.MaxInt, failure: apierrors.NewServiceUnavailable("it starts")})
				time.Sleep(time.Hour)
				synctest.Wait()
				s := h.flow.Status()
				if want := "the CRD was replaced by another, which cannot be followed: because; listing"; s.State != Draining || !strings.HasPrefix(s.Reason, want) {
					t.Errorf("the state is %s, %q, not %s, %q", s.State, s.Reason, Draining, want)
				}
				test.end(drain)
				<-drain.Done()
				if diff := cmp.Diff(test.is, p.told(1), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		})
	}
}
