package nats

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	sdkreader "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/google/go-cmp/cmp"
	natsgo "github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// full is an event with every attribute that there is.
func full(t testing.TB) events.Event {
	t.Helper()
	c := changed(events.Updated, "one", 7)
	c.Inferred, c.Coalesced = true, true
	e, err := events.New(originOf(orders), nil, c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEncodeBinary(t *testing.T) {
	e := full(t)
	m, err := encode(sinks.Binary, "k8s.demo", &e)
	if err != nil {
		t.Fatal(err)
	}
	want := natsgo.Header{
		"ce-specversion":     {"1.0"},
		"ce-id":              {id("one", 7)},
		"ce-source":          {"/clusters/demo/apis/shop.example.com/orders"},
		"ce-type":            {"dev.crbridge.resource.updated.v1"},
		"ce-subject":         {"default/one"},
		"ce-time":            {"2023-11-14T22:13:20.123456789Z"},
		"ce-datacontenttype": {"application/json"},
		"ce-apiversion":      {"shop.example.com/v1"},
		"ce-kind":            {"Order"},
		"ce-namespace":       {"default"},
		"ce-name":            {"one"},
		"ce-uid":             {uid("one").String()},
		"ce-resourceversion": {"7"},
		"ce-route":           {"orders"},
		"ce-partitionkey":    {"default/one"},
		"ce-sequence":        {"00000000000000000007"},
		"ce-inferred":        {"true"},
		"ce-coalesced":       {"true"},
	}
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if got, want := string(m.Data), `{"spec":{"version":7}}`; got != want {
		t.Errorf("payload is %s, want %s", got, want)
	}
}

func TestEncodeStructured(t *testing.T) {
	e := full(t)
	m, err := encode(sinks.Structured, "k8s.demo", &e)
	if err != nil {
		t.Fatal(err)
	}
	want := natsgo.Header{"Content-Type": {"application/cloudevents+json"}}
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	mark(m, &e)
	want = natsgo.Header{
		"Content-Type": {"application/cloudevents+json"},
		"ce-source":    {"/clusters/demo/apis/shop.example.com/orders"}, "ce-subject": {"default/one"},
		"ce-type": {"dev.crbridge.resource.updated.v1"}, "ce-apiversion": {"shop.example.com/v1"}, "ce-kind": {"Order"},
		"ce-uid": {uid("one").String()}, "ce-resourceversion": {"7"}, "ce-route": {"orders"},
	}
	if diff := cmp.Diff(want, m.Header); diff != "" {
		t.Errorf("headers in a stream (-want +got):\n%s", diff)
	}
	var got map[string]any
	if err := json.Unmarshal(m.Data, &got); err != nil {
		t.Fatal(err)
	}
	payload := map[string]any{
		"specversion": "1.0", "id": id("one", 7), "source": "/clusters/demo/apis/shop.example.com/orders",
		"type": "dev.crbridge.resource.updated.v1", "subject": "default/one", "time": "2023-11-14T22:13:20.123456789Z",
		"datacontenttype": "application/json", "apiversion": "shop.example.com/v1", "kind": "Order", "namespace": "default",
		"name": "one", "uid": uid("one").String(), "resourceversion": "7", "route": "orders", "partitionkey": "default/one",
		"sequence": "00000000000000000007", "inferred": true, "coalesced": true,
		"data": map[string]any{"spec": map[string]any{"version": 7.0}}, // raw JSON, neither a string nor base64
	}
	if diff := cmp.Diff(payload, got); diff != "" {
		t.Errorf("payload (-want +got):\n%s", diff)
	}
}

// What one message had in its header is not in that of the next.
func TestHeadersAreEmptyWhenUsedAgain(t *testing.T) {
	first, plain := full(t), full(t)
	for range 100 { // a pool promises nothing of one
		m, err := encode(sinks.Binary, "s", &first)
		if err != nil {
			t.Fatal(err)
		}
		m.Header["Nats-Batch-Commit"] = []string{"1"} // as who publishes adds some
		letGo([]*natsgo.Msg{m})
		if m, err = encode(sinks.Structured, "s", &plain); err != nil {
			t.Fatal(err)
		}
		if len(m.Header) != 1 {
			t.Fatalf("headers are %v", m.Header)
		}
		letGo([]*natsgo.Msg{m})
	}
}

// The SDK's own JetStream binding is a reader that we did not write.
func TestSDKReadsBothModes(t *testing.T) {
	for _, mode := range []sinks.Mode{sinks.Binary, sinks.Structured} {
		t.Run(string(mode), func(t *testing.T) {
			e := full(t)
			m, err := encode(mode, "k8s.demo", &e)
			if err != nil {
				t.Fatal(err)
			}
			got, err := binding.ToEvent(t.Context(), sdkreader.NewMessage(m))
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(plain(t, sdk(&e)), plain(t, got)); diff != "" {
				t.Errorf("the SDK reads another event (-sent +read):\n%s", diff)
			}
		})
	}
}

// plain is an event's attributes as strings, and its data.
// sdk is the event as the SDK has it.
func sdk(e *events.Event) *event.Event {
	whole := e.CloudEvent()
	return &whole
}

func plain(t testing.TB, e *event.Event) map[string]string {
	t.Helper()
	all := map[string]string{
		"specversion": e.SpecVersion(), "id": e.ID(), "source": e.Source(), "type": e.Type(), "subject": e.Subject(),
		"datacontenttype": e.DataContentType(), "time": e.Time().Format(time.RFC3339Nano), "data": string(e.Data()),
	}
	for name, value := range e.Extensions() {
		s, err := types.Format(value)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = s
	}
	return all
}

func TestPercentEncode(t *testing.T) {
	for _, test := range []struct {
		why, value, want string
	}{
		{"the example of the specification", "Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"},
		{"what is printable stays", "!#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~", "!#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"},
		{"the three printable ones that do not", ` "%`, "%20%22%25"},
		{"a percent sequence in the value is not one in the header", "a%20b", "a%2520b"},
		{"line breaks would begin another header", "a\r\nNats-Rollup: all", "a%0D%0ANats-Rollup:%20all"},
		{"control characters", "\x00\x1f\x7f\u0085", "%00%1F%7F%C2%85"},
		{"bytes that are no UTF-8 stay what they are", "\xff", "%FF"},
		{"nothing", "", ""},
	} {
		if got := percentEncode(test.value); got != test.want {
			t.Errorf("%s: %q became %q, want %q", test.why, test.value, got, test.want)
		}
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("default", "one", "uid", "orders", []byte(`{"a":"ä"}`))
	f.Add("a b", "\"%\r\nNats-Msg-Id: x", "\x00", "é€😀", []byte(`"x"`))
	f.Add("", "x", "u", "r", []byte(`{"<":[1,1e300,-0,null]}`))
	f.Add("", "x", "\x7f", "r", []byte(`{"0":[1e700,0]}`)) // found by fuzzing
	f.Fuzz(func(t *testing.T, namespace, name, uid, route string, data []byte) {
		e, err := events.New(
			events.Origin{
				Cluster: "demo", Group: "g", Version: "v1", Kind: "K", Resource: "r",
				Namespaced: namespace != "", Route: route,
			}, nil,
			events.Change{
				Type: events.Created, Namespace: namespace, Name: name, UID: uid, ResourceVersion: 1,
				Observed: time.Unix(1, 0), Object: &object.Object{JSON: []byte(`{}`)},
			})
		if err != nil || !json.Valid(data) {
			t.Skip()
		}
		e.Data = data

		m, err := encode(sinks.Binary, "s", &e)
		if err != nil {
			t.Fatal(err)
		}
		for key, values := range m.Header {
			if len(values) != 1 || strings.ContainsFunc(key+values[0], func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("header %q: %q can be taken for something else", key, values)
			}
		}
		decoded := map[string]string{}
		for key, values := range m.Header {
			value, err := url.PathUnescape(values[0])
			if err != nil {
				t.Fatal(err)
			}
			decoded[strings.TrimPrefix(key, "ce-")] = value
		}
		sent := plain(t, sdk(&e))
		delete(sent, "data")
		maps.DeleteFunc(sent, func(_, value string) bool { return value == "" })
		if diff := cmp.Diff(sent, decoded); diff != "" {
			t.Errorf("binary (-sent +decoded):\n%s", diff)
		}
		if !slices.Equal(m.Data, data) {
			t.Errorf("binary: data %q became %q", data, m.Data)
		}

		m, err = encode(sinks.Structured, "s", &e)
		if err != nil {
			t.Fatal(err)
		}
		var read struct{ Data json.RawMessage }
		if err := json.Unmarshal(m.Data, &read); err != nil {
			t.Fatalf("structured: %v: %q", err, m.Data)
		}
		if strings.TrimSpace(string(read.Data)) != strings.TrimSpace(string(data)) {
			t.Errorf("structured: data %q became %q", data, read.Data)
		}
		var value any
		if json.Unmarshal(data, &value) != nil {
			// A number beyond float64, which the API server lets into no
			// object: what we wrote is JSON, but the SDK's reader stumbles.
			return
		}
		var got event.Event
		if err := json.Unmarshal(m.Data, &got); err != nil {
			t.Fatalf("structured: %v: %q", err, m.Data)
		}
		want, have := plain(t, sdk(&e)), plain(t, &got)
		delete(want, "data")
		delete(have, "data")
		for name, value := range want {
			want[name] = strings.ToValidUTF8(value, "\uFFFD") // JSON cannot have the rest
			have[name] = strings.ToValidUTF8(have[name], "\uFFFD")
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("structured (-sent +decoded):\n%s", diff)
		}
	})
}
