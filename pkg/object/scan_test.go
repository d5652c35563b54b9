package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const thing = `{"apiVersion":"shop.example.com/v1","kind":"Order","metadata":{"name":"first","namespace":"default","resourceVersion":"12","uid":"u-1"},"spec":{"n":1}}`

// seen is what a frame should be read as.
type seen struct {
	Type, Namespace, Name, UID, Version, JSON string
	N                                         int
}

func TestFrame(t *testing.T) {
	first := &seen{Type: "ADDED", Namespace: "default", Name: "first", UID: "u-1", Version: "12", JSON: thing}
	cases := []struct {
		name, text string
		want       *seen // nil: an error
		err        error
	}{
		{"as the API server writes it", `{"type":"ADDED","object":` + thing + "}\n", first, nil},
		{"another behind it is left alone", `{"type":"ADDED","object":` + thing + `}{"type":"DELETED"`, first, nil},
		{"space everywhere", " \n{ \"type\" :\t\"ADDED\" , \"object\" : " + thing + " } ", first, nil},
		{"the object before the type", `{"object":` + thing + `,"type":"ADDED"}`, first, nil},
		{"a member that nobody knows", `{"type":"ADDED","more":[{"metadata":{}}],"object":` + thing + `}`, first, nil},
		{
			"a cluster-scoped object", `{"type":"DELETED","object":{"metadata":{"name":"a","uid":"u","resourceVersion":"1"}}}`,
			&seen{Type: "DELETED", Name: "a", UID: "u", Version: "1", JSON: `{"metadata":{"name":"a","uid":"u","resourceVersion":"1"}}`}, nil,
		},
		{
			"names with escapes in what is passed on", `{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u","resourceVersion":"1","labels":{"\u0061":"<"}}}}`,
			&seen{Type: "ADDED", Name: "a", UID: "u", Version: "1", JSON: `{"metadata":{"name":"a","uid":"u","resourceVersion":"1","labels":{"\u0061":"<"}}}`}, nil,
		},
		{
			"a value with escapes", `{"type":"ADDED","object":{"metadata":{"name":"\u0061\"","uid":"u","resourceVersion":"1"}}}`,
			&seen{Type: "ADDED", Name: `a"`, UID: "u", Version: "1", JSON: `{"metadata":{"name":"\u0061\"","uid":"u","resourceVersion":"1"}}`}, nil,
		},
		{
			"a bookmark has no object", `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}`,
			&seen{Type: "BOOKMARK", JSON: `{"metadata":{"resourceVersion":"9"}}`}, nil,
		},
		{"an error has none", `{"type":"ERROR","object":{"kind":"Status","code":410}}`, &seen{Type: "ERROR", JSON: `{"kind":"Status","code":410}`}, nil},
		{"a type that there may be one day", `{"type":"NEW","object":{}}`, &seen{Type: "NEW", JSON: `{}`}, nil},

		{"nothing", "", nil, io.EOF},
		{"space", " \n", nil, io.EOF},
		{"the beginning of a frame", `{"type":"ADDED","object":` + thing, nil, io.ErrUnexpectedEOF},
		{"cut in a text", `{"type":"ADD`, nil, io.ErrUnexpectedEOF},
		{"a name is there twice: who it is, is for a decoder to say", `{"type":"ADDED","object":{"metadata":{"name":"a","name":"b","uid":"u","resourceVersion":"1"}}}`, nil, ErrUnusual},
		{"metadata is there twice", `{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u","resourceVersion":"1"},"metadata":{}}}`, nil, ErrUnusual},
		{"two objects", `{"type":"ADDED","object":` + thing + `,"object":` + thing + `}`, nil, ErrUnusual},
		{"two types", `{"type":"ADDED","type":"DELETED","object":` + thing + `}`, nil, ErrUnusual},
		{"a name in another case, which encoding/json takes for the same", `{"type":"ADDED","Type":"DELETED","object":` + thing + `}`, nil, ErrUnusual},
		{"a name in other words", `{"type":"ADDED","object":{"m\u0065tadata":{"name":"a","uid":"u","resourceVersion":"1"}}}`, nil, ErrUnusual},
		{"no uid", `{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"1"}}}`, nil, ErrUnusual},
		{"an empty name", `{"type":"ADDED","object":{"metadata":{"name":"","uid":"u","resourceVersion":"1"}}}`, nil, ErrUnusual},
		{"a number where a text should be", `{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u","resourceVersion":1}}}`, nil, ErrUnusual},
		{"metadata is a list", `{"type":"ADDED","object":{"metadata":[]}}`, nil, ErrUnusual},
		{"metadata is null", `{"type":"ADDED","object":{"metadata":null}}`, nil, ErrUnusual},
		{"the object is null", `{"type":"ADDED","object":null}`, nil, ErrUnusual},
		{"no type", `{"object":` + thing + `}`, nil, ErrUnusual},
		{"no mapping", `[1]`, nil, ErrUnusual},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var s Scanner
			f, n, err := s.Frame([]byte(c.text))
			if c.want == nil {
				if !errors.Is(err, c.err) {
					t.Fatalf("got %v, want %v", err, c.err)
				}
				if errors.Is(err, ErrUnusual) && n != len(c.text) {
					t.Errorf("the frame has %d bytes, want %d", n, len(c.text))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := seen{Type: f.Type, JSON: string(f.JSON)}
			if o := f.Object; o != nil {
				got.Namespace, got.Name, got.UID, got.Version, got.JSON = o.Namespace, o.Name, o.UID, o.ResourceVersion, string(o.JSON)
			}
			if diff := cmp.Diff(*c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if rest := c.text[n:]; strings.TrimSpace(rest) != "" && !strings.HasPrefix(rest, "{") {
				t.Errorf("left over: %q", rest)
			}
		})
	}
}

// Where an object's bookkeeping is.
func TestBookkeeping(t *testing.T) {
	const who = `"name":"a","uid":"u","resourceVersion":"1"`
	cases := []struct {
		why, metadata string
		known         bool
		fields        string
		annotations   string
	}{
		{"none", who, true, "", ""},
		{"managed fields", who + `,"managedFields":[{"manager":"m"}],"ownerReferences":[]`, true, `,"managedFields":[{"manager":"m"}]`, ""},
		{"both", who + `,"annotations":{"a":"b"},"managedFields":[]`, true, `,"managedFields":[]`, `{"a":"b"}`},
		{"space in between", who + " ,\n \"managedFields\" : [ ] , \"annotations\" : {}", true, " ,\n \"managedFields\" : [ ]", "{}"},
		{"annotations come first", `"annotations":{"a":"b"},` + who, true, "", `{"a":"b"}`},
		{"managed fields come first: their comma is behind them", `"managedFields":[],` + who, false, "", ""},
		{"managed fields are there twice", who + `,"managedFields":[],"managedFields":[1]`, false, "", ""},
		{"annotations are there twice", who + `,"annotations":{},"annotations":{"a":""}`, false, "", ""},
	}
	for _, c := range cases {
		for _, frame := range []string{`{"type":"ADDED","object":{"spec":1,"metadata":{%s}}}`, `{"object":{"metadata":{%s},"spec":1},"type":"ADDED"}`} {
			var s Scanner
			f, _, err := s.Frame(fmt.Appendf(nil, frame, c.metadata))
			if err != nil {
				t.Fatalf("%s: %v", c.why, err)
			}
			same(t, f.Object)
			is := f.Object.Bookkeeping
			fields, annotations := string(is.ManagedFields.Of(f.Object.JSON)), string(is.Annotations.Of(f.Object.JSON))
			if is.Known != c.known || c.known && (fields != c.fields || annotations != c.annotations) {
				t.Errorf("%s: known %t, %q, %q", c.why, is.Known, fields, annotations)
			}
		}
	}
}

func TestList(t *testing.T) {
	cases := []struct {
		name, text string
		want       []string // names; nil: an error
		more       string
	}{
		{"a page", `{"apiVersion":"v1","items":[` + thing + `,` + thing + `],"kind":"OrderList","metadata":{"continue":"more","remainingItemCount":7,"resourceVersion":"40"}}`, []string{"first", "first"}, "more"},
		{"the last one, in another order", "{\"metadata\":{\"resourceVersion\":\"40\"},\n\"items\": [ " + thing + " ]}\n", []string{"first"}, ""},
		{"nothing", `{"items":[],"metadata":{"resourceVersion":"40"}}`, []string{}, ""},
		{"items are null", `{"items":null,"metadata":{"resourceVersion":"40"}}`, nil, ""},
		{"no version", `{"items":[],"metadata":{}}`, nil, ""},
		{"an item that nobody knows", `{"items":[{}],"metadata":{"resourceVersion":"40"}}`, nil, ""},
		{"an item that is none", `{"items":[1],"metadata":{"resourceVersion":"40"}}`, nil, ""},
		{"something behind it", `{"items":[],"metadata":{"resourceVersion":"40"}}{}`, nil, ""},
		{"cut off", `{"items":[],"metadata":{"resourceVersion":"40"}`, nil, ""},
		{"a status", `{"kind":"Status","code":500}`, nil, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var s Scanner
			p, err := s.List([]byte(c.text))
			if c.want == nil {
				if err == nil {
					t.Fatalf("got %+v, want an error", p)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			names := []string{}
			for _, o := range p.Objects {
				names = append(names, o.Name)
				if string(o.JSON) != thing {
					t.Errorf("its JSON is %s", o.JSON)
				}
			}
			if diff := cmp.Diff(c.want, names); diff != "" || p.Continue != c.more || p.ResourceVersion != "40" {
				t.Errorf("at %q, more %q (-want +got)\n%s", p.ResourceVersion, p.Continue, diff)
			}
		})
	}
}

// What the scanner takes, encoding/json takes, with the same values; and what
// it refuses is no JSON, or said to be unusual.
func FuzzFrame(f *testing.F) {
	for _, seed := range []string{
		`{"type":"ADDED","object":` + thing + "}\n", `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"a":"true"}}}}`,
		`{"type":"ERROR","object":{"kind":"Status","code":410}}`, `{"type":"MODIFIED","object":null}`, `[]`, `{"type":1}`, "{\"type\":\"\xff\"}",
		`{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u","resourceVersion":"1"},"spec":{"a":1e999,"b":[[[]]]}}} {`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Scanner
		got, n, err := s.Frame(text)
		var whole json.RawMessage
		decoder := json.NewDecoder(bytes.NewReader(text))
		invalid := decoder.Decode(&whole)
		if (invalid != nil) != (err != nil && !errors.Is(err, ErrUnusual)) {
			t.Fatalf("encoding/json says %v, the scanner %v", invalid, err)
		}
		if invalid != nil {
			// More may follow what is cut off; that what follows is of no use the
			// scanner may say when it has come.
			for _, end := range []error{io.EOF, io.ErrUnexpectedEOF} {
				if errors.Is(invalid, end) && !errors.Is(err, end) {
					t.Fatalf("encoding/json says %v, the scanner %v", invalid, err)
				}
			}
			return
		}
		if n != int(decoder.InputOffset()) {
			t.Fatalf("%d bytes, want %d", n, decoder.InputOffset())
		}
		if err != nil {
			return
		}
		var want struct {
			Type   string
			Object json.RawMessage
		}
		if err := json.Unmarshal(exactNames(t, whole, "type", "object"), &want); err != nil {
			t.Fatal(err)
		}
		if want.Type != got.Type || !bytes.Equal(want.Object, got.JSON) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if got.Object != nil {
			same(t, got.Object)
		}
	})
}

func FuzzList(f *testing.F) {
	for _, seed := range []string{
		`{"apiVersion":"v1","items":[` + thing + `],"kind":"OrderList","metadata":{"continue":"more","resourceVersion":"40"}}`,
		`{"items":[],"metadata":{"resourceVersion":"1"}}`, `{"items":[{"metadata":{}}]}`, `{}{}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Scanner
		got, err := s.List(text)
		if valid := json.Valid(text); !valid && err == nil || valid && err != nil && !errors.Is(err, ErrUnusual) {
			t.Fatalf("valid: %v, and the scanner says %v", valid, err)
		}
		if err != nil {
			return
		}
		var want struct {
			Items    []json.RawMessage
			Metadata json.RawMessage
		}
		if err := json.Unmarshal(exactNames(t, text, "items", "metadata"), &want); err != nil {
			t.Fatal(err)
		}
		if len(want.Items) != len(got.Objects) {
			t.Fatalf("%d items, want %d", len(got.Objects), len(want.Items))
		}
		for i, o := range got.Objects {
			if !bytes.Equal(want.Items[i], o.JSON) {
				t.Fatalf("item %d is %s, want %s", i, o.JSON, want.Items[i])
			}
			same(t, o)
		}
		var metadata map[string]any
		if err := json.Unmarshal(want.Metadata, &metadata); err != nil {
			t.Fatal(err)
		}
		more, _ := metadata["continue"].(string)
		if metadata["resourceVersion"] != got.ResourceVersion || more != got.Continue {
			t.Fatalf("got %+v, want %v", got, metadata)
		}
	})
}

// same compares who an object is with what encoding/json makes of its JSON.
func same(t *testing.T, o *Object) {
	t.Helper()
	var content struct{ Metadata map[string]json.RawMessage }
	if err := json.Unmarshal(exactNames(t, o.JSON, "metadata"), &content); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, name := range []string{"namespace", "name", "uid", "resourceVersion"} {
		var value string
		if raw, is := content.Metadata[name]; is {
			if err := json.Unmarshal(raw, &value); err != nil {
				t.Fatal(err)
			}
		}
		want[name] = value
	}
	got := map[string]string{"namespace": o.Namespace, "name": o.Name, "uid": o.UID, "resourceVersion": o.ResourceVersion}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
	bookkeeping(t, o)
}

// bookkeeping compares what the scanner says of an object with what encoding/json
// makes of its JSON, and of that without the managed fields.
func bookkeeping(t *testing.T, o *Object) {
	t.Helper()
	if !o.Bookkeeping.Known {
		return
	}
	fields := o.Bookkeeping.ManagedFields
	whole, without := decoded(t, o.JSON), decoded(t, slices.Concat(o.JSON[:fields.From], o.JSON[fields.To:]))
	metadata, _ := whole["metadata"].(map[string]any)
	if annotations, are := metadata["annotations"]; are {
		if diff := cmp.Diff(annotations, decoded(t, []byte(`{"":`+string(o.Bookkeeping.Annotations.Of(o.JSON))+`}`))[""]); diff != "" {
			t.Fatalf("annotations (-want +got)\n%s", diff)
		}
	}
	delete(metadata, "managedFields")
	if diff := cmp.Diff(whole, without); diff != "" {
		t.Fatalf("without managed fields (-want +got)\n%s", diff)
	}
}

// decoded keeps numbers as they are written, as some are too large for others.
func decoded(t *testing.T, text []byte) (content map[string]any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&content); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return content
}

// exactNames leaves only these members of a mapping: encoding/json takes a
// name in any case for that of a struct's field.
func exactNames(t *testing.T, text []byte, names ...string) []byte {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	only := map[string]json.RawMessage{}
	for _, name := range names {
		if value, is := all[name]; is {
			only[name] = value
		}
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for name, value := range only {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + name + `":`)
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes()
}
