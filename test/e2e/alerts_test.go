//go:build unix

package e2e_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/crbridge/crbridge/test/monitoring"
)

const (
	alertsFile     = "../../deploy/monitoring/alerts.yaml"
	operationsFile = "../../docs/operations.md"
)

// TestAlertRules: each rule says what an operator needs, and its runbook is there.
func TestAlertRules(t *testing.T) {
	groups, err := monitoring.ParseRules(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	operations := fileContent(t, operationsFile)
	const runbooks = "https://github.com/crbridge/crbridge/blob/main/docs/operations.md#"
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			if s := rule.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity is %q", rule.Alert, s)
			}
			for _, key := range []string{"summary", "description"} {
				if rule.Annotations[key] == "" {
					t.Errorf("%s has no %s", rule.Alert, key)
				}
			}
			expr, err := monitoring.ParseQuery(rule.Expr)
			if err != nil {
				t.Fatal(err)
			}
			parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
				if a, is := node.(*parser.AggregateExpr); is && a.Without {
					t.Errorf("%s keeps whatever labels a target has besides these: %s", rule.Alert, a)
				}
				return nil
			})
			// As GitHub makes an anchor of a heading of one word.
			if got, want := rule.Annotations["runbook_url"], runbooks+strings.ToLower(rule.Alert); got != want {
				t.Errorf("%s: runbook_url is %q, not %q", rule.Alert, got, want)
			}
			if !regexp.MustCompile(`(?m)^### ` + rule.Alert + `$`).MatchString(operations) {
				t.Errorf("%s has no heading of its own in %s", rule.Alert, operationsFile)
			}
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (CRBridge\w+)$`).FindAllStringSubmatch(operations, -1) {
		if !slices.Contains(alertNames(t), heading[1]) {
			t.Errorf("%s has a runbook for %s, and there is no such alert", operationsFile, heading[1])
		}
	}
}

func fileContent(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func alertNames(t *testing.T) (names []string) {
	t.Helper()
	groups, err := monitoring.ParseRules(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			names = append(names, rule.Alert)
		}
	}
	return names
}

// observer is a Prometheus that a scenario looks at.
type observer struct {
	*monitoring.Prometheus
	targets []*monitoring.Target
	fired   func(names []string)
}

// observe has a Prometheus scrape the bridges, as the replicas of one
// installation in Kubernetes.
type observe func(t *testing.T, bridges ...*bridge) *observer

// away says whether the bridges cannot be reached.
func (o *observer) away(away bool) {
	for _, target := range o.targets {
		target.Away = away
	}
}

// fires tells whether such an alert fires with that label.
func (o *observer) fires(name, label, value string) bool {
	return slices.ContainsFunc(o.Alerts(), func(a monitoring.Alert) bool { return a.Firing && a.Name == name && a.Labels[label] == value })
}

// hold fails the test where one of these does not fire all that time.
func (o *observer) hold(t *testing.T, d time.Duration, names ...string) {
	t.Helper()
	for passed := time.Duration(0); passed < d; passed += monitoring.Interval {
		if err := o.Scrape(t.Context()); err != nil {
			t.Fatal(err)
		}
		firing := o.Firing()
		for _, name := range names {
			if !slices.Contains(firing, name) {
				t.Fatalf("after %v %s does not fire any more: %+v", passed, name, o.Alerts())
			}
		}
	}
}

// fire scrapes until just these alerts fire, and fails the test where they do
// not within some hours of Prometheus' clock. Without names none does any more.
func (o *observer) fire(t *testing.T, want ...string) {
	t.Helper()
	slices.Sort(want)
	for passed := time.Duration(0); ; passed += monitoring.Interval {
		if err := o.Scrape(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := o.Firing()
		if slices.Equal(want, got) {
			break
		}
		if passed > 3*time.Hour {
			t.Fatalf("after %v these fire: %q, not %q; all there are: %+v", passed, got, want, o.Alerts())
		}
	}
	o.fired(want)
	told := map[string]bool{}
	for _, a := range o.Alerts() {
		if !slices.Contains(perBridge, a.Name) {
			about := fmt.Sprint(a.Name, a.Labels["namespace"], a.Labels["crd"], a.Labels["route"], a.Labels["sink"])
			if told[about] {
				t.Errorf("%s is there twice: %+v", a.Name, o.Alerts())
			}
			told[about] = true
		}
		for _, label := range []string{"node", "container", "endpoint"} {
			if a.Labels[label] != "" {
				t.Errorf("%s has the label %s, which is another where the flow goes on", a.Name, label)
			}
		}
		for key, text := range a.Annotations {
			if strings.Contains(text, "<no value>") || strings.Contains(text, "error expanding") || strings.Contains(text, "  ") {
				t.Errorf("%s of %s: %q", key, a.Name, text)
			}
		}
	}
}

// perBridge are the alerts that each bridge has for itself.
var perBridge = []string{"CRBridgeSinkDown"}

// calm fails the test where an alert fires, or is about to, in an hour.
func (o *observer) calm(t *testing.T) {
	t.Helper()
	for range time.Hour / monitoring.Interval {
		if err := o.Scrape(t.Context()); err != nil {
			t.Fatal(err)
		}
		if alerts := o.Alerts(); len(alerts) > 0 {
			t.Fatalf("nothing is wrong, and there are alerts: %+v", alerts)
		}
	}
}

// TestAlerts makes each alert fire by what it is for, on bridges that run, and
// shows that none fires before that and all are resolved when it is mended.
// Prometheus' clock runs ahead of ours, see package monitoring.
func TestAlerts(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	var mu sync.Mutex
	fired := map[string]bool{}
	scenarios := map[string]func(*testing.T, observe){
		"the sink is down":              sinkDown,
		"the stream fills up":           streamFills,
		"before the first scrape":       beforeTheFirstScrape,
		"the bridges and their ledger":  bridgesAndLedger,
		"unscraped for some minutes":    unscraped,
		"CRDs that come and go":         flappingCRDs,
		"no leader":                     noLeader,
		"rights, versions, a bad file":  rightsAndVersions,
		"a CRD that does not go":        stuckCRD,
		"what restarts and lists again": restartsAndResyncs,
	}
	var ran atomic.Int64
	observe := func(t *testing.T, bridges ...*bridge) *observer {
		var targets []*monitoring.Target
		for i, b := range bridges {
			targets = append(targets, monitoring.Pod("crbridge-system", fmt.Sprint("crbridge-", i), b.server+"/metrics"))
		}
		return &observer{
			Prometheus: monitoring.New(t, alertsFile, targets...), targets: targets,
			fired: func(names []string) {
				mu.Lock()
				defer mu.Unlock()
				for _, name := range names {
					fired[name] = true
				}
			},
		}
	}
	t.Cleanup(func() { // the subtests are over then
		if ran.Load() < int64(len(scenarios)) {
			return // some have failed, or were not asked for
		}
		for _, name := range alertNames(t) {
			if !fired[name] {
				t.Errorf("%s has never fired", name)
			}
		}
	})
	for name, scenario := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scenario(t, observe)
			ran.Add(1)
		})
	}
}

// sum is that of all series of a counter or gauge.
func (b *bridge) sum(t *testing.T, name string) (sum float64) {
	t.Helper()
	for _, m := range b.metrics(t)[name].GetMetric() {
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// happened waits until each of these counters has counted.
func (b *bridge) happened(t *testing.T, counters ...string) {
	t.Helper()
	eventually(t, func() error {
		for _, name := range counters {
			if b.sum(t, name) == 0 {
				return fmt.Errorf("%s is 0", name)
			}
		}
		return nil
	})
}

// settled waits until the flows of these routes, or all, run and nothing is
// pending.
func (b *bridge) settled(t *testing.T, routes ...string) {
	t.Helper()
	eventually(t, func() error {
		for _, f := range b.status(t).Flows {
			if len(routes) > 0 && !slices.Contains(routes, f.Route) {
				continue
			}
			if f.State != "running" || f.Pending > 0 {
				return fmt.Errorf("%+v", f)
			}
		}
		return nil
	})
}
