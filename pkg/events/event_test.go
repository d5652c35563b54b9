package events_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/object"
)

// observed has a zone and nanoseconds, to see what becomes of them.
var observed = time.Date(2026, 3, 1, 13, 30, 0, 123456789, time.FixedZone("", 2*60*60))

// orders is the flow of the contract's examples.
var orders = events.Origin{
	Cluster: "demo", Group: "shop.example.com", Version: "v1", Kind: "Order", Resource: "orders",
	Namespaced: true, Route: "audit",
}

// regions is a flow of cluster-scoped objects.
var regions = events.Origin{
	Cluster: "demo", Group: "shop.example.com", Version: "v1beta1", Kind: "Region", Resource: "regions",
	Route: "audit",
}

// parse is the object as client-go decodes it: whole numbers as int64.
func parse(t *testing.T, document string) *object.Object {
	t.Helper()
	o := &object.Object{JSON: []byte(document)}
	if _, err := o.Content(); err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	return o
}

// sdk is the event as the SDK has it.
func sdk(e *events.Event) *event.Event {
	whole := e.CloudEvent()
	return &whole
}

// attributes are all the attributes of an event, as the SDK tells them.
func attributes(e *event.Event) map[string]any {
	got := map[string]any{
		"specversion": e.SpecVersion(), "id": e.ID(), "source": e.Source(), "type": e.Type(), "subject": e.Subject(),
		"time": e.Time().Format(time.RFC3339Nano), "datacontenttype": e.DataContentType(),
	}
	if e.DataSchema() != "" {
		got["dataschema"] = e.DataSchema()
	}
	maps.Copy(got, e.Extensions())
	return got
}

func TestNew(t *testing.T) {
	const order = `{"apiVersion":"shop.example.com/v1","kind":"Order","metadata":{"name":"o-1","namespace":"eu","resourceVersion":"42","uid":"u-1"},"spec":{"n":1}}`
	const region = `{"apiVersion":"shop.example.com/v1beta1","kind":"Region","metadata":{"name":"north","resourceVersion":"7","uid":"u-2"}}`

	// What the events of one flow have in common, and what a row changes in it.
	common := map[string]any{
		"specversion":     "1.0",
		"id":              "u-1.42.audit",
		"source":          "/clusters/demo/apis/shop.example.com/orders",
		"type":            "dev.crbridge.resource.updated.v1",
		"subject":         "eu/o-1",
		"time":            "2026-03-01T11:30:00.123456789Z",
		"datacontenttype": "application/json",
		"apiversion":      "shop.example.com/v1",
		"kind":            "Order",
		"namespace":       "eu",
		"name":            "o-1",
		"uid":             "u-1",
		"resourceversion": "42",
		"route":           "audit",
		"partitionkey":    "eu/o-1",
		"sequence":        "00000000000000000042",
	}
	with := func(changes map[string]any) map[string]any {
		want := maps.Clone(common)
		for attribute, value := range changes {
			if value == nil {
				delete(want, attribute)
			} else {
				want[attribute] = value
			}
		}
		return want
	}
	change := events.Change{
		Type: events.Updated, Namespace: "eu", Name: "o-1", UID: "u-1", ResourceVersion: 42,
		Object: parse(t, order), Observed: observed,
	}
	altered := func(alter func(*events.Change)) events.Change {
		c := change
		alter(&c)
		return c
	}

	for name, row := range map[string]struct {
		reason     string
		origin     events.Origin
		change     events.Change
		attributes map[string]any
		data       string
	}{
		"existing": {
			reason: "the first list's objects are told apart from new ones by the type alone",
			origin: orders,
			change: altered(func(c *events.Change) { c.Type = events.Existing }),
			attributes: with(map[string]any{
				"type": "dev.crbridge.resource.existing.v1",
			}),
			data: order,
		},
		"created": {
			reason: "as existing, with its own type",
			origin: orders,
			change: altered(func(c *events.Change) { c.Type = events.Created }),
			attributes: with(map[string]any{
				"type": "dev.crbridge.resource.created.v1",
			}),
			data: order,
		},
		"updated": {
			reason:     "every attribute of the contract and none besides; time in UTC with all its digits",
			origin:     orders,
			change:     change,
			attributes: common,
			data:       order,
		},
		"coalesced": {
			reason:     "an update that may stand for several says so",
			origin:     orders,
			change:     altered(func(c *events.Change) { c.Coalesced = true }),
			attributes: with(map[string]any{"coalesced": true}),
			data:       order,
		},
		"deleted": {
			reason: "a deletion's id has no version, as whoever deduces it later knows none; its data is the last state",
			origin: orders,
			change: altered(func(c *events.Change) { c.Type = events.Deleted }),
			attributes: with(map[string]any{
				"type": "dev.crbridge.resource.deleted.v1",
				"id":   "u-1.deleted.audit",
			}),
			data: order,
		},
		"inferred, last state known": {
			reason: "an inferred deletion has the id of an observed one, so that it is stored once",
			origin: orders,
			change: altered(func(c *events.Change) { c.Type, c.Inferred = events.Deleted, true }),
			attributes: with(map[string]any{
				"type":     "dev.crbridge.resource.deleted.v1",
				"id":       "u-1.deleted.audit",
				"inferred": true,
			}),
			data: order,
		},
		"inferred, identity only": {
			reason: "what is not known is not made up: no resourceVersion in the data",
			origin: orders,
			change: altered(func(c *events.Change) { c.Type, c.Inferred, c.Object = events.Deleted, true, nil }),
			attributes: with(map[string]any{
				"type":     "dev.crbridge.resource.deleted.v1",
				"id":       "u-1.deleted.audit",
				"inferred": true,
			}),
			data: `{"apiVersion":"shop.example.com/v1","kind":"Order","metadata":{"name":"o-1","namespace":"eu","uid":"u-1"}}`,
		},
		"cluster-scoped": {
			reason: "no namespace attribute, and a subject without a slash",
			origin: regions,
			change: events.Change{
				Type: events.Created, Name: "north", UID: "u-2", ResourceVersion: 7, Object: parse(t, region), Observed: observed,
			},
			attributes: with(map[string]any{
				"id": "u-2.7.audit", "source": "/clusters/demo/apis/shop.example.com/regions",
				"type": "dev.crbridge.resource.created.v1", "subject": "north", "partitionkey": "north",
				"apiversion": "shop.example.com/v1beta1", "kind": "Region", "namespace": nil, "name": "north",
				"uid": "u-2", "resourceversion": "7", "sequence": "00000000000000000007",
			}),
			data: region,
		},
		"cluster-scoped, identity only": {
			reason: "no namespace in the data either, not even an empty one",
			origin: regions,
			change: events.Change{
				Type: events.Deleted, Name: "north", UID: "u-2", ResourceVersion: 7, Inferred: true, Observed: observed,
			},
			attributes: with(map[string]any{
				"id": "u-2.deleted.audit", "source": "/clusters/demo/apis/shop.example.com/regions",
				"type": "dev.crbridge.resource.deleted.v1", "subject": "north", "partitionkey": "north",
				"apiversion": "shop.example.com/v1beta1", "kind": "Region", "namespace": nil, "name": "north",
				"uid": "u-2", "resourceversion": "7", "sequence": "00000000000000000007", "inferred": true,
			}),
			data: `{"apiVersion":"shop.example.com/v1beta1","kind":"Region","metadata":{"name":"north","uid":"u-2"}}`,
		},
		"largest resource version": {
			reason: "20 digits hold every resource version, so sequences of different length never meet",
			origin: orders,
			change: altered(func(c *events.Change) { c.ResourceVersion = math.MaxUint64 }),
			attributes: with(map[string]any{
				"id": "u-1.18446744073709551615.audit", "resourceversion": "18446744073709551615",
				"sequence": "18446744073709551615",
			}),
			data: order,
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := events.New(row.origin, nil, row.change)
			if err != nil {
				t.Fatalf("%s: %v", row.reason, err)
			}
			if err := sdk(&e).Validate(); err != nil {
				t.Errorf("the SDK refuses the event: %v", err)
			}
			if diff := cmp.Diff(row.attributes, attributes(sdk(&e))); diff != "" {
				t.Errorf("%s\nattributes (-want +got):\n%s", row.reason, diff)
			}
			if diff := cmp.Diff(row.data, string(e.Data)); diff != "" {
				t.Errorf("%s\ndata (-want +got):\n%s", row.reason, diff)
			}
			wantFields := events.Fields{
				Cluster: "demo", Group: "shop.example.com", Version: row.origin.Version, Kind: row.origin.Kind,
				Resource: row.origin.Resource, Namespace: row.change.Namespace, Name: row.change.Name,
				Event: string(row.change.Type), Route: "audit",
			}
			if diff := cmp.Diff(wantFields, e.Fields); diff != "" {
				t.Errorf("%s\nfields (-want +got):\n%s", row.reason, diff)
			}
			if e.Size() < len(e.Data) {
				t.Errorf("size %d is less than that of the data, %d", e.Size(), len(e.Data))
			}
			again, err := events.New(row.origin, nil, row.change)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(e, again, cmpopts.IgnoreUnexported(events.Event{})); diff != "" {
				t.Errorf("the same change made another event (-first +second):\n%s", diff)
			}
		})
	}
}

func TestNewErrors(t *testing.T) {
	valid := events.Change{
		Type: events.Created, Namespace: "eu", Name: "o-1", UID: "u-1", ResourceVersion: 42,
		Object: parse(t, `{}`), Observed: observed,
	}
	for name, row := range map[string]struct {
		reason string
		origin events.Origin
		alter  func(*events.Change)
		want   string
	}{
		"no uid": {
			reason: "its id would be that of every other object without one",
			origin: orders,
			alter:  func(c *events.Change) { c.UID = "" },
			want:   "orders eu/o-1: the object has no metadata.uid",
		},
		"no name": {
			reason: "its subject would be that of a namespace",
			origin: orders,
			alter:  func(c *events.Change) { c.Name = "" },
			want:   "orders eu/: the object has no metadata.name",
		},
		"no namespace": {
			reason: "CloudEvents has no empty attributes, and /o-1 names nothing",
			origin: orders,
			alter:  func(c *events.Change) { c.Namespace = "" },
			want:   "orders o-1: the object has no metadata.namespace",
		},
		"namespace on a cluster-scoped object": {
			reason: "its NATS subject would have a namespace that its attributes do not",
			origin: regions,
			alter:  func(*events.Change) {},
			want:   `regions eu/o-1: a cluster-scoped object with metadata.namespace "eu"`,
		},
		"no JSON": {
			reason: "who made the object has looked; an event is not made of what it has not",
			origin: orders,
			alter:  func(c *events.Change) { c.Object = &object.Object{JSON: []byte(`{"spec":NaN}`)} },
			want:   "orders eu/o-1: data: editing JSON: jsontext: invalid character 'N' at start of value within \"/spec\" after offset 8",
		},
		"source that is no URI reference": {
			reason: "a configuration that was checked has no such cluster; the event would be invalid",
			origin: events.Origin{
				Cluster: "%zz", Group: "shop.example.com", Version: "v1", Kind: "Order", Resource: "orders",
				Namespaced: true, Route: "audit",
			},
			alter: func(*events.Change) {},
			want:  `orders eu/o-1: source "/clusters/%zz/apis/shop.example.com/orders" is not a URI reference`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid
			row.alter(&c)
			_, err := events.New(row.origin, nil, c)
			if got := fmt.Sprint(err); got != row.want {
				t.Errorf("%s\n got %s\nwant %s", row.reason, got, row.want)
			}
		})
	}
}

func TestNewData(t *testing.T) {
	for name, row := range map[string]struct {
		reason       string
		object, want string
	}{
		"managed fields": {
			reason: "who applied which field is API server bookkeeping, and often most of the object",
			object: `{"metadata":{"name":"a","managedFields":[{"manager":"kubectl"}],"labels":{"a":"b"}}}`,
			want:   `{"metadata":{"name":"a","labels":{"a":"b"}}}`,
		},
		"managed fields, null": {
			reason: "the key is dropped whatever its value",
			object: `{"metadata":{"managedFields":null}}`,
			want:   `{"metadata":{}}`,
		},
		"last-applied among others": {
			reason: "only that annotation goes",
			object: `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","a":"b"}}}`,
			want:   `{"metadata":{"annotations":{"a":"b"}}}`,
		},
		"last-applied alone": {
			reason: "an annotations map that nobody filled would be invented",
			object: `{"metadata":{"name":"a","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}}`,
			want:   `{"metadata":{"name":"a"}}`,
		},
		"both": {
			reason: "dropping one must not bring the other back",
			object: `{"metadata":{"managedFields":[],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","a":"b"}},"spec":{}}`,
			want:   `{"metadata":{"annotations":{"a":"b"}},"spec":{}}`,
		},
		"annotations that were empty": {
			reason: "what the bridge does not drop stays as the API server has it",
			object: `{"metadata":{"annotations":{}}}`,
			want:   `{"metadata":{"annotations":{}}}`,
		},
		"same names elsewhere": {
			reason: "only metadata of the object itself is bookkeeping, not that of a template in it",
			object: `{"managedFields":1,"spec":{"template":{"metadata":{"managedFields":[1],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}}}}`,
			want:   `{"managedFields":1,"spec":{"template":{"metadata":{"managedFields":[1],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}}}}`,
		},
		"metadata of another shape": {
			reason: "no API server sends it, and no panic answers it",
			object: `{"metadata":[1]}`,
			want:   `{"metadata":[1]}`,
		},
		"annotations of another shape": {
			reason: "as above",
			object: `{"metadata":{"annotations":"x","managedFields":[]}}`,
			want:   `{"metadata":{"annotations":"x"}}`,
		},
		"int64 extremes": {
			reason: "through float64 they would lose their last digits",
			object: `{"max":9223372036854775807,"min":-9223372036854775808,"beyond2to53":9007199254740993}`,
			want:   `{"max":9223372036854775807,"min":-9223372036854775808,"beyond2to53":9007199254740993}`,
		},
		"floats": {
			reason: "a number is as the API server writes it",
			object: `{"a":0.1,"b":1e21,"c":2.5e-7,"d":1.7976931348623157e308,"e":5e-324,"f":100000000000000000000}`,
			want:   `{"a":0.1,"b":1e21,"c":2.5e-7,"d":1.7976931348623157e308,"e":5e-324,"f":100000000000000000000}`,
		},
		"HTML characters": {
			reason: "the API server escapes them, and data is as it writes it",
			object: `{"spec":"a \u003c b \u0026\u0026 c > d"}`,
			want:   `{"spec":"a \u003c b \u0026\u0026 c > d"}`,
		},
		"unicode": {
			reason: "text stays as it is, in UTF-8 and beyond the basic plane",
			object: `{"spec":"Grüße, 世界 🚢 \u00e9"}`,
			want:   `{"spec":"Grüße, 世界 🚢 \u00e9"}`,
		},
		"control characters": {
			reason: "JSON wants them escaped; one event is one line",
			object: `{"spec":"a\nb\u0000\"\\"}`,
			want:   `{"spec":"a\nb\u0000\"\\"}`,
		},
		"null, empty and nested": {
			reason: "absent, null and empty are three things",
			object: `{"a":null,"b":[],"c":{},"d":[[null,{"e":false}]],"f":""}`,
			want:   `{"a":null,"b":[],"c":{},"d":[[null,{"e":false}]],"f":""}`,
		},
		"key order": {
			reason: "the API server's, which sorts them: nothing is written anew",
			object: `{"b":1,"a":1,"C":1}`,
			want:   `{"b":1,"a":1,"C":1}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := parse(t, row.object)
			e, err := events.New(orders, nil, events.Change{
				Type: events.Updated, Namespace: "eu", Name: "o-1", UID: "u-1", ResourceVersion: 42,
				Object: o, Observed: observed,
			})
			if err != nil {
				t.Fatalf("%s: %v", row.reason, err)
			}
			if got := string(e.Data); got != row.want {
				t.Errorf("%s\n got %s\nwant %s", row.reason, got, row.want)
			}
			if string(o.JSON) != row.object {
				t.Errorf("New changed the object it was given: %s", o.JSON)
			}
		})
	}
}

// The SDK, which subscribers read events with, gets back from structured mode
// what New put in.
func TestStructuredRoundTrip(t *testing.T) {
	for _, o := range []*object.Object{
		nil, // identity only
		parse(t, `{"metadata":{"name":"o-1"},"spec":{"max":9223372036854775807,"text":"<世界> 🚢 \u0000\n\"","f":0.1,"none":null}}`),
	} {
		for _, c := range []events.Change{
			{Type: events.Existing},
			{Type: events.Created},
			{Type: events.Updated, Coalesced: true},
			{Type: events.Deleted, Inferred: true},
		} {
			c.Namespace, c.Name, c.UID, c.ResourceVersion = "eu", "o-1", "u-1", math.MaxUint64
			c.Object, c.Observed = o, observed
			sent, err := events.New(orders, nil, c)
			if err != nil {
				t.Fatal(err)
			}
			readBack(t, sdk(&sent))
		}
	}
}

// readBack fails unless the SDK reads the event from structured mode as it is.
func readBack(t *testing.T, sent *event.Event) {
	t.Helper()
	var document bytes.Buffer
	if err := event.WriteJson(sent, &document); err != nil { // json.Marshal would escape <, > and & in the data
		t.Fatalf("%s: %v", sent.Type(), err)
	}
	var got event.Event
	if err := event.ReadJson(&got, &document); err != nil {
		t.Fatalf("%s: %v", sent.Type(), err)
	}
	if err := got.Validate(); err != nil {
		t.Errorf("%s: %v", sent.Type(), err)
	}
	if diff := cmp.Diff(attributes(sent), attributes(&got)); diff != "" {
		t.Errorf("%s: attributes (-sent +read):\n%s", sent.Type(), diff)
	}
	if diff := cmp.Diff(string(sent.DataEncoded), string(got.DataEncoded)); diff != "" {
		t.Errorf("%s: data (-sent +read):\n%s", sent.Type(), diff)
	}
}

func TestTypes(t *testing.T) {
	var got []string
	for _, typ := range events.Types() {
		got = append(got, typ.CloudEvent())
	}
	want := []string{
		"dev.crbridge.resource.existing.v1", "dev.crbridge.resource.created.v1",
		"dev.crbridge.resource.updated.v1", "dev.crbridge.resource.deleted.v1", "dev.crbridge.resource.deselected.v1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("types of events (-want +got):\n%s", diff)
	}
}

// FuzzNew: whatever the object and its identity, New neither panics nor
// changes the object, and gives either an error or a valid event whose data
// says what the object says, minus bookkeeping.
func FuzzNew(f *testing.F) {
	f.Add(`{"metadata":{"name":"a","managedFields":[1],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}},"spec":{"n":9223372036854775807,"f":-0.0}}`,
		"eu", "o-1", "u-1", uint64(42), byte(2), true, false)
	f.Add(`{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","a":"b"}}}`,
		"", "north", "u-2", uint64(0), byte(3), false, true)
	f.Add(`{"metadata":null,"a":"\u2028<\ud800","b":[1e400]}`, "a/b", "%zz", " ", uint64(math.MaxUint64), byte(0), true, true)
	f.Add(``, "", "", "", uint64(1), byte(3), true, true)
	f.Fuzz(func(t *testing.T, document, namespace, name, uid string, version uint64, kind byte, namespaced, flag bool) {
		var content map[string]any
		var o *object.Object
		if document != "" {
			if err := utiljson.Unmarshal([]byte(document), &content); err != nil || content == nil || strings.Count(document, `"metadata"`) > 1 {
				t.Skip("not an object, or one with its metadata twice")
			}
			o = &object.Object{JSON: []byte(document)}
		}
		origin := orders
		origin.Namespaced = namespaced
		c := events.Change{
			Type: events.Types()[int(kind)%len(events.Types())], Namespace: namespace, Name: name, UID: uid,
			ResourceVersion: version, Object: o, Inferred: flag, Coalesced: !flag, Observed: observed,
		}
		e, err := events.New(origin, nil, c)
		if o != nil && string(o.JSON) != document {
			t.Fatalf("New changed the object it was given: %s", o.JSON)
		}
		if err != nil {
			return
		}
		if err := sdk(&e).Validate(); err != nil {
			t.Errorf("the SDK refuses the event: %v", err)
		}
		if !json.Valid(e.Data) {
			t.Fatalf("data is not JSON: %s", e.Data)
		}
		if content != nil {
			var got map[string]any
			if err := utiljson.Unmarshal(e.Data, &got); err != nil {
				t.Fatalf("%v: %s", err, e.Data)
			}
			if diff := cmp.Diff(canonical(stripped(content)), canonical(got)); diff != "" {
				t.Errorf("data (-object +data):\n%s", diff)
			}
		}
		want := uid + "." + fmt.Sprint(version) + ".audit"
		if c.Type == events.Deleted {
			want = uid + ".deleted.audit"
		}
		if e.ID() != want {
			t.Errorf("id %q, want %q", e.ID(), want)
		}
		if valid := strings.ToValidUTF8(uid+name+namespace, "") == uid+name+namespace; valid {
			readBack(t, sdk(&e))
		}
	})
}

// stripped takes the bookkeeping out of the object in the plainest way.
func stripped(object map[string]any) map[string]any {
	object = runtime.DeepCopyJSON(object)
	metadata, _ := object["metadata"].(map[string]any)
	delete(metadata, "managedFields")
	annotations, _ := metadata["annotations"].(map[string]any)
	had := len(annotations)
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if had > 0 && len(annotations) == 0 {
		delete(metadata, "annotations")
	}
	return object
}

// canonical writes equal numbers equally: JSON has one kind of number, and
// 1.0 may come back as 1.
func canonical(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for k, v := range value {
			value[k] = canonical(v)
		}
	case []any:
		for i, v := range value {
			value[i] = canonical(v)
		}
	case float64:
		if value == math.Trunc(value) && value >= math.MinInt64 && value < math.MaxInt64 {
			return int64(value)
		}
	}
	return value
}

// TestSuffixes shows that what an id ends in is read back, whatever the route is
// called.
func TestSuffixes(t *testing.T) {
	for _, route := range []string{"orders", "r", "r5", "s", "h", "7", "deleted", "r-r5"} {
		for _, row := range []struct {
			why            string
			change         events.Change
			history        uint64
			resync, listed uint64
		}{
			{"an update", events.Change{Type: events.Updated}, 0, 0, 0},
			{"a deletion", events.Change{Type: events.Deleted}, 0, 0, 0},
			{"told again", events.Change{Type: events.Existing, Resync: 12}, 0, 12, 0},
			{"told again, and dead again", events.Change{Type: events.Deleted, Resync: 12}, 0, 12, 0},
			{"newly selected", events.Change{Type: events.Existing, Listed: 20}, 0, 0, 20},
			{"in another history", events.Change{Type: events.Updated}, 9, 0, 0},
			{"newly selected in another history", events.Change{Type: events.Existing, Listed: 20}, 9, 0, 20},
			{"told again in another history", events.Change{Type: events.Existing, Resync: 12}, 9, 12, 0},
		} {
			origin, c := orders, row.change
			origin.Route, origin.History = route, row.history
			c.Namespace, c.Name, c.UID, c.ResourceVersion = "default", "a", "996dd1cd-ad42-4d62-9f9d-9d2dd3a3c4f3", 7
			c.Object = &object.Object{JSON: []byte(`{}`)}
			e, err := events.New(origin, nil, c)
			if err != nil {
				t.Fatal(err)
			}
			made := e.ID()
			if resync, listed := events.Suffixes(made, route); resync != row.resync || listed != row.listed {
				t.Errorf("%s: %s has %d and %d, not %d and %d", row.why, made, resync, listed, row.resync, row.listed)
			}
		}
	}
}
