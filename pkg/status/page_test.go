package status

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
	"sigs.k8s.io/yaml"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// hostile is text that would be something else on a careless page: an element,
// the end of an attribute, a template, an entity, the end of the script and of
// preformatted text, and bytes that are no text.
const hostile = `<img src=x onerror=alert(1)>"'><script>alert(2)</script></pre></template>{{.}}&lt;b&gt;` + "\xff\x00\u2028\nevent: x\ndata: y"

// hostileBridge has that in everything that comes from outside.
func hostileBridge() *Bridge {
	h := func(what string) string { return what + hostile }
	return &Bridge{
		Cluster: h("cluster"), Leading: func() bool { return false }, Leader: func() string { return h("leader") },
		Configuration: func() Configuration {
			return Configuration{LoadedAt: time.Now(), Error: h("error"), RestartNeeded: []string{h("restart")}, Warnings: []string{h("warning")}}
		},
		Flows: func() (all []flow.Status) {
			for _, state := range flow.States() {
				all = append(all, flow.Status{
					ID: flow.ID{CRD: h("crd") + string(state), Route: h("route"), Sink: h("sink")}, Version: h("version"), State: state,
					Since: time.Now(), Reason: h("reason"), LastError: h("lastError"), Missing: &flow.Right{Group: h("group"), Resource: h("resource"), Namespace: h("ns")},
				})
			}
			return all
		},
		Sinks: func() map[string]sinks.Sink {
			return map[string]sinks.Sink{h("sink"): fixedSink{status: sinks.Status{
				Type: h("type"), LastError: h("problem"), Notes: []string{h("note")}, Batches: h("batches"), Server: h("server"),
				Stream: &sinks.Stream{Name: h("stream"), Storage: h("storage")},
			}}}
		},
		CRDs: func() error { return errors.New(h("crds")) }, Tap: &flow.Tap{},
	}
}

// elements are those that pages are made of, attributes what these have.
var (
	elements   = strings.Fields("html head meta title link script body header a span nav main h1 h2 p b code pre time section table thead tbody tr th td ul li form label input select option button details summary div svg path template")
	attributes = strings.Fields("lang charset name content rel href src defer class id role hidden value placeholder maxlength autocomplete spellcheck type action tabindex scope datetime selected aria-label aria-labelledby aria-current aria-hidden aria-pressed viewbox viewBox preserveaspectratio preserveAspectRatio d" +
		" data-row data-live data-state data-list data-copy data-f data-if data-d data-l data-s data-t data-h data-c")
)

// TestPageIsText parses pages as a browser does: whatever names, reasons and
// errors have in them, and whatever the query has, there are no elements and no
// attributes but the page's own, nothing of it is in a place that is not text,
// and each text arrives whole.
func TestPageIsText(t *testing.T) {
	q := url.Values{"q": {hostile}, "route": {hostile}, "state": {hostile}, "page": {hostile}}.Encode()
	for _, path := range []string{"/", "/?" + q, "/?state=failed&" + q, "/events", "/events?" + q} {
		answer := ask(hostileBridge().Server(), path)
		if answer.Code != http.StatusOK {
			t.Fatalf("%s: status %d", path, answer.Code)
		}
		document, err := html.Parse(strings.NewReader(answer.Body.String()))
		if err != nil {
			t.Fatal(err)
		}
		var texts strings.Builder
		for n := range document.Descendants() {
			switch n.Type {
			case html.TextNode:
				texts.WriteString(n.Data)
				if p := n.Parent.Data; p == "script" || p == "style" {
					t.Errorf("%s: there is text in a %s", path, p)
				}
			case html.ElementNode:
				checkElement(t, path, n)
			case html.CommentNode:
				t.Errorf("%s: a comment: %q", path, n.Data)
			}
		}
		// What browsers make of the bytes that are no text.
		clean := strings.NewReplacer("\xff", "\uFFFD", "\x00", "").Replace(hostile)
		for _, what := range []string{"cluster", "error", "crds", "warning", "crd", "reason", "note", "server", "stream"} {
			if path == "/" && !strings.Contains(strings.ReplaceAll(texts.String(), "\uFFFD\uFFFD", "\uFFFD"), what+clean) {
				t.Errorf("%s: the text of the %s is not there whole", path, what)
			}
		}
	}
}

func checkElement(t *testing.T, path string, n *html.Node) {
	t.Helper()
	if !slices.Contains(elements, n.Data) {
		t.Errorf("%s: an element %s", path, n.Data)
	}
	for _, a := range n.Attr {
		if !slices.Contains(attributes, a.Key) {
			t.Errorf("%s: %s has an attribute %s", path, n.Data, a.Key)
		}
		switch a.Key {
		case "href", "src", "action":
			if !strings.HasPrefix(a.Val, "/") || strings.HasPrefix(a.Val, "//") {
				t.Errorf("%s: %s leads to %q", path, n.Data, a.Val)
			}
		}
	}
}

// TestGrantIsYAML shows that the role that mends a forbidden flow is what it
// should be, whoever is refused, and that nothing in a name gets out of its place.
func TestGrantIsYAML(t *testing.T) {
	right := &flow.Right{Group: "shop.example.com", Resource: "orders"}
	const account = `orders is forbidden: User "system:serviceaccount:a:b" cannot list resource`
	for _, row := range []struct {
		why     string
		right   *flow.Right
		reason  string
		kinds   []string
		subject map[string]any
	}{
		{"a service account, everywhere", right, account,
			[]string{"ClusterRole", "ClusterRoleBinding"}, map[string]any{"kind": "ServiceAccount", "namespace": "a", "name": "b"}},
		{"in one namespace", &flow.Right{Group: "shop.example.com", Resource: "orders", Namespace: "here"}, account,
			[]string{"Role", "RoleBinding"}, map[string]any{"kind": "ServiceAccount", "namespace": "a", "name": "b"}},
		{"a user", right, `User "jane\n- x: <b>" cannot list`,
			[]string{"ClusterRole", "ClusterRoleBinding"}, map[string]any{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": `jane\n- x: <b>`}},
		{"a user with what would be YAML", right, "User \"jane\n- kind: Group\" cannot list",
			[]string{"ClusterRole", "ClusterRoleBinding"}, map[string]any{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane\n- kind: Group"}},
		{"nobody is named", right, "no",
			[]string{"ClusterRole", "ClusterRoleBinding"}, map[string]any{"kind": "ServiceAccount", "namespace": "crbridge-system", "name": "crbridge"}},
	} {
		t.Run(row.why, func(t *testing.T) {
			var kinds []string
			for document := range strings.SplitSeq(grant(row.right, row.reason), "---\n") {
				var object struct {
					Kind     string
					Subjects []map[string]any
				}
				if err := yaml.Unmarshal([]byte(document), &object); err != nil {
					t.Fatalf("%v in\n%s", err, document)
				}
				kinds = append(kinds, object.Kind)
				if object.Subjects != nil {
					if diff := cmp.Diff([]map[string]any{row.subject}, object.Subjects); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
				}
			}
			if !slices.Equal(kinds, row.kinds) {
				t.Errorf("%q, not %q", kinds, row.kinds)
			}
		})
	}
}

// manyFlows is a bridge with that many flows on ten routes, a few of them in trouble.
func manyFlows(n int) *Bridge {
	b := testBridge()
	b.Flows = func() []flow.Status {
		all := make([]flow.Status, n)
		for i := range all {
			all[i] = flow.Status{ID: flow.ID{CRD: fmt.Sprintf("kind%04d.example.com", i), Route: fmt.Sprintf("r%d", i%10), Sink: "main"}, State: flow.Running, Fenced: true}
			switch i {
			case 700:
				all[i].State, all[i].Reason = flow.Forbidden, "the bridge may not list and watch"
			case 800:
				all[i].State, all[i].Reason = flow.Blocked, "no server can be reached"
			case 900:
				all[i].Reason = "what of the ledger may be missing"
			case 950:
				all[i].State = flow.Waiting
			}
		}
		return all
	}
	return b
}

// TestFilter shows which flows the page has, by its query, and in which order.
func TestFilter(t *testing.T) {
	b := manyFlows(1000)
	for _, row := range []struct {
		why, query string
		first      []string // CRDs' numbers
		shown      int
		found      string
	}{
		{"trouble comes first, then remarks, then what waits", "", []string{"0700", "0800", "0900", "0950", "0000"}, 100, "1 to 100 of 1,000 flows"},
		{"the last page", "page=10", []string{"0898"}, 100, "901 to 1,000 of 1,000 flows"},
		{"a page that there is not", "page=99", []string{"0898"}, 100, "901 to 1,000 of 1,000 flows"},
		{"a page that is no number", "page=x", []string{"0700"}, 100, "1 to 100 of 1,000 flows"},
		{"by state", "state=blocked", []string{"0800"}, 1, "1 of 1,000 flows"},
		{"a state that there is not", "state=sad", []string{"0700"}, 100, "1 to 100 of 1,000 flows"},
		{"by route", "route=r5", []string{"0005"}, 100, "100 of 1,000 flows"},
		{"by text, in any case", "q=KIND0123", []string{"0123"}, 1, "1 of 1,000 flows"},
		{"by what the reason has", "q=server+reached", []string{"0800"}, 1, "1 of 1,000 flows"},
		{"each word has to be there", "q=kind012+r7", []string{"0127"}, 1, "1 of 1,000 flows"},
		{"none", "q=nothing", nil, 0, "No flow is like that."},
	} {
		t.Run(row.why, func(t *testing.T) {
			values, err := url.ParseQuery(row.query)
			if err != nil {
				t.Fatal(err)
			}
			v := b.view(parseQuery(values))
			if len(v.Lists["flows"]) != row.shown || v.Rows["page"]["found"] != row.found {
				t.Errorf("%d rows, %q", len(v.Lists["flows"]), v.Rows["page"]["found"])
			}
			for i, number := range row.first {
				if got := v.Rows[v.Lists["flows"][i]]["crd"]; got != "kind"+number+".example.com" {
					t.Errorf("row %d is %s, not %s", i, got, number)
				}
			}
		})
	}
}

// TestWithoutScript follows the links of the page, as people do who have no
// script: together its pages have all flows.
func TestWithoutScript(t *testing.T) {
	server := manyFlows(230).Server()
	seen := map[string]bool{}
	for next, pages := "/", 0; next != ""; pages++ {
		if pages > 3 {
			t.Fatal("there are more than three pages")
		}
		document, err := html.Parse(strings.NewReader(ask(server, next).Body.String()))
		if err != nil {
			t.Fatal(err)
		}
		next = ""
		for n := range document.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			if n.Data == "a" && attribute(n, "data-h") == "next" {
				next = attribute(n, "href")
			}
			if row := attribute(n, "data-row"); strings.HasPrefix(row, "f:") {
				seen[row] = true
			}
		}
	}
	if len(seen) != 230 {
		t.Errorf("%d flows are on the pages", len(seen))
	}
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// TestChanges shows that a page which is kept up to date is sent what has
// changed and nothing else.
func TestChanges(t *testing.T) {
	before := &view{
		Rows:  map[string]fields{"page": {"headline": "well"}, "f:a": {"state": "running", "lag": "0"}, "f:b": {"state": "running"}},
		Lists: map[string][]string{"flows": {"f:a", "f:b"}, "sinks": {}},
	}
	for _, row := range []struct {
		why       string
		now, want *view
	}{
		{"nothing", &view{Rows: before.Rows, Lists: before.Lists}, nil},
		{"one field", &view{Rows: map[string]fields{"page": before.Rows["page"], "f:a": {"state": "blocked", "lag": "0"}, "f:b": before.Rows["f:b"]}, Lists: before.Lists},
			&view{Rows: map[string]fields{"f:a": {"state": "blocked"}}, Lists: map[string][]string{}}},
		{"another order", &view{Rows: before.Rows, Lists: map[string][]string{"flows": {"f:b", "f:a"}, "sinks": {}}},
			&view{Rows: map[string]fields{}, Lists: map[string][]string{"flows": {"f:b", "f:a"}}}},
		{"a row that goes and one that comes", &view{Rows: map[string]fields{"page": before.Rows["page"], "f:a": before.Rows["f:a"], "f:c": {"state": "waiting"}},
			Lists: map[string][]string{"flows": {"f:a", "f:c"}, "sinks": {}}},
			&view{Rows: map[string]fields{"f:c": {"state": "waiting"}}, Lists: map[string][]string{"flows": {"f:a", "f:c"}}}},
	} {
		t.Run(row.why, func(t *testing.T) {
			if diff := cmp.Diff(row.want, row.now.since(before)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHistory shows what charts are made of: rates and lags of the last samples,
// of flows that there are, in little memory.
func TestHistory(t *testing.T) {
	var h history
	now := time.Unix(1e9, 0)
	f := flow.Status{ID: flow.ID{CRD: "a"}, Delivered: 100, Waited: time.Minute}
	tick := func() {
		h.sample(now, []flow.Status{f})
		now = now.Add(sampleEvery)
	}
	tick() // of before nothing is known, however much was delivered
	f.Delivered, f.Waited = 150, f.Waited+25*time.Second
	tick()
	f.Lag = 3 * time.Second
	tick()
	rate, lag := h.of(f.ID)
	if want := []float32{0, 10, 0}; !slices.Equal(rate[samples-3:], want) {
		t.Errorf("rates %v, not %v", rate[samples-3:], want)
	}
	if want := []float32{0, 0.5, 3}; !slices.Equal(lag[samples-3:], want) {
		t.Errorf("lags %v, not %v", lag[samples-3:], want)
	}
	f.Delivered, f.Waited, f.Lag = 5, 0, 0 // another flow of that name
	tick()
	if rate, _ := h.of(f.ID); rate[samples-1] != 0 || rate[samples-2] != 0 {
		t.Errorf("a flow that began anew has rates %v", rate[samples-3:])
	}
	h.sample(now, nil)
	if rate, _ := h.of(f.ID); rate != nil {
		t.Error("a flow that is gone has a history")
	}

	const flows, most = 1000, 2 << 20
	all := manyFlows(flows).Flows()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range 2 * samples {
		h.sample(now, all)
		now = now.Add(sampleEvery)
	}
	taken := heap() - before
	t.Logf("%d flows take %d KiB", flows, taken>>10)
	if taken > most {
		t.Errorf("%d flows take %d bytes, more than %d", flows, taken, most)
	}
	runtime.KeepAlive(&h)
}

// TestChart shows that a chart is as high as its largest value, and no higher
// where that is small.
func TestChart(t *testing.T) {
	for _, row := range []struct {
		why    string
		values []float32
		want   string
	}{
		{"nothing is known", nil, ""},
		{"nothing happens", []float32{0, 0, 0}, ""},
		{"the largest is as high as it is", []float32{0, 100, 50}, "M0 24h2v-24h2v12h2V24z"},
		{"what is small stays so", []float32{0.5, 0}, "M0 24v-12h2v12h2V24z"},
		{"what is very small is seen", []float32{0.0001}, "M0 24v-1h2V24z"},
	} {
		if got := chart(row.values, 1); got != row.want {
			t.Errorf("%s: %s, not %s", row.why, got, row.want)
		}
	}
}

// TestWords shows how numbers are said.
func TestWords(t *testing.T) {
	for _, row := range [][2]string{
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(1234567), "1,234,567"},
		{counted(1, "flow"), "1 flow"}, {counted(0, "flow"), "0 flows"},
		{short(0), "0"}, {short(0.01), "<0.1"}, {short(0.5), "0.5"}, {short(9.94), "9.9"}, {short(1234.6), "1,235"},
		{seconds(0), "0"}, {seconds(0.0001), "<1 ms"}, {seconds(0.25), "250 ms"}, {seconds(2.04), "2.0 s"}, {seconds(75), "1 min"},
		{age(-time.Second), "0 s"}, {age(59 * time.Second), "59 s"}, {age(119 * time.Minute), "1 h"}, {age(50 * time.Hour), "2 d"},
		{span(168 * time.Hour), "7 days"}, {span(24 * time.Hour), "1 day"}, {span(26 * time.Hour), "26h"}, {span(90 * time.Minute), "1h30m"}, {span(time.Minute), "1m"},
		{size(1), "1 byte"}, {size(1023), "1,023 bytes"}, {size(1536), "1.5 KiB"}, {size(100 << 20), "100 MiB"}, {size(100<<20 - 10), "100 MiB"}, {size(1 << 40), "1.0 TiB"},
	} {
		if row[0] != row[1] {
			t.Errorf("%q, not %q", row[0], row[1])
		}
	}
}

// TestHeaders shows what keeps a page from being more than it is.
func TestHeaders(t *testing.T) {
	server := testBridge().Server()
	for _, path := range []string{"/", "/events", "/api/status", "/metrics", styleAsset.path, scriptAsset.path, iconAsset.path} {
		answer := ask(server, path)
		if answer.Code != http.StatusOK {
			t.Errorf("%s: status %d", path, answer.Code)
		}
		h := answer.Header()
		if h.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(h.Get("Content-Security-Policy"), "default-src 'none'") || strings.Contains(h.Get("Content-Security-Policy"), "unsafe") {
			t.Errorf("%s: headers %v", path, h)
		}
		if cached := strings.Contains(h.Get("Cache-Control"), "immutable"); cached != strings.HasPrefix(path, "/assets/") {
			t.Errorf("%s: Cache-Control %q", path, h.Get("Cache-Control"))
		}
	}
	if got := ask(server, "/assets/page.css").Code; got != http.StatusNotFound {
		t.Errorf("a style without a hash: status %d", got)
	}
}

// TestStandbyAndBadConfiguration shows what the page says of the bridge itself.
func TestStandbyAndBadConfiguration(t *testing.T) {
	b := testBridge()
	b.Leading, b.Leader = func() bool { return false }, func() string { return "crbridge-abc" }
	b.Configuration = func() Configuration {
		return Configuration{LoadedAt: time.Now(), Error: "config.yaml:3:1: bad", RestartNeeded: []string{"cluster"}, Warnings: []string{"open to all"}}
	}
	body := ask(b.Server(), "/").Body.String()
	for _, text := range []string{"This bridge stands by", "crbridge-abc", "config.yaml:3:1: bad", "open to all", "<b data-f=\"restart\">cluster</b>"} {
		if !strings.Contains(body, text) {
			t.Errorf("the page does not say %q", text)
		}
	}
}
