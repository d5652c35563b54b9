package flow

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// toldOf is a place with a flow that has told of the objects of a list at 10, and
// does not run.
func toldOf(t *testing.T, objects ...*unstructured.Unstructured) (*place, *harness) {
	t.Helper()
	p := newPlace()
	h := p.process(t, nil)
	r := h.start(t.Context())
	list(t.Context(), r, 10, objects...)
	end(r, time.Minute)
	return p, h
}

// told are the events since the first n, in the order of their names.
func (p *place) told(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(slices.Values(p.stored[n:]))
}

func these(objects ...*unstructured.Unstructured) []*unstructured.Unstructured { return objects }

var errAPIAway = apierrors.NewServiceUnavailable("it starts")

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
			"it has no objects yet, wherever the route selects them", "crd-2",
			Successor{Empty: 20}, nil, func(o *RuleOptions) { o.Namespaces = []string{"other"} },
			[]string{"deleted ns/a@20 inferred", "deleted ns/b@20 inferred"},
		},
		{
			"it has a namesake, which is older than the answer that tells of it", "crd-2",
			listed, &cluster{objects: these(thing("a", "2", 15), thing("c", "", 3)), asOf: 30}, nil,
			[]string{"deleted ns/a@14 inferred", "deleted ns/b@30 inferred"},
		},
		{
			"nobody can say what it has: right behind where the flow was", "crd-2",
			Successor{}, &cluster{asOf: 30}, nil,
			[]string{"deleted ns/a@11 inferred", "deleted ns/b@11 inferred"},
		},
		{
			"it has the object itself, which was heard of before it was", "crd-2",
			listed, &cluster{objects: these(thing("a", "", 5)), asOf: 30}, nil,
			[]string{"deleted ns/b@30 inferred"},
		},
		{
			"the route no longer selects objects there, and may not look", "crd-2",
			listed, &cluster{forbidden: "ns", asOf: 30}, func(o *RuleOptions) { o.Namespaces = []string{"other"} },
			[]string{"deleted ns/a@11 inferred", "deleted ns/b@11 inferred"},
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
			[]string{"deleted ns/a@11 inferred", "deleted ns/b@11 inferred"},
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
				p, h := toldOf(t, thing("a", "", 5), thing("b", "", 7))
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
			ofCluster(thing("a", "2", 15)), []string{"created a@15", "created a@5", "deleted a@11 inferred", "updated a@45"},
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

// TestSequenceGrowsInDrains shows that a deletion whose version nobody can know is
// later than all that was told, also where that was told later than its object's
// version.
func TestSequenceGrowsInDrains(t *testing.T) {
	for _, test := range []struct {
		why    string
		before func(ctx context.Context, h *harness) // tells of a, with the version of a list at 40
	}{
		{"an object that outlived its CRD", func(ctx context.Context, h *harness) {
			r := h.start(ctx)
			list(ctx, r, 10, thing("a", "", 5))
			end(r, time.Minute)
			h.target.CRD = "crd-2"
			<-h.others(ctx, Successor{Empty: 20}, nil).Done()
			r = h.start(ctx)
			list(ctx, r, 40, thing("a", "2", 15))
			end(r, time.Minute)
		}},
		{"one that a changed route selects", func(ctx context.Context, h *harness) {
			h.target.Rules = rulesFor(h.t, func(o *RuleOptions) { o.Namespaces = []string{"x"} })
			r := h.start(ctx)
			list(ctx, r, 10)
			end(r, time.Minute)
			h.target.Rules = Everything()
			r = h.start(ctx)
			list(ctx, r, 40, thing("a", "", 5))
			end(r, time.Minute)
		}},
	} {
		for _, fresh := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, in a new process: %t", test.why, fresh), func(t *testing.T) {
				ctx := t.Context()
				p := newPlace()
				h := p.process(t, nil)
				test.before(ctx, h)
				if fresh {
					h = p.process(t, nil)
				}
				h.target.CRD = "crd-3"
				<-h.others(ctx, Successor{}, nil).Done()
				p.mu.Lock()
				last := p.stored[len(p.stored)-1]
				p.mu.Unlock()
				if want := "deleted ns/a@41 inferred"; last != want {
					t.Errorf("the last event is %s, not %s", last, want)
				}
			})
		}
	}
}

// partly is an API server that can list only some namespaces.
type partly struct {
	*cluster
	unable string
}

func (p partly) All(ctx context.Context, r sources.Resource, namespace string, object func(*metav1.PartialObjectMetadata)) (uint64, error) {
	if namespace == p.unable {
		return 0, errUnable
	}
	return p.cluster.All(ctx, r, namespace, object)
}

// TestDrainOthersKnowsInPart shows that what the API server says of one namespace
// counts, also where it can say nothing of another.
func TestDrainOthersKnowsInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := newPlace()
		h := p.process(t, nil)
		h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"x", "y"} })
		r := h.start(ctx)
		listOf(ctx, r.watchers[0], 10, in("x", thing("a", "", 5)), in("x", thing("n", "", 6)))
		listOf(ctx, r.watchers[1], 10, in("y", thing("b", "", 7)))
		end(r, time.Minute)
		h.target.CRD = "crd-2"
		drain := h.flow.newDrainOthers(ctx, h.target, listed)
		drain.presence = partly{&cluster{objects: these(in("x", thing("a", "", 5)), in("x", thing("n", "2", 25))), asOf: 30}, "y"}
		drain.run(false)
		if diff := cmp.Diff([]string{"deleted x/n@24 inferred", "deleted y/b@11 inferred"}, p.told(3)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// TestNothingOutlivesAnEarlierEtcd shows that an object which is older than the end
// that was told of its namesake is not told of where the list is older as well:
// etcd was put back.
func TestNothingOutlivesAnEarlierEtcd(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	h := p.process(t, nil)
	r := h.start(ctx)
	list(ctx, r, 10, thing("a", "", 5))
	p.wait(t, "created ns/a@5")
	p.set(func(int) (int, int, error) { return 0, 0, errAway })
	r.Deleted(ctx, thing("a", "", 12))
	r.Changed(ctx, thing("a", "2", 13))
	r.Deleted(ctx, thing("a", "2", 14))
	list(ctx, r, 11, thing("a", "", 5))
	p.set(nil)
	end(r, time.Minute)
	p.wait(t, "created ns/a@5", "deleted ns/a@12", "created ns/a@13", "deleted ns/a@14")
	if s := p.recorded(); s.Rewound != 14 {
		t.Errorf("recorded is %+v", s)
	}
}

// TestCRDGoesAsTheOthersAreDrained is a test for the race detector: the CRD goes at
// each moment of the drain.
func TestCRDGoesAsTheOthersAreDrained(t *testing.T) {
	for moment := range 200 {
		ctx := t.Context()
		_, h := toldOf(t, thing("a", "", 5))
		h.target.CRD = "crd-2"
		drain := h.others(ctx, listed, &cluster{asOf: 30})
		time.Sleep(time.Duration(moment) * time.Microsecond)
		drain.Drain(40)
		<-drain.Done()
		if h.flow.HoldsOthers("crd-2") {
			t.Fatal("there is something left")
		}
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
		fails error
	}{
		{"stopped", false, func(r *Run) { r.Stop(time.Minute) }, nil, errAPIAway},
		{"stopped, in a new process", true, func(r *Run) { r.Stop(time.Minute) }, nil, errAPIAway},
		{"stopped, while etcd is away", false, func(r *Run) { r.Stop(time.Minute) }, nil, apierrors.NewInternalError(errors.New("etcdserver: request timed out"))},
		{"the CRD goes", false, func(r *Run) { r.Drain(40) }, []string{"deleted ns/a@40 inferred"}, errAPIAway},
	} {
		t.Run(test.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				p, h := toldOf(t, thing("a", "", 5))
				if test.fresh {
					h = p.process(t, nil)
				}
				h.target.CRD = "crd-2"
				drain := h.others(ctx, listed, &cluster{fails: math.MaxInt, failure: test.fails})
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
