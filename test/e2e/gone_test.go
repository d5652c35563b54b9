//go:build unix

package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestCRDGoneWhileDown shows that every object of a CRD that was deleted while
// no bridge ran gets its deletion at the next start: by a route that names the
// CRD and by one that does not, also with the sink down and when the bridge is
// killed again before it could tell.
func TestCRDGoneWhileDown(t *testing.T) {
	t.Parallel() // it waits, most of the time
	const objects = 30
	for _, test := range []struct {
		why                  string
		wildcard, down, back bool
	}{
		{"named", false, false, false},
		{"by a wildcard", true, false, false},
		{"the sink is down, and the bridge is killed again", false, true, false},
		{"by a wildcard, the sink is down, and the bridge is killed again", true, true, false},
		{"and it is back with another object", false, false, true},
	} {
		t.Run(test.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.kind.create(t)
			w.kind.fill(t, objects)
			route := w.kind.route("test")
			if test.wildcard {
				route = fmt.Sprintf("  - {name: test, crds: [\"*.%s\"], sinks: [main]}\n", w.kind.group)
			}
			b := w.bridge(t, route)
			b.waitState(t, w.kind.name, "test", "running")
			told := w.stream.wait(t, w.kind.name, objects)
			b.Kill()

			w.kind.remove(t)
			if test.back {
				w.kind.create(t)
				w.kind.add(t, "o0", nil)
			}
			if test.down {
				if err := w.nats.Stop(t.Context()); err != nil {
					t.Fatal(err)
				}
				b = w.bridge(t, route)
				b.waitReady(t, 200, "[!] sinks: not all are connected") // it has read the cluster, and cannot ask the sink
				b.logs(t, "flow is waiting")
				b.Kill()
				if err := w.nats.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			b = w.bridge(t, route)
			want := 2 * objects
			if test.back {
				want++
				b.waitState(t, w.kind.name, "test", "running")
			}
			messages := w.stream.wait(t, w.kind.name, want)
			checkOrder(t, messages)
			left := map[string]string{}
			for _, m := range told {
				left[m.attributes["uid"]] = m.attributes["subject"]
			}
			for _, m := range messages[objects:] {
				if strings.HasPrefix(m.what(), "deleted ") {
					if m.attributes["inferred"] != "true" {
						t.Errorf("%s was not seen by anybody, and is not inferred", m.what())
					}
					delete(left, m.attributes["uid"])
				}
			}
			if diff := cmp.Diff(map[string]string{}, left); diff != "" {
				t.Errorf("objects without their deletion (-want +got):\n%s", diff)
			}
			if !test.back {
				eventually(t, func() error {
					for _, f := range b.status(t).Flows {
						if f.State != "waiting" || f.Objects != 0 {
							return fmt.Errorf("%+v", f)
						}
					}
					return nil
				})
			}
		})
	}
}

// TestCRDRemovedByForce shows what comes of an object whose CRD was removed by
// force, with its data left behind: it is told to be deleted with the CRD, and
// when that comes back it is said to be there, until a resync tells of it.
func TestCRDRemovedByForce(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	held := w.kind.add(t, "held", nil)
	held.SetFinalizers([]string{"example.com/held"})
	if _, err := w.kind.objects().Update(t.Context(), held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "created default/held", "updated default/held")

	crds := w.kind.crds.ApiextensionsV1().CustomResourceDefinitions()
	if err := crds.Delete(t.Context(), w.kind.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.waitState(t, w.kind.name, "test", "draining")
	w.stream.wait(t, w.kind.name, 3) // the API server has marked the object as deleted
	eventually(t, func() error {     // the API server waits for the object; a person does not
		_, err := crds.Patch(t.Context(), w.kind.name, types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`), metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			err = nil
		}
		if _, gone := crds.Get(t.Context(), w.kind.name, metav1.GetOptions{}); err == nil && !apierrors.IsNotFound(gone) {
			err = fmt.Errorf("the CRD is still there")
		}
		return err
	})
	b.waitState(t, w.kind.name, "test", "waiting")
	told := w.stream.wait(t, w.kind.name, 4)
	if end := told[len(told)-1]; end.what() != "deleted default/held" {
		t.Fatalf("the last event is %s", end.what())
	}

	w.kind.create(t)
	w.kind.add(t, "new", nil)
	eventually(t, func() error {
		f := b.flow(t, w.kind.name, "test")
		if f.State != "running" || !strings.Contains(f.Reason, "went without their data (removed by force") || !strings.Contains(f.Reason, "bridge resync --route test") {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
	messages := w.stream.wait(t, w.kind.name, len(told)+1)
	if end := messages[len(messages)-1]; end.what() != "created default/new" || len(messages) != len(told)+1 {
		t.Errorf("after the CRD was back: %s", summary(messages[len(told):]))
	}

	suffix := w.resync(t, "test")
	b.waitReason(t, w.kind.name, "")
	messages = w.stream.wait(t, w.kind.name, len(told)+3)
	var again []string
	for _, m := range messages[len(told)+1:] {
		again = append(again, m.what())
		if !strings.HasSuffix(m.attributes["id"], suffix) {
			t.Errorf("%s has id %s, which does not end in %s", m.what(), m.attributes["id"], suffix)
		}
	}
	compare(t, []string{"existing default/held", "existing default/new"}, again)

	// Nothing holds the object any more.
	if _, err := w.kind.objects().Patch(t.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":[]}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	_ = w.kind.objects().Delete(t.Context(), "held", metav1.DeleteOptions{})
	eventually(t, func() error {
		all := w.stream.all(t, w.kind.name)
		if end := all[len(all)-1]; end.what() != "deleted default/held" {
			return fmt.Errorf("the last event is %s", end.what())
		}
		return nil
	})
}

// TestScopeChangesWhileDown shows that a CRD that came back unseen with another
// scope ends the objects of the one that it was.
func TestScopeChangesWhileDown(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	b := w.bridge(t)
	b.waitState(t, w.kind.name, "test", "running")
	w.kind.add(t, "one", nil)
	w.expect(t, "created default/one")
	b.Kill()
	w.kind.remove(t)
	w.kind.scope = apiextensions.ClusterScoped
	w.kind.create(t)
	w.kind.add(t, "one", nil)
	w.bridge(t).waitState(t, w.kind.name, "test", "running")
	var got []string
	for _, m := range w.stream.wait(t, w.kind.name, 3) {
		got = append(got, m.what())
	}
	slices.Sort(got) // two objects' events may be in either order
	compare(t, []string{"created default/one", "created one", "deleted default/one"}, got)
}
