package flow

import (
	gocmp "cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/object"
)

// bare is an object of which only metadata is listed.
func bare(o *unstructured.Unstructured) *object.Object {
	whole := asSent(o)
	return &object.Object{Namespace: whole.Namespace, Name: whole.Name, UID: whole.UID, ResourceVersion: whole.ResourceVersion}
}

// TestUnchanged shows of which objects of a list nothing but metadata is
// needed, and when it is not even worth asking.
func TestUnchanged(t *testing.T) {
	ctx := t.Context()
	everything := Everything()
	redacted := rulesFor(t, func(o *RuleOptions) { o.SpecOnly, o.Redact = true, []string{"spec.n"} })
	tell := func(r *Run) {
		list(ctx, r, 10, thing("a", "", 5), thing("b", "", 6), thing("dead", "", 7))
		changed := thing("a", "", 11)
		changed.Object["spec"] = map[string]any{"n": int64(1)}
		r.Changed(ctx, changed)
		r.Deleted(ctx, thing("dead", "", 12))
	}
	for _, row := range []struct {
		why       string
		rules     *Rules
		process   bool                       // the list is made by the next process
		between   func(*testing.T, *harness) // what happens between two runs; nil: the list is made by the first
		knows     bool
		unchanged []string
	}{
		{"what is known in that version", everything, false, nil, true, []string{"a 11", "b 6"}},
		{"also after a restart", everything, true, func(*testing.T, *harness) {}, true, []string{"a 11", "b 6"}},
		{"a resync tells of every object again", everything, false, func(_ *testing.T, h *harness) { h.flow.RequestResync(later) }, false, nil},
		{"a route that selects otherwise tells of what it has not sent", only(t, events.Created, events.Updated), false, func(_ *testing.T, h *harness) {
			h.target.Rules = everything
		}, true, []string{"a 11", "b 6"}},
		{"and it has sent nothing", only(t, events.Deleted), false, func(_ *testing.T, h *harness) { h.target.Rules = everything }, true, nil},
		{"what counts as a change is known", rulesFor(t, func(o *RuleOptions) { o.SpecOnly = true }), false, nil, true, []string{"a 11", "b 6"}},
		{
			"also after a restart", rulesFor(t, func(o *RuleOptions) { o.SpecOnly = true }), true, func(*testing.T, *harness) {},
			true, []string{"a 11", "b 6"},
		},
		{"what stands for secrets has not outlived its process", redacted, true, func(*testing.T, *harness) {}, false, nil},
		{"a change is told with what was before", rulesFor(t, func(o *RuleOptions) { o.Content = "change" }), false, nil, true, []string{"a 11", "b 6"}},
		{
			"which the next run has to learn", rulesFor(t, func(o *RuleOptions) { o.Content = "change" }), false, func(*testing.T, *harness) {},
			false, nil,
		},
		{"the same for filters", rulesFor(t, func(o *RuleOptions) { o.When = "oldObject == null || true" }), true, func(*testing.T, *harness) {}, false, nil},
		{"a route of other namespaces knows nothing", rulesFor(t, func(o *RuleOptions) { o.Namespaces = []string{"other"} }), false, func(_ *testing.T, h *harness) {
			h.flow.ledger.Reset()
		}, false, nil},
	} {
		t.Run(row.why, func(t *testing.T) {
			p := newPlace()
			h := p.process(t, nil)
			h.target.Rules = row.rules
			r := h.start(ctx)
			tell(r)
			if row.between != nil {
				end(r, time.Minute)
				if row.process {
					rules := h.target.Rules
					h = p.process(t, nil)
					h.target.Rules = rules
				}
				row.between(t, h)
				r = h.start(ctx)
			}
			w := r.watchers[0]
			if knows := w.Knows(ctx); knows != row.knows {
				t.Errorf("it knows what is listed: %t", knows)
			}
			if err := w.ListStarted(ctx, "20"); err != nil {
				t.Fatal(err)
			}
			var unchanged []string
			for _, o := range []*unstructured.Unstructured{
				thing("a", "", 11), thing("b", "", 6), // as they are
				thing("a", "", 19),       // a newer version
				thing("b", "again", 15),  // a namesake
				thing("new", "", 16),     // nobody has heard of it
				thing("dead", "", 7),     // told to be deleted, and is there
				thing("dead", "new", 17), // its namesake
				thing("a", "", 5),        // an older version: etcd was put back
			} {
				if w.Unchanged(ctx, bare(o)) {
					unchanged = append(unchanged, o.GetName()+" "+o.GetResourceVersion())
				}
			}
			if diff := cmp.Diff(row.unchanged, unchanged); diff != "" {
				t.Errorf("unchanged (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnchangedRows shows for which rows the version alone says nothing.
func TestUnchangedRows(t *testing.T) {
	ctx := t.Context()
	_, seen, err := identify(asSent(thing("a", "", 6)))
	if err != nil {
		t.Fatal(err)
	}
	_, namesake, err := identify(asSent(thing("a", "again", 6)))
	if err != nil {
		t.Fatal(err)
	}
	inDoubt, off := seen, seen
	inDoubt.set(doubted, true)
	off.set(deselected, true)
	for _, test := range []struct {
		why  string
		is   func(*ledger)
		want bool
	}{
		{"it is durable", func(l *ledger) { l.rows.put("ns/a", seen) }, true},
		{"it is on its way", func(l *ledger) { l.pending["ns/a"] = pendingRow{row: seen} }, true},
		{"nobody has said whether it is durable", func(l *ledger) { l.rows.put("ns/a", inDoubt) }, false},
		{"another has that version: of another history", func(l *ledger) { l.rows.put("ns/a", namesake) }, false},
		{"it has just left the selection, and is back", func(l *ledger) {
			l.pending["ns/a"] = pendingRow{row: off, gone: true}
		}, false},
		{"its version is of another history", func(l *ledger) { l.rows.put("ns/a", row{uid: seen.uid}) }, false},
	} {
		t.Run(test.why, func(t *testing.T) {
			h := newHarness(t)
			w := h.start(ctx).watchers[0]
			if err := w.ListStarted(ctx, "20"); err != nil {
				t.Fatal(err)
			}
			l := h.flow.ledger
			l.mu.Lock()
			test.is(l)
			l.mu.Unlock()
			if got := w.Unchanged(ctx, bare(thing("a", "", 6))); got != test.want {
				t.Errorf("unchanged: %t", got)
			}
			listed := len(l.where(func(_ []byte, r row) bool { return r.list == w.list }))
			if test.want != (listed == 1) {
				t.Errorf("%d rows are noted as listed", listed)
			}
		})
	}
}

// Ways to tell of a list.
const (
	whole      = "whole objects"
	asSources  = "metadata, where the run says that it knows some" // what pkg/sources does
	metadata   = "metadata, whatever the run says"
	everyThird = "metadata, and some objects all the same" // what another flow on the same watch needs
)

func listAs(ctx context.Context, way string, w *watcher, version int, objects []*unstructured.Unstructured) {
	knows := way != whole && (way != asSources || w.Knows(ctx))
	if w.ListStarted(ctx, strconv.Itoa(version)) != nil {
		return
	}
	for n, o := range objects {
		if knows && w.Unchanged(ctx, bare(o)) && (way != everyThird || n%3 != 0) {
			continue
		}
		w.Listed(ctx, asSent(o))
	}
	w.ListFinished(ctx, strconv.Itoa(version))
}

// TestListsOfMetadata shows, for histories at random, that it makes no
// difference to what is told whether whole objects are listed or metadata first.
func TestListsOfMetadata(t *testing.T) {
	const seeds, steps = 40, 40
	for seed := range uint64(seeds) {
		want := play(t, seed, whole, steps)
		for _, way := range []string{asSources, metadata, everyThird} {
			got := play(t, seed, way, steps)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("seed %d, %s (-want +got):\n%s", seed, way, diff)
			}
		}
		if seed == 0 {
			t.Logf("%d events of the first history", len(want))
		}
	}
}

// script is a history of some objects and of the bridge, made up at random.
type script struct {
	random *rand.Rand
	way    string

	place   *told
	h       *harness
	run     *Run
	there   map[string]*unstructured.Unstructured
	cluster cluster
	history []happening // all of it
	version int
	heard   int // how much of the history the watch has told
	resyncs int
}

type happening struct {
	object *unstructured.Unstructured
	gone   bool
}

// told is a place that remembers all of each event.
type told struct {
	*place
	events []string
}

func (p *told) Publish(ctx context.Context, batch []events.Event) (int, error) {
	for i := range batch {
		p.events = append(p.events, describe(&batch[i])+" "+string(batch[i].Data))
	}
	return p.place.Publish(ctx, batch)
}

func (s *script) rules(t *testing.T) *Rules {
	return rulesFor(t, func(o *RuleOptions) {
		switch s.random.IntN(6) {
		case 0:
			o.SpecOnly = true
		case 1:
			o.Ignore, o.Redact = []string{"status"}, []string{"spec.n"}
		case 2:
			o.When = "oldObject == null || object.spec.n != oldObject.spec.n"
		case 3:
			o.Content = "change"
		case 4:
			o.Events = []events.Type{events.Updated, events.Deleted}
		}
	})
}

func (s *script) start(t *testing.T, process bool) {
	if process {
		rules := s.h.target.Rules
		s.h = s.place.process(t, nil)
		s.h.flow.publisher, s.h.target.Rules = s.place, rules
	}
	s.run = s.h.start(t.Context())
	s.run.presence = &s.cluster
}

// play makes up a history of so many steps and tells what was delivered, by object.
func play(t *testing.T, seed uint64, way string, steps int) []string {
	t.Helper()
	s := &script{
		random: rand.New(rand.NewPCG(seed, 0)), way: way, version: 10,
		place: &told{place: newPlace()}, there: map[string]*unstructured.Unstructured{},
	}
	s.h = s.place.process(t, nil)
	s.h.flow.publisher, s.h.target.Rules = s.place, s.rules(t)
	s.start(t, false)
	s.list(t)
	for range steps {
		s.step(t)
	}
	s.list(t)
	end(s.run, time.Minute)
	// What a list has not ends in any order.
	slices.SortStableFunc(s.place.events, func(a, b string) int { return gocmp.Compare(subject(a), subject(b)) })
	return s.place.events
}

func subject(event string) string {
	_, rest, _ := strings.Cut(event, " ")
	subject, _, _ := strings.Cut(rest, "@")
	return subject
}

func (s *script) step(t *testing.T) {
	t.Helper()
	switch s.random.IntN(12) {
	case 0: // the history has expired
		s.list(t)
	case 1, 2: // the watch goes on
		s.watch(t)
	case 3: // a list breaks off
		s.moment()
		if s.run.watchers[0].ListStarted(t.Context(), strconv.Itoa(s.version)) == nil {
			for _, o := range s.now() {
				s.run.watchers[0].Listed(t.Context(), asSent(o))
				break
			}
		}
		s.list(t)
	case 4: // another run, of another process at times
		end(s.run, time.Minute)
		switch s.random.IntN(4) {
		case 0:
			s.resyncs++
			s.h.flow.RequestResync(later + uint64(s.resyncs))
		case 1:
			s.h.target.Rules = s.rules(t)
		}
		s.start(t, s.random.IntN(2) == 0)
		if s.h.from.Survey {
			s.list(t)
		}
		if s.h.from.Position == "" || s.random.IntN(2) == 0 {
			s.list(t)
			return
		}
		s.rewind()
		s.watch(t)
	default:
		s.change()
	}
}

// rewind has the watch tell what has happened since the run's position.
func (s *script) rewind() {
	position, _ := strconv.Atoi(s.h.from.Position)
	for s.heard = 0; s.heard < len(s.history); s.heard++ {
		if version, _ := strconv.Atoi(s.history[s.heard].object.GetResourceVersion()); version > position {
			return
		}
	}
}

// moment is one at which nothing of the objects changes.
func (s *script) moment() {
	s.version++
	s.cluster.asOf = uint64(s.version)
}

func (s *script) now() []*unstructured.Unstructured {
	objects := make([]*unstructured.Unstructured, 0, len(s.there))
	for _, name := range slices.Sorted(maps.Keys(s.there)) {
		objects = append(objects, s.there[name])
	}
	return objects
}

func (s *script) list(t *testing.T) {
	s.moment()
	listAs(t.Context(), s.way, s.run.watchers[0], s.version, s.now())
	s.heard = len(s.history)
}

func (s *script) watch(t *testing.T) {
	for ; s.heard < len(s.history); s.heard++ {
		if c := s.history[s.heard]; c.gone {
			s.run.Deleted(t.Context(), c.object)
		} else {
			s.run.Changed(t.Context(), c.object)
		}
	}
	s.moment()
	s.run.Progressed(t.Context(), strconv.Itoa(s.version))
}

// change has something happen to an object.
func (s *script) change() {
	s.moment()
	name := fmt.Sprintf("o%d", s.random.IntN(5))
	was, there := s.there[name]
	incarnation := strconv.Itoa(s.version)
	if there {
		incarnation = was.GetLabels()["incarnation"]
	}
	is := thing(name, incarnation, s.version)
	is.SetLabels(map[string]string{"incarnation": incarnation})
	is.Object["spec"] = map[string]any{"n": int64(s.random.IntN(3))}
	is.Object["status"] = map[string]any{"n": int64(s.random.IntN(3))}
	if gone := there && s.random.IntN(4) == 0; gone {
		delete(s.there, name)
		s.history = append(s.history, happening{is, true})
	} else {
		s.there[name] = is
		s.history = append(s.history, happening{is, false})
	}
	s.cluster.objects = s.now()
}
