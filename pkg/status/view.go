package status

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
)

// snapshot is how the bridge was at one moment, with flows in trouble first.
type snapshot struct {
	Document
	at     time.Time
	counts map[flow.State]int
	routes []string
	notes  int // flows that are running and have something to say
}

// snapshotAge is for how long one snapshot is good for everybody who looks.
const snapshotAge = 500 * time.Millisecond

type cached struct {
	mu   sync.Mutex
	last *snapshot
}

func (b *Bridge) snapshot() *snapshot {
	b.cached.mu.Lock()
	defer b.cached.mu.Unlock()
	if s := b.cached.last; s != nil && time.Since(s.at) < snapshotAge {
		return s
	}
	s := &snapshot{Document: b.Document(), at: time.Now(), counts: map[flow.State]int{}}
	for i := range s.Flows {
		f := &s.Flows[i]
		s.counts[f.State]++
		if !slices.Contains(s.routes, f.Route) {
			s.routes = append(s.routes, f.Route)
		}
		if f.State == flow.Running && urgency(f) < calm {
			s.notes++
		}
	}
	slices.Sort(s.routes)
	slices.SortStableFunc(s.Flows, func(a, b Flow) int { return cmp.Compare(urgency(&a), urgency(&b)) }) // and else as they are: by CRD
	b.cached.last = s
	return s
}

// calm is the first urgency of flows that need nobody.
const calm = 2

// late is how long an event may wait before its flow is looked at first.
const late = 30 * time.Second

// urgency puts flows that need somebody before those that do not.
func urgency(f *Flow) int {
	switch f.State {
	case flow.Blocked, flow.Forbidden, flow.Failed:
		return 0
	case flow.Draining:
		return calm
	case flow.Starting:
		return calm + 1
	case flow.Waiting:
		return calm + 2
	case flow.Standby:
		return calm + 4
	case flow.Stopped:
		return calm + 5
	}
	if f.Reason != "" || f.LagSeconds > late.Seconds() {
		return 1
	}
	return calm + 3
}

// inTrouble is how many flows do not deliver what they should.
func (s *snapshot) inTrouble() int {
	return s.counts[flow.Blocked] + s.counts[flow.Forbidden] + s.counts[flow.Failed]
}

// perPage is how many flows one page has.
const perPage = 100

// mostQuery bounds what is looked for.
const mostQuery = 200

// query is which flows are asked for.
type query struct {
	text, route string
	state       flow.State
	page        int // from 1
}

func parseQuery(v url.Values) query {
	q := query{text: v.Get("q"), route: v.Get("route"), state: flow.State(v.Get("state")), page: 1}
	if len(q.text) > mostQuery {
		q.text = strings.ToValidUTF8(q.text[:mostQuery], "")
	}
	if !slices.Contains(flow.States(), q.state) {
		q.state = ""
	}
	if n, err := strconv.Atoi(v.Get("page")); err == nil && n > 1 {
		q.page = n
	}
	return q
}

// link is the page with these flows.
func (q query) link() string {
	v := url.Values{}
	for key, value := range map[string]string{"q": q.text, "route": q.route, "state": string(q.state)} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if q.page > 1 {
		v.Set("page", strconv.Itoa(q.page))
	}
	if len(v) == 0 {
		return "/"
	}
	return "/?" + v.Encode()
}

// terms are the words that are looked for, in lower case.
type terms []string

func newTerms(text string) terms { return strings.Fields(strings.ToLower(text)) }

// matches tells whether each word is in one of the values, in whatever case.
func (all terms) matches(values ...string) bool {
	if len(all) == 0 {
		return true
	}
	for i, v := range values {
		values[i] = strings.ToLower(v)
	}
	for _, word := range all {
		if !slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, word) }) {
			return false
		}
	}
	return true
}

// filtered are the flows that are asked for, and how many there are of them on
// all pages.
func (s *snapshot) filtered(q *query) (page []Flow, total int) {
	found, wanted := []Flow{}, newTerms(q.text)
	for i := range s.Flows {
		f := &s.Flows[i]
		if (q.state == "" || f.State == q.state) && (q.route == "" || f.Route == q.route) &&
			wanted.matches(f.CRD, f.Route, f.Sink, string(f.State), f.Reason) {
			found = append(found, *f)
		}
	}
	total = len(found)
	q.page = min(q.page, max(1, (total+perPage-1)/perPage))
	from := (q.page - 1) * perPage
	return found[from:min(total, from+perPage)], total
}

// view is what one reader's page shows: fields by row, and which rows its lists
// have, in their order. The row of what is in neither list is "page".
type view struct {
	Rows  map[string]fields   `json:"rows,omitempty"`
	Lists map[string][]string `json:"lists,omitempty"`
}

// view is what the page shows of the flows that are asked for.
func (b *Bridge) view(q query) *view {
	s := b.snapshot()
	flows, total := s.filtered(&q)
	v := &view{Rows: map[string]fields{"page": s.pageFields(q, len(flows), total)}, Lists: map[string][]string{"flows": {}, "sinks": {}}}
	for i := range flows {
		f := &flows[i]
		row := "f:" + f.CRD + "|" + f.Route + "|" + f.Sink
		v.Rows[row] = b.flowFields(f)
		v.Lists["flows"] = append(v.Lists["flows"], row)
	}
	for i := range s.Sinks {
		row := "s:" + s.Sinks[i].Name
		v.Rows[row] = s.Sinks[i].fields()
		v.Lists["sinks"] = append(v.Lists["sinks"], row)
	}
	return v
}

// since is what of a view differs from one before it; nil where nothing does.
// What was a field then is one now, as rows of a list have the same.
func (v *view) since(before *view) *view {
	if before == nil {
		return v
	}
	d := &view{Rows: map[string]fields{}, Lists: map[string][]string{}}
	for row, now := range v.Rows {
		then, known := before.Rows[row]
		if !known {
			d.Rows[row] = now
			continue
		}
		for name, value := range now {
			if then[name] != value {
				if d.Rows[row] == nil {
					d.Rows[row] = fields{}
				}
				d.Rows[row][name] = value
			}
		}
	}
	for list, now := range v.Lists {
		if !slices.Equal(now, before.Lists[list]) {
			d.Lists[list] = now
		}
	}
	if len(d.Rows) == 0 && len(d.Lists) == 0 {
		return nil
	}
	return d
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// headline says in a sentence how the bridge is.
func (s *snapshot) headline() string {
	trouble, flows := s.inTrouble(), len(s.Flows)
	switch {
	case s.Role == "standby":
		return "This bridge stands by"
	case flows == 0:
		return "No route has a flow"
	case trouble > 0 && trouble == flows:
		return counted(trouble, "flow") + " in trouble"
	case trouble > 0:
		return fmt.Sprintf("%s of %s in trouble", count(trouble), counted(flows, "flow"))
	}
	for _, sink := range s.Sinks {
		if !sink.Connected || sink.LastError != "" {
			return "Sink " + sink.Name + " is in trouble"
		}
	}
	switch running := s.counts[flow.Running]; {
	case s.notes > 0:
		return fmt.Sprintf("%s: %s running, %s with a remark", counted(flows, "flow"), count(running), count(s.notes))
	case running == flows && flows == 1:
		return "The flow is running"
	case running == flows:
		return "All " + counted(flows, "flow") + " are running"
	default:
		return fmt.Sprintf("%s of %s running, none in trouble", count(running), counted(flows, "flow"))
	}
}

// pageFields are those of the page itself.
func (s *snapshot) pageFields(q query, shown, total int) fields {
	f := fields{
		"headline": s.headline(), "mood": "well", "title": "crbridge " + s.Cluster,
		"role": s.Role, "leader": s.Leader, "loaded": stamp(s.Configuration.LoadedAt), "error": s.Configuration.Error, "crds": s.CRDError,
		"restart": strings.Join(s.Configuration.RestartNeeded, ", "), "warnings": strings.Join(s.Configuration.Warnings, "\n"),
	}
	if trouble := s.inTrouble(); trouble > 0 {
		f["mood"], f["title"] = "trouble", fmt.Sprintf("(%d) %s", trouble, f["title"])
	} else if strings.HasPrefix(f["headline"], "Sink") || s.Configuration.Error != "" || s.CRDError != "" {
		f["mood"] = "trouble"
	}
	chip := func(name string, state flow.State, n int) {
		to := q
		to.state, to.page = state, 1
		f["n:"+name], f["to:"+name], f["on:"+name] = "", to.link(), ""
		if q.state == state {
			f["on:"+name] = "true"
		}
		if n > 0 || (state != "" && q.state == state) {
			f["n:"+name] = count(n)
		}
	}
	chip("all", "", len(s.Flows))
	for _, state := range flow.States() {
		chip(string(state), state, s.counts[state])
	}
	from := (q.page - 1) * perPage
	switch {
	case total == 0 && len(s.Flows) == 0:
		f["found"] = "The configuration has no route, or none with a sink."
	case total == 0:
		f["found"] = "No flow is like that."
	case shown < total:
		f["found"] = fmt.Sprintf("%s to %s of %s", count(from+1), count(from+shown), counted(total, "flow"))
	case total < len(s.Flows):
		f["found"] = fmt.Sprintf("%s of %s", count(total), counted(len(s.Flows), "flow"))
	default:
		f["found"] = counted(total, "flow")
	}
	f["previous"], f["next"] = "", ""
	if q.page > 1 {
		f["previous"] = query{q.text, q.route, q.state, q.page - 1}.link()
	}
	if from+shown < total {
		f["next"] = query{q.text, q.route, q.state, q.page + 1}.link()
	}
	return f
}
