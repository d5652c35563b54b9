package sources

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	one = `{"apiVersion":"v1","kind":"K","metadata":{"name":"one","namespace":"n","resourceVersion":"7","uid":"u"},"spec":{"x":"<"}}`
	two = `{"apiVersion":"v1","kind":"K","metadata":{"name":"two","resourceVersion":"8","uid":"v"}}`
)

// read are the events of a body in words, and why there are no more.
func read(body io.Reader) (told []string, err error) {
	f := newFrames(body)
	for {
		event, err := f.next()
		if err != nil {
			return told, err
		}
		text := string(event.Type)
		switch o := event.Object.(type) {
		case *carrier:
			text += " at " + o.ResourceVersion
			if o.object != nil {
				text += " " + o.object.Key() + " " + o.object.UID + " " + string(o.object.JSON)
			}
			if len(o.Annotations) > 0 {
				text += fmt.Sprint(" ", o.Annotations)
			}
		case *metav1.Status:
			text += fmt.Sprintf(" %d %s", o.Code, o.Reason)
		}
		told = append(told, text)
	}
}

func TestFrames(t *testing.T) {
	added, modified := "ADDED at 7 n/one u "+one, "MODIFIED at 8 two v "+two
	frame := func(kind, object string) string { return `{"type":"` + kind + `","object":` + object + "}" }
	for _, row := range []struct {
		why, body string
		want      []string
		end       string // of the error, where it is not io.EOF
	}{
		{"as the API server writes them", frame("ADDED", one) + "\n" + frame("MODIFIED", two) + "\n", []string{added, modified}, ""},
		{"without lines", frame("ADDED", one) + frame("MODIFIED", two), []string{added, modified}, ""},
		{"with many", "\n\n" + frame("ADDED", strings.ReplaceAll(one, ",", ",\n")) + "\n\n", []string{"ADDED at 7 n/one u " + strings.ReplaceAll(one, ",", ",\n")}, ""},
		{"a bookmark", frame("BOOKMARK", `{"kind":"K","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}`) + "\n",
			[]string{"BOOKMARK at 9 map[k8s.io/initial-events-end:true]"}, ""},
		{"an error", frame("ERROR", `{"kind":"Status","code":410,"reason":"Expired"}`) + "\n", []string{"ERROR 410 Expired"}, ""},
		{"what a scanner leaves to the decoder: the last one counts", `{"type":"ADDED","type":"DELETED","object":` + two + "}\n", []string{`DELETED at 8 two v ` + two}, ""},
		{"an object that nobody knows is told as it is", frame("ADDED", `{"apiVersion":"v1","kind":"K"}`) + "\n", []string{`ADDED at    {"apiVersion":"v1","kind":"K"}`}, ""},
		{"an object without a kind", frame("ADDED", `{}`), nil, "missing in '{}'"},
		{"a type that there is not", frame("NEW", `{}`), nil, `unknown type "NEW"`},
		{"no object", frame("ADDED", one) + "\n" + frame("ADDED", "null"), []string{added}, "unexpected end"},
		{"no frame", `[1]` + "\n", nil, "cannot unmarshal array"},
		{"no JSON", frame("ADDED", one) + "\nno", []string{added}, "invalid character"},
		{"cut off", frame("ADDED", one) + "\n" + frame("MODIFIED", two)[:90], []string{added}, ""},
		{"nothing", "", nil, ""},
	} {
		for how, body := range map[string]io.Reader{
			"at once": strings.NewReader(row.body), "byte by byte": iotest.OneByteReader(strings.NewReader(row.body)),
			"with its end": iotest.DataErrReader(strings.NewReader(row.body)),
		} {
			got, err := read(body)
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", row.why, how, diff)
			}
			if row.end == "" && !errors.Is(err, io.EOF) || row.end != "" && !strings.Contains(err.Error(), row.end) {
				t.Errorf("%s, %s: it ends with %v", row.why, how, err)
			}
		}
	}
}

// A frame is larger than what a watch has to read into at first; and what comes
// after it is not forgotten.
func TestLargeFrame(t *testing.T) {
	large := strings.Replace(one, `"<"`, `"`+strings.Repeat("x", 3<<20)+`"`, 1)
	body := `{"type":"ADDED","object":` + large + "}\n" + `{"type":"MODIFIED","object":` + two + "}\n"
	got, err := read(iotest.HalfReader(strings.NewReader(body)))
	if len(got) != 2 || !strings.HasSuffix(got[0], large) || !errors.Is(err, io.EOF) {
		t.Errorf("%d events, %v", len(got), err)
	}
}

func TestConnectionIsLost(t *testing.T) {
	lost := errors.New("connection reset by peer")
	body := io.MultiReader(strings.NewReader(`{"type":"ADDED","object":`+one+"}\n"+`{"type":"ADD`), iotest.ErrReader(lost))
	got, err := read(body)
	if len(got) != 1 || !errors.Is(err, lost) {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzFrames compares with what encoding/json and the decoder of unstructured
// objects make of a body.
func FuzzFrames(f *testing.F) {
	f.Add(`{"type":"ADDED","object":` + one + "}\n" + `{"type":"DELETED","object":` + two + "}\n")
	f.Add(`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}` + "\n" + `{"type":"ERROR","object":{"code":410}}`)
	f.Add(`{"type":"ADDED","object":{"kind":"K","metadata":{"name":1}}}`)
	f.Add(`{"type":"ADDED","object":{"kind":"K","metadata":{"name":"a","name":"b","uid":"u","resourceVersion":"1"}}}`)
	f.Fuzz(func(t *testing.T, body string) {
		frames := newFrames(iotest.HalfReader(strings.NewReader(body)))
		decoder := json.NewDecoder(strings.NewReader(body))
		for {
			event, err := frames.next()
			var want metav1.WatchEvent
			if wrong := decoder.Decode(&want); wrong != nil {
				if err == nil {
					t.Fatalf("%+v where encoding/json says %v", event, wrong)
				}
				return
			}
			if err != nil {
				return // the scanner may know sooner that there is no more to come
			}
			if string(event.Type) != want.Type {
				t.Fatalf("%s, want %s", event.Type, want.Type)
			}
			c, is := event.Object.(*carrier)
			if !is || c.object == nil {
				continue
			}
			var u unstructured.Unstructured
			if err := json.Unmarshal(want.Object.Raw, &u.Object); err != nil {
				t.Fatal(err)
			}
			o := c.object
			if o.Name != u.GetName() || o.Namespace != u.GetNamespace() || o.UID != string(u.GetUID()) || o.ResourceVersion != u.GetResourceVersion() {
				t.Fatalf("%+v, want %+v", o, u.Object)
			}
			var content map[string]any
			if err := json.Unmarshal(o.JSON, &content); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(u.Object, content); diff != "" {
				t.Fatalf("(-want +got)\n%s", diff)
			}
		}
	})
}
