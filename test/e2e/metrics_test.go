//go:build unix

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/monitoring"
)

const dashboardFile = "../../deploy/monitoring/grafana-dashboard.json"

// manyStates starts a bridge with flows in most states and sinks of several
// kinds, and has happen what may, so that each metric has a series: test is the
// flow that runs.
func manyStates(t *testing.T) (*world, *bridge) {
	t.Helper()
	w := newWorld(t)
	k := w.kind
	forbidden, waiting := newKind(t, w.cp.Admin()), newKind(t, w.cp.Admin())
	k.create(t)
	forbidden.create(t)
	if _, err := w.stream.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}, MaxBytes: 1 << 20, MaxMsgs: 1000, MaxMsgSize: 8192, AllowDirect: true, AllowAtomicPublish: true,
	}); err != nil {
		t.Fatal(err)
	}
	sa, err := w.cp.ServiceAccount(t.Context(), "default", "metrics-"+strings.ReplaceAll(k.group, ".", "-"), w.rules(k, waiting))
	if err != nil {
		t.Fatal(err)
	}
	// Its sink goes only when the flow has run: one that never has reads nothing yet.
	away := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	b := startBridge(t, config{kubeconfig: sa.Kubeconfig, env: []string{"GOMEMLIMIT=400MiB"}, body: "routes:\n" + k.route("test") +
		forbidden.route("forbidden") + waiting.route("waiting") + k.route("failed", "version: v3") +
		fmt.Sprintf("  - {name: blocked, crds: [%[1]s], sinks: [away]}\n  - {name: core, crds: [%[1]s], sinks: [core], when: object.spec.nothing == 1}\n", k.name) +
		fmt.Sprintf("sinks:\n  main: {nats: {url: %[1]q, jetstream: {stream: K8S}}}\n  core: {nats: {url: %[1]q, subject: 'core.{name}'}}\n", w.nats.URL()) +
		fmt.Sprintf("  away: {nats: {url: %q, jetstream: {stream: AWAY}}}\n", away.URL())})
	for _, route := range []string{"test", "core", "blocked"} {
		b.waitState(t, k.name, route, "running")
	}
	w.kind.add(t, "large", map[string]any{"blob": strings.Repeat("x", 9000)})
	w.expect(t, "created default/large")
	b.settled(t, "test", "core", "blocked")
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.purge(t)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, route := range []string{"test", "core", "blocked"} {
		b.waitState(t, k.name, route, "running")
	}
	w.kind.set(t, "large", "size", 1)
	away.Kill()
	b.waitState(t, forbidden.name, "forbidden", "forbidden")
	b.waitState(t, waiting.name, "waiting", "waiting")
	b.waitState(t, k.name, "failed", "failed")
	w.kind.add(t, "one", nil)
	b.happened(t, "bridge_when_errors_total", "bridge_events_oversize_total", "bridge_events_unheard_total", "bridge_ledger_lost_last_timestamp_seconds")
	b.settled(t, "test", "core")
	b.waitState(t, k.name, "blocked", "blocked") // not before there is something to deliver
	eventually(t, func() error {
		if b.sum(t, "bridge_events_pending_oldest_timestamp_seconds") == 0 {
			return errors.New("nothing is pending where the sink is away")
		}
		return nil
	})
	return w, b
}

// TestMetrics: what is scraped passes promlint, is what docs/operations.md has
// in its table and no more than that says, and goes with what it is about.
func TestMetrics(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w, b := manyStates(t)
	documented := documentedMetrics(t)
	// All of it is there, promlint's rules hold for the libraries' too, and
	// there are no exceptions.
	_, body, err := get(t.Context(), b.server+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %+v, %v", problems, err)
	}
	families := b.metrics(t)
	perFlow := 0
	for name, family := range families {
		if !strings.HasPrefix(name, "bridge_") {
			if !slices.ContainsFunc(librariesMetrics, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
				t.Errorf("%s is neither the bridge's nor a library's that docs/operations.md names", name)
			}
			continue
		}
		d, there := documented[name]
		if !there {
			t.Errorf("%s is not in the table of docs/operations.md", name)
			continue
		}
		if kind := strings.ToLower(family.GetType().String()); kind != d.kind {
			t.Errorf("%s is a %s, and documented as a %s", name, kind, d.kind)
		}
		for _, m := range family.Metric {
			if diff := cmp.Diff(d.labels, slices.Sorted(maps.Keys(labelsOf(m)))); diff != "" {
				t.Errorf("labels of %s (-documented +scraped):\n%s", name, diff)
				break
			}
		}
		about := map[string]map[string]string{
			"flow": {"crd": w.kind.name, "route": "test", "sink": "main"}, "sink": {"sink": "main"}, "bridge": nil,
		}[d.per]
		got := seriesWith(family, about)
		if got > d.series || got < d.series && !d.atTimes {
			t.Errorf("%s has %d series a %s, documented are %d", name, got, d.per, d.series)
		}
		if d.per == "flow" && !d.atTimes {
			perFlow += got
		}
	}
	for name := range documented {
		if families[name] == nil {
			t.Errorf("%s is in the table of docs/operations.md, and was not scraped", name)
		}
	}
	said := regexp.MustCompile(`A flow that runs has (\d+) series`).FindStringSubmatch(fileContent(t, operationsFile))
	if len(said) != 2 || said[1] != strconv.Itoa(perFlow) {
		t.Errorf("a flow has %d series, and docs/operations.md says %q", perFlow, said)
	}

	// The flows and their sinks go, and all series with them.
	other := newKind(t, w.cp.Admin())
	b.reload(t, "routes:\n"+other.route("other")+fmt.Sprintf("sinks:\n  main: {nats: {url: %q, jetstream: {stream: K8S}}}\n", w.nats.URL()))
	eventually(t, func() error {
		for name, family := range b.metrics(t) {
			for _, m := range family.Metric {
				if l := labelsOf(m); l["crd"] != "" || l["sink"] != "" && l["sink"] != "main" {
					return fmt.Errorf("%s%v is left", name, l)
				}
			}
		}
		return nil
	})
}

// librariesMetrics are how the names of metrics begin that are not the bridge's.
var librariesMetrics = []string{"go_", "process_", "rest_client_", "controller_runtime_", "workqueue_", "certwatcher_", "leader_election_"}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, l := range m.Label {
		labels[l.GetName()] = l.GetValue()
	}
	return labels
}

// seriesWith is how many series of the family have these labels, as Prometheus
// counts them.
func seriesWith(family *dto.MetricFamily, labels map[string]string) (count int) {
	for _, m := range family.Metric {
		has := labelsOf(m)
		matches := true
		for name, value := range labels {
			matches = matches && has[name] == value
		}
		if !matches {
			continue
		}
		count++
		if m.Histogram != nil {
			count += len(m.Histogram.Bucket) + 1 // and sum and count
		}
	}
	return count
}

// documentedMetric is a row of the table in docs/operations.md.
type documentedMetric struct {
	kind    string
	labels  []string
	series  int
	per     string // flow, sink or bridge
	atTimes bool   // there may be fewer
}

func documentedMetrics(t *testing.T) map[string]documentedMetric {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `(bridge_\\w+)` \\| (\\w+)((?:; )?[^|]*) \\|.*\\| (up to )?(\\d+)(?: a (flow|sink))? \\|$")
	rows := map[string]documentedMetric{}
	for _, m := range row.FindAllStringSubmatch(fileContent(t, operationsFile), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("docs/operations.md has %s twice", m[1])
		}
		d := documentedMetric{kind: m[2], atTimes: m[4] != "", per: m[6]}
		for _, l := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[3], -1) {
			d.labels = append(d.labels, l[1])
		}
		slices.Sort(d.labels)
		if d.per == "" {
			d.per = "bridge"
		}
		d.series, _ = strconv.Atoi(m[5])
		rows[m[1]] = d
	}
	if len(rows) == 0 {
		t.Fatal("docs/operations.md has no table of metrics")
	}
	return rows
}

// TestDashboard: Prometheus understands each expression of the dashboard, the
// metrics that it names are there, and it has an answer.
func TestDashboard(t *testing.T) {
	t.Parallel() // it waits, most of the time
	expressions := dashboardExpressions(t)
	_, b := manyStates(t)
	p := monitoring.New(t, alertsFile, monitoring.Pod("crbridge-system", "crbridge-0", b.server+"/metrics"))
	if err := p.Pass(t.Context(), 10*time.Minute); err != nil {
		t.Fatal(err)
	}
	scraped := b.metrics(t)
	for title, expression := range expressions {
		query, err := monitoring.ParseQuery(expression)
		if err != nil {
			t.Errorf("%s: %v", title, err)
			continue
		}
		parser.Inspect(query, func(node parser.Node, _ []parser.Node) error {
			if call, is := node.(*parser.Call); is && call.Func.Name == "increase" {
				t.Errorf("%s: there is no increase in what was counted before the first scrape: %s", title, call)
			}
			if selector, is := node.(*parser.VectorSelector); is {
				if name := strings.TrimSuffix(selector.Name, "_bucket"); scraped[name] == nil {
					t.Errorf("%s: there is no metric %s", title, selector.Name)
				}
			}
			return nil
		})
		if n, err := p.Query(t.Context(), expression); err != nil || n == 0 {
			t.Errorf("%s: %d series, %v: %s", title, n, err, expression)
		}
	}
	// The test would notice a query that has no answer.
	if n, err := p.Query(t.Context(), `bridge_flows{state="none"}`); err != nil || n != 0 {
		t.Errorf("of a state that there is not: %d series, %v", n, err)
	}
}

// dashboardExpressions are those of all panels, as Grafana sends them to
// Prometheus when nothing is selected.
func dashboardExpressions(t *testing.T) map[string]string {
	t.Helper()
	var dashboard struct {
		Templating struct{ List []struct{ Name string } }
		Panels     []struct {
			ID          int
			Type, Title string
			Targets     []struct{ RefID, Expr string }
		}
	}
	content, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	replace := []string{"$__rate_interval", "2m"}
	for _, variable := range dashboard.Templating.List {
		replace = append(replace, "$"+variable.Name, ".*")
	}
	expressions, ids := map[string]string{}, map[int]bool{}
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] {
			t.Errorf("%s: two panels have id %d", dashboardFile, panel.ID)
		}
		ids[panel.ID] = true
		if len(panel.Targets) == 0 && panel.Type != "row" {
			t.Errorf("%s: %s shows nothing", dashboardFile, panel.Title)
		}
		for _, target := range panel.Targets {
			expression := strings.NewReplacer(replace...).Replace(target.Expr)
			if strings.Contains(expression, "$") {
				t.Errorf("%s: %s: a variable that there is not: %s", dashboardFile, panel.Title, expression)
			}
			expressions[fmt.Sprintf("%d %s %s", panel.ID, panel.Title, target.RefID)] = expression
		}
	}
	if len(expressions) < 20 {
		t.Fatalf("%s has %d expressions", dashboardFile, len(expressions))
	}
	return expressions
}
