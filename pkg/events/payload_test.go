package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/crbridge/crbridge/pkg/events/fieldpath"
	"github.com/crbridge/crbridge/pkg/object"
)

var widgets = Origin{Cluster: "demo", Group: "example.com", Version: "v1", Kind: "Widget", Resource: "widgets", Namespaced: true, Route: "r"}

// parsed is an object as the API server writes it.
func parsed(t testing.TB, text string) *object.Object {
	t.Helper()
	var content map[string]any
	if err := unmarshalNumbers([]byte(text), &content); err != nil {
		t.Fatal(err)
	}
	o, err := object.Of(content)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

const widget = `{"apiVersion":"example.com/v1","kind":"Widget",
	"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","managedFields":[{"manager":"m"}],
		"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"spec\":{\"password\":\"hunter2\"}}","example.com/key":"k"}},
	"spec":{"password":"hunter2","items":[{"name":"x","secret":"s1"},{"name":"y","secret":{"deep":"s2"}}],"size":9007199254740993},
	"status":{"ready":true}}`

func data(t *testing.T, o PayloadOptions, c Change) string {
	t.Helper()
	p, err := NewPayload(o)
	if err != nil {
		t.Fatal(err)
	}
	c.Namespace, c.Name, c.UID, c.ResourceVersion, c.Observed = "n", "a", "u", 7, time.Unix(1, 0)
	for _, o := range []**object.Object{&c.Object, &c.Old} {
		if *o == nil {
			continue
		}
		if *o, err = p.Visible(*o); err != nil {
			t.Fatal(err)
		}
	}
	e, err := New(widgets, p, c)
	if err != nil {
		t.Fatal(err)
	}
	return string(e.Data)
}

func TestPayload(t *testing.T) {
	for _, row := range []struct {
		why     string
		options PayloadOptions
		change  string
		old     string
		kind    Type
		want    string
	}{
		{"the object, without bookkeeping", PayloadOptions{}, widget, "", Created,
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"annotations":{"example.com/key":"k"},"name":"a","namespace":"n","resourceVersion":"7","uid":"u"},"spec":{"items":[{"name":"x","secret":"s1"},{"name":"y","secret":{"deep":"s2"}}],"password":"hunter2","size":9007199254740993},"status":{"ready":true}}`},
		{"with the bookkeeping that is kept", PayloadOptions{Keep: []string{"metadata.managedFields"}, Drop: []string{"spec", "status"}}, widget, "", Created,
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"annotations":{"example.com/key":"k"},"managedFields":[{"manager":"m"}],"name":"a","namespace":"n","resourceVersion":"7","uid":"u"}}`},
		{"metadata alone", PayloadOptions{Content: ContentMetadata}, widget, "", Created,
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"annotations":{"example.com/key":"k"},"name":"a","namespace":"n","resourceVersion":"7","uid":"u"}}`},
		{"without what is dropped", PayloadOptions{Drop: []string{"spec.items[*].secret", "metadata.annotations['example.com/key']", "status", "spec.nothing"}}, widget, "", Created,
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"n","resourceVersion":"7","uid":"u"},"spec":{"items":[{"name":"x"},{"name":"y"}],"password":"hunter2","size":9007199254740993}}`},
		{"with what is redacted, whatever it is", PayloadOptions{Redact: []string{"spec.password", "spec.items[*].secret"}, Drop: []string{"status"}}, widget, "", Created,
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"annotations":{"example.com/key":"k"},"name":"a","namespace":"n","resourceVersion":"7","uid":"u"},"spec":{"items":[{"name":"x","secret":"[redacted]"},{"name":"y","secret":"[redacted]"}],"password":"[redacted]","size":9007199254740993}}`},
		{"a change, of which nothing is known before", PayloadOptions{Content: ContentChange, Drop: []string{"metadata", "status"}[1:]}, `{"metadata":{"name":"a"},"spec":{"a":1}}`, "", Updated,
			`{"object":{"metadata":{"name":"a"},"spec":{"a":1}}}`},
		{"a change", PayloadOptions{Content: ContentChange}, `{"metadata":{"name":"a"},"spec":{"a/b":1,"n":9007199254740995,"l":[1,2,4]}}`, `{"metadata":{"name":"a"},"spec":{"n":9007199254740993,"l":[1,2,3],"gone":true}}`, Updated,
			`{"object":{"metadata":{"name":"a"},"spec":{"a/b":1,"l":[1,2,4],"n":9007199254740995}},"oldObject":{"metadata":{"name":"a"},"spec":{"gone":true,"l":[1,2,3],"n":9007199254740993}},"patch":[{"value":1,"op":"add","path":"/spec/a~1b"},{"op":"remove","path":"/spec/gone"},{"value":4,"op":"replace","path":"/spec/l/2"},{"value":9007199254740995,"op":"replace","path":"/spec/n"}]}`},
		{"a change of what is redacted", PayloadOptions{Content: ContentChange, Redact: []string{"spec.p"}}, `{"metadata":{"name":"a"},"spec":{"p":"new"}}`, `{"metadata":{"name":"a"},"spec":{"p":"old"}}`, Updated,
			`{"object":{"metadata":{"name":"a"},"spec":{"p":"[redacted]"}},"oldObject":{"metadata":{"name":"a"},"spec":{"p":"[redacted]"}}}`},
		{"the end of an object is no change of it", PayloadOptions{Content: ContentChange}, `{"metadata":{"name":"a"}}`, `{"metadata":{"name":"b"}}`, Deleted,
			`{"object":{"metadata":{"name":"a"}}}`},
		{"nothing known", PayloadOptions{Content: ContentChange}, "", "", Deleted,
			`{"object":{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"n","uid":"u"}}}`},
	} {
		c := Change{Type: row.kind}
		if row.change != "" {
			c.Object = parsed(t, row.change)
		}
		if row.old != "" {
			c.Old = parsed(t, row.old)
		}
		if diff := cmp.Diff(row.want, data(t, row.options, c)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.why, diff)
		}
		if row.change != "" {
			if diff := cmp.Diff(string(parsed(t, row.change).JSON), string(c.Object.JSON)); diff != "" {
				t.Errorf("%s: the object was changed (-was +is):\n%s", row.why, diff)
			}
		}
	}
}

func TestBadPayload(t *testing.T) {
	for _, row := range []struct {
		why     string
		options PayloadOptions
		want    string
		syntax  bool
	}{
		{"no content", PayloadOptions{Content: "all"}, `content: "all": there are object, metadata and change`, false},
		{"no path", PayloadOptions{Drop: []string{"spec", "spec."}}, "drop[1]: column 6: a name should be here; one that does not begin with a letter or _ is written as in ['example.com/key']", true},
		{"the name", PayloadOptions{Redact: []string{"metadata.name"}}, "redact[0]: metadata.name is or holds metadata.name, by which subscribers know the object; name what is to go more closely", false},
		{"all metadata", PayloadOptions{Drop: []string{"metadata"}}, "drop[0]: metadata is or holds metadata.name, by which subscribers know the object; name what is to go more closely", false},
		{"everything", PayloadOptions{Redact: []string{"[*]"}}, "redact[0]: [*] is or holds apiVersion, by which subscribers know the object; name what is to go more closely", false},
		{"kept, and never left out", PayloadOptions{Keep: []string{"spec"}}, "keep[0]: spec is not left out; what is, and can be kept, are metadata.managedFields and metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']", false},
		{"kept, with a copy of what is redacted", PayloadOptions{Keep: []string{"metadata.managedFields"}, Redact: []string{"spec.a"}}, "keep[0]: metadata.managedFields may hold values that redact hides; leave out one of the two", false},
	} {
		_, err := NewPayload(row.options)
		if err == nil || err.Error() != row.want {
			t.Errorf("%s: %v, not %s", row.why, err, row.want)
		}
		if _, is := errors.AsType[*fieldpath.SyntaxError](err); is != row.syntax {
			t.Errorf("%s: a syntax error is %t", row.why, is)
		}
	}
}

// Where the scanner has said what bookkeeping there is, the data is what the
// editor makes of it.
func TestBookkeeping(t *testing.T) {
	const who = `"name":"a","namespace":"n","uid":"u","resourceVersion":"7"`
	const applied = `"kubectl.kubernetes.io/last-applied-configuration":"{}"`
	for _, row := range []struct {
		why, metadata string
		splices       bool
	}{
		{"none", who, true},
		{"managed fields", who + `,"managedFields":[{"manager":"m"}],"labels":{"a":"b"}`, true},
		{"managed fields first", `"managedFields":[{"manager":"m"}],` + who, false},
		{"managed fields twice", who + `,"managedFields":[],"managedFields":[1]`, false},
		{"other annotations", who + `,"annotations":{"a":"b"},"managedFields":[]`, true},
		{"kubectl's among others", who + `,"annotations":{"a":"b",` + applied + `},"managedFields":[]`, false},
		{"kubectl's alone", who + `,"annotations":{` + applied + `}`, false},
		{"kubectl's, with an escape", who + `,"annotations":{"kubectl.kubernetes.io\/last-applied-configuration":"{}"}`, false},
		{"kubectl's in the second of two", who + `,"annotations":{},"annotations":{` + applied + `}`, false},
		{"kubectl's in the first of two", who + `,"annotations":{` + applied + `},"annotations":{}`, false},
	} {
		var s object.Scanner
		f, _, err := s.Frame([]byte(`{"type":"ADDED","object":{"apiVersion":"example.com/v1","metadata":{` + row.metadata + `},"spec":{"managedFields":1}}}`))
		if err != nil {
			t.Fatalf("%s: %v", row.why, err)
		}
		want, err := defaultPayload.shape.Apply(f.Object.JSON)
		if err != nil {
			t.Fatalf("%s: %v", row.why, err)
		}
		got, err := defaultPayload.object(widgets, Change{}, f.Object)
		if diff := cmp.Diff(string(want), string(got)); diff != "" || err != nil {
			t.Errorf("%s: %v, (-want +got)\n%s", row.why, err, diff)
		}
		if marked(f.Object) != row.splices {
			t.Errorf("%s: taken to be known: %t", row.why, !row.splices)
		}
		for _, o := range []PayloadOptions{{Keep: []string{"metadata.managedFields"}}, {Drop: []string{"spec"}}, {Content: ContentMetadata}} {
			p, err := NewPayload(o)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := p.shape.Apply(f.Object.JSON)
			if got, err := p.object(widgets, Change{}, f.Object); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s, %+v: %v, %s, not %s", row.why, o, err, got, want)
			}
		}
	}
}

// Where nothing is redacted, nothing is copied.
func TestVisibleShares(t *testing.T) {
	o := parsed(t, widget)
	if got, err := defaultPayload.Visible(o); err != nil || got != o {
		t.Errorf("another object, or %v", err)
	}
}

// TestShrink shows what becomes of an event that is too large, step by step.
func TestShrink(t *testing.T) {
	for _, row := range []struct {
		why     string
		content Content
		want    []string
	}{
		{"the object", ContentObject, []string{
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"annotations":{"example.com/key":"k"},"name":"a","namespace":"n","resourceVersion":"7","uid":"u"}}`,
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"n","uid":"u"}}`,
		}},
		{"metadata alone", ContentMetadata, []string{
			`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"n","uid":"u"}}`,
		}},
		{"a change", ContentChange, []string{
			`{"object":{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"annotations":{"example.com/key":"k"},"name":"a","namespace":"n","resourceVersion":"7","uid":"u"}}}`,
			`{"object":{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a","namespace":"n","uid":"u"}}}`,
		}},
	} {
		p, err := NewPayload(PayloadOptions{Content: row.content})
		if err != nil {
			t.Fatal(err)
		}
		e, err := New(widgets, p, Change{Type: Updated, Namespace: "n", Name: "a", UID: "u", ResourceVersion: 7, Object: parsed(t, widget), Old: parsed(t, widget)})
		if err != nil {
			t.Fatal(err)
		}
		whole := e
		var got []string
		for e.Shrink() {
			got = append(got, string(e.Data))
			if e.Attribute(ExtOversize) != "true" {
				t.Errorf("%s: the event does not say so", row.why)
			}
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.why, diff)
		}
		if whole.Attribute(ExtOversize) != "" {
			t.Errorf("%s: a copy that was not shrunk says that it was", row.why)
		}
	}
}

// TestListed shows how an event says that a list brought it about.
func TestListed(t *testing.T) {
	e, err := New(widgets, nil, Change{Type: Existing, Namespace: "n", Name: "a", UID: "u", ResourceVersion: 7, Listed: 20})
	if err != nil {
		t.Fatal(err)
	}
	sequence, version := e.Attribute(ExtSequence), e.Attribute(ExtResourceVersion)
	if e.ID() != "u.7.r.s20" || sequence != "00000000000000000020" || version != "7" {
		t.Errorf("id %s, sequence %s, resourceversion %s", e.ID(), sequence, version)
	}
}

// FuzzPatch shows that the patch makes of the old object the new one.
func FuzzPatch(f *testing.F) {
	f.Add(`{"spec":{"a":1,"l":[1,2,3]}}`, `{"spec":{"a":2,"l":[3,1]}}`)
	f.Add(`{"a":[[1],{"b":null}]}`, `{"a":[{"b":null},[1]],"~/":1}`)
	f.Add(`{"":{"":1}}`, `{"":{}}`)
	f.Fuzz(func(t *testing.T, before, after string) {
		var x, y map[string]any
		if unmarshalNumbers([]byte(before), &x) != nil || unmarshalNumbers([]byte(after), &y) != nil || x == nil || y == nil {
			t.Skip()
		}
		p, err := NewPayload(PayloadOptions{Content: ContentChange})
		if err != nil {
			t.Fatal(err)
		}
		b, err := p.data(widgets, Change{Type: Updated, Object: parsed(t, after), Old: parsed(t, before)})
		if err != nil {
			t.Fatal(err)
		}
		var change struct{ Object, OldObject, Patch json.RawMessage }
		if err := json.Unmarshal(b, &change); err != nil {
			t.Fatal(err)
		}
		if change.Patch == nil {
			change.Patch = []byte("[]")
		}
		patch, err := jsonpatch.DecodePatch(change.Patch)
		if err != nil {
			t.Fatalf("%s: %v", change.Patch, err)
		}
		got, err := patch.Apply(change.OldObject)
		if err != nil {
			t.Fatalf("%s on %s: %v", change.Patch, change.OldObject, err)
		}
		if !jsonpatch.Equal(got, change.Object) && !bytes.Equal(got, change.Object) {
			t.Errorf("%s on %s gives %s, not %s", change.Patch, change.OldObject, got, change.Object)
		}
	})
}
