// Package monitoring is a Prometheus for tests: its own parser of scrapes, its
// own storage, its own engine and its own evaluation of alert rules, with a
// clock that the test moves.
//
// What is scraped is a real process, and each sample is the answer to a request
// of its own. Only when it was taken is made up: the clock goes on by the
// interval with each scrape, however soon the next one follows. So an alert
// that has to hold for ten minutes needs twenty scrapes, and not ten minutes. A
// value that grows with time does not grow faster by that: what a test wants to
// be seen has to have happened, and then be scraped. The moments that a process
// tells, in metrics that are named ..._timestamp_seconds, are of its own clock: they
// are taken to be that of the first scrape that followed.
package monitoring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// Interval is that of scrapes and of evaluations, in the time of the clock.
const Interval = 30 * time.Second

// ParseRules reads a file of rules as `promtool check rules` does: fields that
// there are not, expressions and templates that cannot be parsed are errors.
func ParseRules(file string) (*rulefmt.RuleGroups, error) {
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, newParser(), quiet)
	return groups, errors.Join(errs...)
}

// ParseQuery reads a PromQL expression.
func ParseQuery(query string) (parser.Expr, error) { return newParser().ParseExpr(query) }

func newParser() parser.Parser { return parser.NewParser(parser.Options{}) }

var quiet = slog.New(slog.DiscardHandler)

// Target is a process that is scraped.
type Target struct {
	Labels map[string]string
	URL    string
	// Away: it is not reached, and Prometheus goes on knowing of it.
	Away bool

	series map[string]labels.Labels // that the last scrape had
}

// Pod is a target with the labels that the Prometheus Operator gives a pod's
// for a ServiceMonitor. Of replicas all but job, namespace and service differ:
// container and endpoint may in the course of an upgrade, or where a sidecar
// serves the metrics.
func Pod(namespace, name, url string) *Target {
	return &Target{URL: url, Labels: map[string]string{
		model.JobLabel: "crbridge", model.InstanceLabel: name + ":8080", "namespace": namespace, "service": "crbridge",
		"pod": name, "node": "node-of-" + name, "container": "container-of-" + name, "endpoint": "endpoint-of-" + name,
	}}
}

// Prometheus scrapes targets and evaluates rules. It is for one goroutine.
type Prometheus struct {
	db      *tsdb.DB
	engine  *promql.Engine
	groups  map[string]*rules.Group
	now     time.Time
	scrapes []moment // and before them when it began
	targets []*Target
}

// moment is one by both clocks.
type moment struct{ real, made time.Time }

// New is a Prometheus with that file of rules. It ends with the test.
func New(t testing.TB, file string, targets ...*Target) *Prometheus {
	t.Helper()
	options := tsdb.DefaultOptions()
	options.RetentionDuration = 0
	options.MinBlockDuration = int64(24 * time.Hour / time.Millisecond) // longer than any test's clock runs
	options.MaxBlockDuration = options.MinBlockDuration
	options.WALSegmentSize = -1 // nothing outlives the test
	db, err := tsdb.Open(t.TempDir(), quiet, nil, options, nil)
	if err != nil {
		t.Fatalf("storage: %v", err)
	}
	p := &Prometheus{
		db: db, targets: targets,
		engine: promql.NewEngine(promql.EngineOpts{
			Logger: quiet, MaxSamples: 10_000_000, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, Parser: newParser(),
		}),
		now: time.Now(),
	}
	p.scrapes = []moment{{p.now, p.now}}
	t.Cleanup(func() {
		if err := errors.Join(p.engine.Close(), db.Close()); err != nil {
			t.Errorf("closing the storage: %v", err)
		}
	})
	manager := rules.NewManager(&rules.ManagerOptions{
		Context: t.Context(), Logger: quiet, Parser: newParser(),
		QueryFunc: rules.EngineQueryFunc(p.engine, db), Appendable: db, Queryable: db,
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
	})
	var errs []error
	if p.groups, errs = manager.LoadGroups(Interval, labels.EmptyLabels(), "", nil, false, file); len(errs) > 0 {
		t.Fatalf("rules: %v", errors.Join(errs...))
	}
	return p
}

// Watch has it scrape one more target.
func (p *Prometheus) Watch(target *Target) { p.targets = append(p.targets, target) }

// Scrape scrapes each target once, evaluates the rules, and moves the clock on
// to the next time.
func (p *Prometheus) Scrape(ctx context.Context) error {
	for _, target := range p.targets {
		if err := p.scrape(ctx, target); err != nil {
			return fmt.Errorf("scrape of %s: %w", target.URL, err)
		}
	}
	p.scrapes = append(p.scrapes, moment{time.Now(), p.now})
	for _, group := range p.groups {
		group.Eval(ctx, p.now)
		for _, rule := range group.Rules() {
			if err := rule.LastError(); err != nil {
				return fmt.Errorf("rule %s: %w", rule.Name(), err)
			}
		}
	}
	p.now = p.now.Add(Interval)
	return nil
}

// Pass has time pass.
func (p *Prometheus) Pass(ctx context.Context, d time.Duration) error {
	for end := p.now.Add(d); p.now.Before(end); {
		if err := p.Scrape(ctx); err != nil {
			return err
		}
	}
	return nil
}

// scrape appends what the target tells, or that it tells nothing.
func (p *Prometheus) scrape(ctx context.Context, target *Target) error {
	appender := p.db.Appender(ctx)
	at := timestamp.FromTime(p.now)
	body, failed := []byte(nil), errAway
	if !target.Away {
		body, failed = fetch(ctx, target.URL)
	}
	up, series := 0.0, map[string]labels.Labels{}
	if failed == nil {
		up = 1
		if err := samples(body, func(name labels.Labels, v float64) error {
			l := labeled(name, target)
			series[l.String()] = l
			if strings.HasSuffix(name.Get(model.MetricNameLabel), "_timestamp_seconds") {
				v = p.made(v)
			}
			_, err := appender.Append(0, l, at, v)
			return err
		}); err != nil {
			return errors.Join(err, appender.Rollback())
		}
	}
	// As Prometheus does it, what is no longer told ends at once.
	for name, l := range target.series {
		if _, there := series[name]; there {
			continue
		}
		if _, err := appender.Append(0, l, at, math.Float64frombits(value.StaleNaN)); err != nil {
			return errors.Join(err, appender.Rollback())
		}
	}
	target.series = series
	if _, err := appender.Append(0, labeled(labels.FromStrings(model.MetricNameLabel, "up"), target), at, up); err != nil {
		return errors.Join(err, appender.Rollback())
	}
	return appender.Commit()
}

var errAway = errors.New("the target is away")

// made is the moment by this Prometheus' clock of one by the targets', both in
// seconds of Unix time.
func (p *Prometheus) made(seconds float64) float64 {
	told := time.UnixMicro(int64(seconds * 1e6))
	made := p.now
	if n, _ := slices.BinarySearchFunc(p.scrapes, told, func(m moment, t time.Time) int { return m.real.Compare(t) }); n < len(p.scrapes) {
		made = p.scrapes[n].made
	}
	if told.Before(p.scrapes[0].real) {
		made = made.Add(told.Sub(p.scrapes[0].real))
	}
	return float64(timestamp.FromTime(made)) / 1000
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// samples reads a scrape as Prometheus does.
func samples(body []byte, take func(labels.Labels, float64) error) error {
	p, err := textparse.New(body, "text/plain", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return err
	}
	for {
		entry, err := p.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case entry != textparse.EntrySeries:
			continue
		}
		_, _, v := p.Series()
		var l labels.Labels
		p.Labels(&l)
		if err := take(l, v); err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
	}
}

// labeled is a series as Prometheus has it of the target.
func labeled(l labels.Labels, target *Target) labels.Labels {
	b := labels.NewBuilder(l)
	for name, value := range target.Labels {
		if own := l.Get(name); own != "" {
			b.Set(model.ExportedLabelPrefix+name, own)
		}
		b.Set(name, value)
	}
	return b.Labels()
}

// Alert is one that the rules say there is.
type Alert struct {
	Name   string
	Firing bool // else it is pending
	Labels map[string]string
	// Annotations have their templates filled in.
	Annotations map[string]string
}

// Alerts are those that there are now, sorted by name.
func (p *Prometheus) Alerts() (all []Alert) {
	for _, group := range p.groups {
		for _, rule := range group.AlertingRules() {
			for _, a := range rule.ActiveAlerts() {
				all = append(all, Alert{
					Name: rule.Name(), Firing: a.State == rules.StateFiring,
					Labels: a.Labels.Map(), Annotations: a.Annotations.Map(),
				})
			}
		}
	}
	slices.SortFunc(all, func(a, b Alert) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Firing are the names of the alerts that fire, sorted, each once.
func (p *Prometheus) Firing() []string {
	names := map[string]bool{}
	for _, a := range p.Alerts() {
		if a.Firing {
			names[a.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Query evaluates an expression at the time of the last scrape, and tells how
// many series there are in the answer.
func (p *Prometheus) Query(ctx context.Context, query string) (int, error) {
	q, err := p.engine.NewInstantQuery(ctx, storage.Queryable(p.db), nil, query, p.now.Add(-Interval))
	if err != nil {
		return 0, err
	}
	defer q.Close()
	answer := q.Exec(ctx)
	if answer.Err != nil {
		return 0, answer.Err
	}
	vector, err := answer.Vector()
	return len(vector), err
}
