package changes

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/crbridge/crbridge/pkg/events/fieldpath"
)

func TestDigest(t *testing.T) {
	const before = `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"1","generation":1,"labels":{"x":"1"}},
		"spec":{"size":1,"list":[1,2],"deep":{"a":"b"}},"data":"d","status":{"ready":false}}`
	for _, row := range []struct {
		why                    string
		after                  string
		spec, ignore, ignoring bool // whether it counts with specOnly, with an ignored path, and with both
	}{
		{"nothing but its version and generation", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","generation":2,"labels":{"x":"1"}},
			"spec":{"size":1,"list":[1,2],"deep":{"a":"b"}},"data":"d","status":{"ready":false}}`, false, false, false},
		{"the version it is read in", `{"apiVersion":"v2","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"1"}},
			"spec":{"size":1,"list":[1,2],"deep":{"a":"b"}},"data":"d","status":{"ready":false}}`, false, false, false},
		{"the status", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"1"}},
			"spec":{"size":1,"list":[1,2],"deep":{"a":"b"}},"data":"d","status":{"ready":true}}`, false, true, false},
		{"a label", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"2"}},
			"spec":{"size":1,"list":[1,2],"deep":{"a":"b"}},"data":"d","status":{"ready":false}}`, false, true, false},
		{"the ignored field", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"1"}},
			"spec":{"size":2,"list":[1,2],"deep":{"a":"b"}},"data":"d","status":{"ready":false}}`, true, false, false},
		{"another field of the spec", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"1"}},
			"spec":{"size":1,"list":[1,2],"deep":{"a":"c"}},"data":"d","status":{"ready":false}}`, true, true, true},
		{"the order of a list", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"1"}},
			"spec":{"size":1,"list":[2,1],"deep":{"a":"b"}},"data":"d","status":{"ready":false}}`, true, true, true},
		{"what is beside the spec", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"1"}},
			"spec":{"size":1,"list":[1,2],"deep":{"a":"b"}},"data":"e","status":{"ready":false}}`, true, true, true},
		{"kubectl's bookkeeping", `{"apiVersion":"v1","kind":"K","metadata":{"name":"a","resourceVersion":"2","labels":{"x":"1"},"managedFields":[{}],
			"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}},
			"spec":{"size":1,"list":[1,2],"deep":{"a":"b"}},"data":"d","status":{"ready":false}}`, false, false, false},
	} {
		size := []fieldpath.Path{fieldpath.Must("spec.size")}
		for _, f := range []struct {
			what   string
			filter *Filter
			counts bool
		}{
			{"specOnly", New(true, nil, false), row.spec},
			{"ignore", New(false, size, false), row.ignore},
			{"both", New(true, size, false), row.ignoring},
			{"both, secretly", New(true, size, true), row.ignoring},
		} {
			if counts := f.filter.Digest([]byte(before)) != f.filter.Digest([]byte(row.after)); counts != f.counts {
				t.Errorf("%s: with %s it counts: %t", row.why, f.what, counts)
			}
		}
	}
	if New(false, nil, false) != nil {
		t.Error("a filter where everything counts")
	}
}

// TestDigestStays shows that digests mean the same to every bridge, of this
// version and of the next, unless they must not.
func TestDigestStays(t *testing.T) {
	o := []byte(`{"spec":{"a":1,"b":[true,null,"x",1.5,{}]},"kind":"K"}`)
	d := New(true, nil, false).Digest(o)
	if got := hex.EncodeToString(d[:]); got != "c683da1917d4b2a43ca110ac1199bf9f" {
		t.Errorf("the digest is %s", got)
	}
	a, b := New(true, nil, true), New(true, nil, true)
	if a.Digest(o) == b.Digest(o) || a.Durable() || !New(true, nil, false).Durable() {
		t.Error("a digest of secrets is the same in another process, or is said to be")
	}
	if New(true, nil, false).Digest([]byte(`{"kind":"K", "spec": {"b":[true,null,"\u0078",15e-1,{}],"a":1.0}}`)) != d {
		t.Error("what means the same has two digests")
	}
}

// FuzzDigest shows that different contents have different digests.
func FuzzDigest(f *testing.F) {
	f.Add(`{"spec":{"a":"b"}}`, `{"spec":{"ab":""}}`)
	f.Add(`{"spec":["a","b"]}`, `{"spec":[["a"],"b"]}`)
	f.Add(`{"a":1}`, `{"a":"1"}`)
	f.Fuzz(func(t *testing.T, one, other string) {
		var a, b map[string]any
		if json.Unmarshal([]byte(one), &a) != nil || json.Unmarshal([]byte(other), &b) != nil {
			return
		}
		x, _ := json.Marshal(map[string]any{"spec": a})
		y, _ := json.Marshal(map[string]any{"spec": b})
		filter := New(true, nil, false)
		same := filter.Digest(x) == filter.Digest(y)
		if same != (bytes.Equal(x, y)) {
			t.Errorf("%s and %s: the same digest is %t", x, y, same)
		}
	})
}
