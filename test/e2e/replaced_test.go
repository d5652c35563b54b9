//go:build unix

package e2e_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	apihelpers "k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// end is what a deletion that nobody saw has to be: after the object's death and
// before its namesake's birth.
type end struct{ from, until uint64 }

// replaced has a CRD with the objects one and two replaced while no bridge runs,
// and returns at which version they were gone. By then the bridge is behind: what
// happened to the objects last it has not heard.
func (w *world) replaced(t *testing.T, b *bridge, next func()) (gone uint64) {
	t.Helper()
	w.kind.create(t)
	w.kind.add(t, "one", nil)
	w.kind.add(t, "two", nil)
	w.expect(t, "created default/one", "created default/two")
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.kind.set(t, "one", "size", 2)
	w.kind.remove(t)
	crds, err := w.kind.crds.ApiextensionsV1().CustomResourceDefinitions().List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if gone, err = strconv.ParseUint(crds.ResourceVersion, 10, 64); err != nil {
		t.Fatal(err)
	}
	next()
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return gone
}

// TestReplacedByOneThatCannotBeServed shows the same of a CRD whose names are
// accepted, and of which the API server can list nothing: it is waited for, and as
// nothing of it is told either, the deletions are right behind what was told.
func TestReplacedByOneThatCannotBeServed(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	b := w.bridge(t)
	w.replaced(t, b, func() {
		crd, url := w.kind.definition("v1"), "https://127.0.0.1:1/convert"
		crd.Spec.Conversion = &apiextensions.CustomResourceConversion{Strategy: apiextensions.WebhookConverter, Webhook: &apiextensions.WebhookConversion{
			ClientConfig:             &apiextensions.WebhookClientConfig{URL: &url, CABundle: []byte("none")},
			ConversionReviewVersions: []string{"v1"},
		}}
		if _, err := w.kind.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	b.says(t, w.kind.name, "draining", "cannot be followed: the CRD is not established yet: The conversion webhook CABundle is invalid", "listing and watching")
	w.ended(t, map[string]end{"one": {1, latest}, "two": {1, latest}})
	if f := b.waitState(t, w.kind.name, "test", "waiting"); !strings.Contains(f.Reason, "CABundle") {
		t.Errorf("it waits, and the reason is %q", f.Reason)
	}

	w.kind.update(t, func(crd *apiextensions.CustomResourceDefinition) {
		crd.Spec.Conversion = &apiextensions.CustomResourceConversion{Strategy: apiextensions.NoneConverter}
	})
	w.kind.add(t, "one", nil)
	if got := w.stream.wait(t, w.kind.name, 5)[4].what(); got != "created default/one" {
		t.Errorf("the next one's object is %s", got)
	}
}

// ended compares the deletions of one and two, which come in any order, with what
// they have to be.
func (w *world) ended(t *testing.T, want map[string]end) {
	t.Helper()
	for _, m := range w.stream.wait(t, w.kind.name, 4)[2:4] {
		name := m.attributes["name"]
		of, wanted := want[name]
		delete(want, name)
		at, err := strconv.ParseUint(m.attributes["resourceversion"], 10, 64)
		if err != nil || !wanted || m.what() != "deleted default/"+name || m.attributes["inferred"] != "true" || at < of.from || at >= of.until {
			t.Errorf("%s at %s (inferred: %s) is not within %+v", m.what(), m.attributes["resourceversion"], m.attributes["inferred"], of)
		}
	}
}

const latest = ^uint64(0)

// TestReplacedByOneNotEstablished shows that objects whose CRD was replaced while
// no bridge ran, by one that is not established, are told to be deleted as of when
// they were, and that the next one's follow.
func TestReplacedByOneNotEstablished(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	b := w.bridge(t)
	taker := newKind(t, w.cp.Admin())
	taker.name, taker.group, taker.plural = "gadgets."+w.kind.group, w.kind.group, "gadgets"
	gone := w.replaced(t, b, func() {
		taker.create(t) // its objects are of the same kind
		crds := w.kind.crds.ApiextensionsV1().CustomResourceDefinitions()
		if _, err := crds.Create(t.Context(), w.kind.definition("v1"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			crd, err := crds.Get(t.Context(), w.kind.name, metav1.GetOptions{})
			if err == nil && !apihelpers.IsCRDConditionFalse(crd, apiextensions.NamesAccepted) {
				err = errors.New("its names are not refused yet")
			}
			return err
		})
	})
	w.ended(t, map[string]end{"one": {gone, latest}, "two": {gone, latest}})
	b.waitState(t, w.kind.name, "test", "waiting")

	taker.remove(t)
	w.kind.add(t, "one", nil)
	if got := w.stream.wait(t, w.kind.name, 5)[4].what(); got != "created default/one" {
		t.Errorf("the next one's object is %s", got)
	}
}

// TestReplacedByOneNotServed shows the same of a CRD that is served in another
// version than the route's: its objects are not told, and may be older than the
// answer that shows what is gone.
func TestReplacedByOneNotServed(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	b := w.bridge(t, w.kind.route("test", "version: v1"))
	var born uint64
	gone := w.replaced(t, b, func() {
		w.kind.version = "v2"
		w.kind.create(t, "v2")
		born = versionOf(t, w.kind.add(t, "one", nil))
		w.kind.update(t, func(crd *apiextensions.CustomResourceDefinition) { crd.Labels = map[string]string{"touched": "since"} })
	})
	w.ended(t, map[string]end{"one": {gone, born}, "two": {gone, latest}})
	b.waitState(t, w.kind.name, "test", "failed")

	w.kind.update(t, func(crd *apiextensions.CustomResourceDefinition) {
		crd.Spec.Versions = append(crd.Spec.Versions, w.kind.definition("v2", "v1").Spec.Versions[1])
	})
	if m := w.stream.wait(t, w.kind.name, 5)[4]; m.what() != "created default/one" || m.attributes["resourceversion"] != strconv.FormatUint(born, 10) {
		t.Errorf("the next one's object, of %d, is %s at %s", born, m.what(), m.attributes["resourceversion"])
	}
}
