package flow

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sources"
)

// cluster is what the API server says when it is asked what exists.
type cluster struct {
	objects   []*unstructured.Unstructured
	asOf      uint64
	forbidden string // a namespace
	fails     int    // so many lists fail at first,
	failure   error  // with this
	asked     int
}

func (c *cluster) Of(_ context.Context, _ sources.Resource, namespace, name string) (uid types.UID, asOf uint64, err error) {
	c.asked++
	if namespace == c.forbidden {
		return "", 0, apierrors.NewForbidden(schema.GroupResource{}, "", nil)
	}
	for _, o := range c.objects {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o.GetUID(), c.asOf, nil
		}
	}
	return "", c.asOf, nil
}

func (c *cluster) All(_ context.Context, _ sources.Resource, namespace string, object func(*metav1.PartialObjectMetadata)) (uint64, error) {
	c.asked++
	if namespace == c.forbidden && namespace != "" {
		return 0, apierrors.NewForbidden(schema.GroupResource{}, "", nil)
	}
	if c.asked <= c.fails {
		return 0, c.failure
	}
	for _, o := range c.objects {
		if namespace == "" || o.GetNamespace() == namespace {
			object(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion()}})
		}
	}
	return c.asOf, nil
}

func rulesFor(t *testing.T, change func(*RuleOptions)) *Rules {
	t.Helper()
	o := RuleOptions{Events: events.Types()}
	change(&o)
	rules, err := NewRules(o)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func labelled(t *testing.T) *Rules {
	t.Helper()
	return rulesFor(t, func(o *RuleOptions) { o.LabelSelector = "on=yes" })
}

// in puts an object into another namespace.
func in(namespace string, o *unstructured.Unstructured) *unstructured.Unstructured {
	o.SetNamespace(namespace)
	return o
}

// TestLeavingASelector shows what is made of a watch that says that an object
// is gone, given what the API server says when it is asked.
func TestLeavingASelector(t *testing.T) {
	ctx := t.Context()
	for _, row := range []struct {
		why    string
		exists []*unstructured.Unstructured
		asOf   uint64
		tell   func(*Run)
		want   []string
	}{
		{"it is gone", nil, 20, func(r *Run) {
			r.Deleted(ctx, thing("a", "", 15))
		}, []string{"deleted ns/a@15"}},
		{"it exists: it left the selector", []*unstructured.Unstructured{thing("a", "", 15)}, 20, func(r *Run) {
			r.Deleted(ctx, thing("a", "", 15))
		}, []string{"deselected ns/a@15"}},
		{"it exists, and comes back", []*unstructured.Unstructured{thing("a", "", 17)}, 20, func(r *Run) {
			r.Deleted(ctx, thing("a", "", 15))
			r.Changed(ctx, thing("a", "", 17))
			r.Changed(ctx, thing("a", "", 18))
		}, []string{"deselected ns/a@15", "created ns/a@17", "updated ns/a@18"}},
		{"another has its name: it is gone", []*unstructured.Unstructured{thing("a", "2", 17)}, 20, func(r *Run) {
			r.Deleted(ctx, thing("a", "", 15))
			r.Changed(ctx, thing("a", "2", 17))
		}, []string{"deleted ns/a@15", "created ns/a@17"}},
		{"it left, came back and died before it was asked for: an object dies once", nil, 20, func(r *Run) {
			r.Deleted(ctx, thing("a", "", 15))
			r.Changed(ctx, thing("a", "", 16))
			r.Deleted(ctx, thing("a", "", 17))
			r.Progressed(ctx, "30")
		}, []string{"deleted ns/a@15"}},
		{"the same, and a namesake lives on", []*unstructured.Unstructured{thing("a", "2", 19)}, 20, func(r *Run) {
			r.Deleted(ctx, thing("a", "", 15))
			r.Changed(ctx, thing("a", "", 16))
			r.Deleted(ctx, thing("a", "", 17))
			r.Changed(ctx, thing("a", "2", 19))
		}, []string{"deleted ns/a@15", "created ns/a@19"}},
		{"it was never told of", nil, 20, func(r *Run) {
			r.Deleted(ctx, thing("c", "", 15))
		}, nil},
		{"a list does not have it, and it is gone", nil, 20, func(r *Run) {
			list(ctx, r, 18, thing("b", "", 6))
		}, []string{"deleted ns/a@18 inferred"}},
		{"a list does not have it, and it exists", []*unstructured.Unstructured{thing("a", "", 15)}, 20, func(r *Run) {
			list(ctx, r, 18, thing("b", "", 6))
			r.Changed(ctx, thing("a", "", 19))
		}, []string{"deselected ns/a@18", "created ns/a@19"}},
		{"a list does not have it, it came back after the list and died before it was asked for", nil, 25, func(r *Run) {
			list(ctx, r, 18, thing("b", "", 6))
			r.Changed(ctx, thing("a", "", 20))
			r.Deleted(ctx, thing("a", "", 21))
			r.Progressed(ctx, "30")
		}, []string{"deleted ns/a@18 inferred"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			h := newHarness(t)
			h.target.Rules = labelled(t)
			r := h.start(ctx)
			r.presence = &cluster{objects: row.exists, asOf: row.asOf}
			list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6))
			row.tell(r)
			r.Stop(time.Minute)
			<-r.Done()
			h.out.wait(t, append([]string{"created ns/a@5", "created ns/b@6"}, row.want...)...)
		})
	}
}

// TestEndIsRemembered shows that the end of an object that was asked for
// outlives the process until the watch is past the answer: what the watch tells
// again of the object is not told.
func TestEndIsRemembered(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	process := func() (*harness, *Run) {
		h := p.process(t, nil)
		h.target.Rules = labelled(t)
		r := h.start(ctx)
		r.presence = &cluster{asOf: 40}
		return h, r
	}
	_, r := process()
	list(ctx, r, 10, thing("a", "", 5))
	eventually(t, func() bool { return p.recorded().Phase == journal.Following })
	r.Deleted(ctx, thing("a", "", 15))
	r.Progressed(ctx, "20")
	end(r, time.Minute)
	if s := p.recorded(); s.Position != 14 {
		t.Fatalf("recorded is position %d, which forgets the end at 15", s.Position)
	}
	h, r := process() // after a crash
	if h.from.Position != "14" {
		t.Fatalf("the watch begins at %s", h.from.Position)
	}
	r.Deleted(ctx, thing("a", "", 15))
	r.Changed(ctx, thing("a", "", 16))
	r.Deleted(ctx, thing("a", "", 17))
	r.Changed(ctx, thing("b", "", 41))
	end(r, time.Minute)
	p.wait(t, "created ns/a@5", "deleted ns/a@15", "created ns/b@41")
	if s := p.recorded(); s.Position != 41 {
		t.Errorf("recorded is position %d when the watch is past the answer", s.Position)
	}
}

// TestEndByListIsRemembered is TestEndIsRemembered where a list showed the end:
// the watch then says of the object that it is there, before it says that it is
// gone.
func TestEndByListIsRemembered(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	process := func() (*harness, *Run) {
		h := p.process(t, nil)
		h.target.Rules = labelled(t)
		r := h.start(ctx)
		r.presence = &cluster{asOf: 40}
		return h, r
	}
	_, r := process()
	list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6))
	list(ctx, r, 20, thing("b", "", 6))
	eventually(t, func() bool { return p.recorded().Position == 19 })
	end(r, time.Minute)
	_, r = process() // after a crash
	r.Changed(ctx, thing("a", "", 21))
	r.Changed(ctx, thing("a", "", 22))
	r.Deleted(ctx, thing("a", "", 23))
	r.Changed(ctx, thing("a", "2", 24))
	r.Progressed(ctx, "41")
	end(r, time.Minute)
	p.wait(t, "created ns/a@5", "created ns/b@6", "deleted ns/a@20 inferred", "created ns/a@24")
}

// TestReselection shows what is told when the route selects other objects than
// before: what is new to it exists, what it has left is deselected or deleted,
// once the watch has told what it can.
func TestReselection(t *testing.T) {
	ctx := t.Context()
	everything := Everything()
	for _, row := range []struct {
		why    string
		before *Rules
		after  *Rules
		exists []*unstructured.Unstructured
		tell   func(*Run)
		want   []string
		done   bool
	}{
		{"an object is not selected any more", everything, labelled(t), []*unstructured.Unstructured{thing("a", "", 5)}, func(r *Run) {
			list(ctx, r, 20, thing("b", "", 6))
			r.Progressed(ctx, "20")
		}, []string{"deselected ns/a@20"}, true},
		{"an object is gone, which the watch tells", everything, labelled(t), nil, func(r *Run) {
			list(ctx, r, 20, thing("b", "", 6))
			r.Deleted(ctx, thing("a", "", 15))
			r.Progressed(ctx, "20")
		}, []string{"deleted ns/a@15"}, true},
		{"an object is gone, of which the watch knows nothing", everything, labelled(t), nil, func(r *Run) {
			list(ctx, r, 20, thing("b", "", 6))
			r.Progressed(ctx, "21")
		}, []string{"deleted ns/a@20 inferred"}, true},
		{"the watch has not come as far: nothing is deduced", everything, labelled(t), nil, func(r *Run) {
			list(ctx, r, 20, thing("b", "", 6))
			r.Changed(ctx, thing("b", "", 19))
		}, []string{"updated ns/b@19"}, false},
		{"more is selected: it exists, as of the list", labelled(t), everything, nil, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 5), thing("b", "", 6), thing("c", "", 4))
			r.Progressed(ctx, "20")
		}, []string{"existing ns/c@4 s20"}, true},
		{"a list that is not newer than what was told is not good enough", labelled(t), everything, nil, func(r *Run) {
			if err := r.ListStarted(ctx, "10"); !errors.Is(err, sources.ErrTooSoon) {
				t.Errorf("a list of the moment of the last event: %v", err)
			}
			list(ctx, r, 11, thing("a", "", 5), thing("b", "", 6), thing("c", "", 4))
			r.Progressed(ctx, "11")
		}, []string{"existing ns/c@4 s11"}, true},
		{"what has changed since is the watch's to tell", labelled(t), everything, nil, func(r *Run) {
			list(ctx, r, 20, thing("a", "", 5), thing("b", "", 6), thing("c", "", 14))
			r.Changed(ctx, thing("c", "", 14))
			r.Progressed(ctx, "20")
		}, []string{"created ns/c@14"}, true},
		{"a namespace less", everything, rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"other"} }),
			[]*unstructured.Unstructured{thing("a", "", 5)}, func(r *Run) {
				list(ctx, r, 20)
				r.Progressed(ctx, "20")
			}, []string{"deselected ns/a@20", "deleted ns/b@20 inferred"}, true},
	} {
		t.Run(row.why, func(t *testing.T) {
			h := newHarness(t)
			h.target.Rules = row.before
			first := h.start(ctx)
			list(ctx, first, 10, thing("a", "", 5), thing("b", "", 6))
			end(first, time.Minute)
			h.target.Rules = row.after
			second := h.start(ctx)
			if h.from.Position != "10" || !h.from.Survey {
				t.Errorf("the source begins at %+v", h.from)
			}
			second.presence = &cluster{objects: row.exists, asOf: 30}
			row.tell(second)
			end(second, time.Minute)
			h.out.waitSet(t, append([]string{"created ns/a@5", "created ns/b@6"}, row.want...)...)
			third := h.start(ctx)
			if h.from.Survey == row.done {
				t.Errorf("done is %t, and the next run surveys is %t", row.done, h.from.Survey)
			}
			end(third, 0)
		})
	}
}

// TestForbiddenNamespace shows that a namespace which the route no longer
// names, and which the bridge may no longer look into, does not hold it up.
func TestForbiddenNamespace(t *testing.T) {
	ctx := t.Context()
	h := newHarness(t)
	h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"ns", "other"} })
	first := h.start(ctx)
	listOf(ctx, first.watchers[0], 10, thing("a", "", 5))
	listOf(ctx, first.watchers[1], 12, in("other", thing("b", "", 6)))
	end(first, time.Minute)
	h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"other"} })
	second := h.start(ctx)
	second.presence = &cluster{forbidden: "ns", asOf: 30}
	list(ctx, second, 20, in("other", thing("b", "", 6)))
	second.Progressed(ctx, "20")
	end(second, time.Minute)
	h.out.waitSet(t, "created ns/a@5", "created other/b@6", "deselected ns/a@20")
}

// TestNamespaces shows that each namespace has a position of its own: what one
// watch has told says nothing of the others.
func TestNamespaces(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	process := func() (*harness, *Run) {
		h := p.process(t, nil)
		h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"ns", "other"} })
		return h, h.start(ctx)
	}
	h, r := process()
	listOf(ctx, r.watchers[0], 10, thing("a", "", 5))
	eventually(t, func() bool { return p.recorded().Positions["ns"] == 10 })
	if p.recorded().Phase == journal.Following || h.flow.Status().State != Starting {
		t.Errorf("one of two lists is enough: %+v, %v", p.recorded(), h.flow.Status())
	}
	end(r, 0)

	h, r = process()
	from := h.began
	if from["ns"].Position != "10" || from["other"].Position != "" {
		t.Errorf("the watches begin at %v", from)
	}
	r.watchers[0].Changed(ctx, asSent(thing("a", "", 30)))
	listOf(ctx, r.watchers[1], 20, in("other", thing("a", "x", 7)))
	eventually(t, func() bool { return h.flow.Status().State == Running })
	r.watchers[1].Deleted(ctx, asSent(in("other", thing("a", "x", 25))))
	end(r, time.Minute)
	if s := p.recorded(); s.Phase != journal.Following || s.Positions["ns"] != 30 || s.Positions["other"] != 25 {
		t.Errorf("recorded is %+v", s)
	}
	p.waitSet(t, "created ns/a@5", "updated ns/a@30", "created other/a@7", "deleted other/a@25")

	h, r = process()
	if from := h.began; from["ns"].Position != "30" || from["other"].Position != "25" {
		t.Errorf("the watches begin at %v", from)
	}
	// A list of one namespace says nothing of the others.
	listOf(ctx, r.watchers[1], 40)
	end(r, time.Minute)
	p.waitSet(t, "created ns/a@5", "updated ns/a@30", "created other/a@7", "deleted other/a@25")
}

// TestReselectedListIsNewer shows that what a changed selection brings up is told by
// a list that is newer than all that was told, also by watches that there are no
// more: its version is the sequence of events.
func TestReselectedListIsNewer(t *testing.T) {
	ctx := t.Context()
	p := newPlace()
	process := func(namespaces ...string) *Run {
		h := p.process(t, nil)
		h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.Namespaces = namespaces })
		r := h.start(ctx)
		r.presence = &cluster{objects: []*unstructured.Unstructured{thing("a", "", 5)}, asOf: 20}
		return r
	}
	r := process("ns")
	listOf(ctx, r.watchers[0], 10, thing("a", "", 5))
	p.waitSet(t, "created ns/a@5")
	end(r, time.Minute)

	r = process("other", "third")
	for _, w := range r.watchers {
		listOf(ctx, w, 20)
	}
	p.waitSet(t, "created ns/a@5", "deselected ns/a@20")
	end(r, time.Minute)

	for range 2 { // the first ends before it can list
		r = process()
		w := r.watchers[0]
		if err := w.ListStarted(ctx, "20"); !errors.Is(err, sources.ErrTooSoon) {
			t.Fatalf("a list of the version that was told: %v", err)
		}
		if _, rewound := errors.AsType[*sources.RewoundError](w.ListStarted(ctx, "19")); !rewound {
			t.Fatal("a list of an earlier version is not of another history")
		}
		end(r, 0)
	}
	r = process()
	listOf(ctx, r.watchers[0], 21, thing("a", "", 5))
	p.waitSet(t, "created ns/a@5", "deselected ns/a@20", "existing ns/a@5 s21")
	end(r, time.Minute)
}

// TestNamespacesOneByOne shows that progress of watches that take turns needs
// no room, however long the sink is blocked.
func TestNamespacesOneByOne(t *testing.T) {
	p := progress{}
	for n := range uint64(1000) {
		p = p.and(progress{reached: reached{watch: []string{"a", "b", "c"}[n%3], position: n}})
	}
	if len(p.also) != 2 || p.position != 999 {
		t.Errorf("it has become %+v", p)
	}
}

func whenRules(t *testing.T, expression string) *Rules {
	t.Helper()
	return rulesFor(t, func(o *RuleOptions) { o.When = expression })
}

func with(o *unstructured.Unstructured, field string, value any) *unstructured.Unstructured {
	path := strings.Split(field, ".")
	if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
		panic(err)
	}
	return o
}

// TestFilters shows which changes are told, by rules.
func TestFilters(t *testing.T) {
	ctx := t.Context()
	size := func(name string, version int, size int64) *unstructured.Unstructured {
		return with(thing(name, "", version), "spec.size", size)
	}
	ready := func(name string, version int, size int64, ready bool) *unstructured.Unstructured {
		return with(with(thing(name, "", version), "spec.size", size), "status.ready", ready)
	}
	for _, row := range []struct {
		why   string
		rules *Rules
		tell  func(*Run)
		want  []string
	}{
		{"specOnly: only what touches the spec", rulesFor(t, func(o *RuleOptions) { o.SpecOnly = true }), func(r *Run) {
			list(ctx, r, 10, ready("a", 5, 1, false))
			r.Changed(ctx, ready("a", 11, 1, true))
			r.Changed(ctx, ready("a", 12, 2, true))
			r.Changed(ctx, ready("a", 13, 2, false))
			r.Deleted(ctx, ready("a", 14, 2, false))
		}, []string{"created ns/a@5", "updated ns/a@12", "deleted ns/a@14"}},
		{"ignore: all but the path", rulesFor(t, func(o *RuleOptions) { o.Ignore = []string{"spec.size"} }), func(r *Run) {
			list(ctx, r, 10, ready("a", 5, 1, false))
			r.Changed(ctx, ready("a", 11, 2, false))
			r.Changed(ctx, ready("a", 12, 2, true))
		}, []string{"created ns/a@5", "updated ns/a@12"}},
		{"specOnly, and a list that has the object later", rulesFor(t, func(o *RuleOptions) { o.SpecOnly = true }), func(r *Run) {
			list(ctx, r, 10, ready("a", 5, 1, false), ready("b", 6, 1, false))
			list(ctx, r, 20, ready("a", 15, 1, true), ready("b", 16, 2, true))
		}, []string{"created ns/a@5", "created ns/b@6", "updated ns/b@16 coalesced"}},
		{"when: what it is true for, and the end of what was told", whenRules(t, "object.spec.size > 1"), func(r *Run) {
			list(ctx, r, 10, size("a", 5, 1), size("b", 6, 2))
			r.Changed(ctx, size("a", 11, 2))
			r.Changed(ctx, size("b", 12, 1))
			r.Changed(ctx, size("c", 13, 1))
			r.Deleted(ctx, size("a", 14, 1))
			r.Deleted(ctx, size("b", 15, 1))
			r.Deleted(ctx, size("c", 16, 1))
		}, []string{"created ns/b@6", "updated ns/a@11", "deleted ns/a@14", "deleted ns/b@15"}},
		{"when fails: the event is told", whenRules(t, "object.spec.nothing > 1"), func(r *Run) {
			list(ctx, r, 10, size("a", 5, 1))
		}, []string{"created ns/a@5"}},
		{"when, by type", whenRules(t, "type == 'updated'"), func(r *Run) {
			list(ctx, r, 10, size("a", 5, 1), size("b", 6, 1))
			r.Changed(ctx, size("a", 11, 1))
			r.Deleted(ctx, size("a", 12, 1))
			r.Deleted(ctx, size("b", 13, 1))
		}, []string{"updated ns/a@11", "deleted ns/a@12"}},
		{"when, by what it was before", whenRules(t, "oldObject == null || object.spec.size != oldObject.spec.size"), func(r *Run) {
			list(ctx, r, 10, size("a", 5, 1))
			r.Changed(ctx, size("a", 11, 1))
			r.Changed(ctx, size("a", 12, 2))
		}, []string{"created ns/a@5", "updated ns/a@12"}},
		{"what when keeps back is told with the next that it lets through, also where only the status changes",
			rulesFor(t, func(o *RuleOptions) { o.SpecOnly, o.When = true, "object.status.ready" }), func(r *Run) {
				list(ctx, r, 10, ready("a", 5, 1, false))
				r.Changed(ctx, ready("a", 11, 1, true))
				r.Changed(ctx, ready("a", 12, 2, false))
				r.Changed(ctx, ready("a", 13, 2, true))
			}, []string{"updated ns/a@11", "updated ns/a@13"}},
		{"also where a list comes by before",
			rulesFor(t, func(o *RuleOptions) { o.SpecOnly, o.When = true, "object.status.ready" }), func(r *Run) {
				list(ctx, r, 10, ready("a", 5, 1, false))
				list(ctx, r, 20, ready("a", 5, 1, false))
				r.Changed(ctx, ready("a", 21, 1, true))
			}, []string{"updated ns/a@21"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			h := newHarness(t)
			h.target.Rules = row.rules
			r := h.start(ctx)
			row.tell(r)
			end(r, time.Minute)
			h.out.wait(t, row.want...)
		})
	}
}

// TestFiltersOutliveTheProcess shows that an update which touches nothing that
// counts is left out also where the one before was told by another process.
func TestFiltersOutliveTheProcess(t *testing.T) {
	ctx := t.Context()
	for _, row := range []struct {
		why    string
		redact []string
		want   []string
	}{
		{"the digest is in the ledger", nil, []string{"created ns/a@5"}},
		{"the digest of what is redacted does not leave the process", []string{"spec.secret"}, []string{"created ns/a@5", "updated ns/a@12"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			p := newPlace()
			process := func() *Run {
				h := p.process(t, nil)
				h.target.Rules = rulesFor(t, func(o *RuleOptions) { o.SpecOnly, o.Redact = true, row.redact })
				return h.start(ctx)
			}
			r := process()
			list(ctx, r, 10, with(thing("a", "", 5), "spec.size", int64(1)))
			r.Changed(ctx, with(with(thing("a", "", 11), "spec.size", int64(1)), "status.n", int64(1)))
			end(r, time.Minute)
			r = process()
			r.Changed(ctx, with(with(thing("a", "", 12), "spec.size", int64(1)), "status.n", int64(2)))
			end(r, time.Minute)
			p.wait(t, row.want...)
		})
	}
}
