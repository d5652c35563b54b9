//go:build unix

package faults

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/crbridge/crbridge/test/oracle"
)

// Report is what came of a run, or of several.
type Report struct {
	Seeds      []uint64
	Faults     map[string]int // by kind
	Changes    int            // versions that etcd had
	Events     int
	Coalesced  int // events that may stand for several versions
	Inferred   int // deletions that were deduced
	Suppressed int // events that were stored already when they were to be sent again
	PeakBytes  float64
	Recovery   []time.Duration
	Violations []oracle.Violation
	Logs       string // of the bridges, where there are violations, and the lives of the objects that they are about
}

func newReport(opts Options) *Report {
	return &Report{Seeds: []uint64{opts.Seed}, Faults: map[string]int{}}
}

func (r *Report) take(w *world, past oracle.Past, recording oracle.Recording, violations []oracle.Violation) {
	r.Changes, r.Violations = len(past.Versions), violations
	r.Events, r.Coalesced, r.Inferred, r.Suppressed = 0, 0, 0, 0
	for i := range recording.Messages {
		e := recording.Messages[i].Event
		if e == nil {
			continue
		}
		r.Events++
		if e.Attributes["coalesced"] != "" {
			r.Coalesced++
		}
		if e.Attributes["inferred"] != "" {
			r.Inferred++
		}
	}
	for _, b := range w.bridges {
		b.mu.Lock()
		r.PeakBytes = max(r.PeakBytes, b.peak)
		r.Suppressed += int(b.suppressed)
		b.mu.Unlock()
	}
}

// lives tell all that is known of the first objects that violations are about,
// and of the CRDs, by which one sees whose objects they were.
func lives(past oracle.Past, recording oracle.Recording, violations []oracle.Violation) string {
	var b strings.Builder
	inEtcd := func(key, uid string) {
		fmt.Fprintf(&b, "%s %s in etcd:", key, uid)
		for i := range past.Versions {
			if v := &past.Versions[i]; v.UID == uid {
				fmt.Fprintf(&b, " %d", v.Revision)
				if v.Deleted {
					b.WriteString(" deleted")
				}
			}
		}
		b.WriteString("\n")
	}
	for i := range past.Versions {
		if v := &past.Versions[i]; v.Resource == definitions && v.Created == v.Revision {
			inEtcd(v.Name, v.UID)
		}
	}
	told := map[string]bool{}
	for _, v := range violations {
		if v.UID == "" || told[v.UID] || len(told) == 10 {
			continue
		}
		told[v.UID] = true
		inEtcd(v.Key, v.UID)
		for i := range recording.Messages {
			m := &recording.Messages[i]
			if e := m.Event; e != nil && e.Attributes["uid"] == v.UID {
				fmt.Fprintf(&b, "  %d/%d %v %s %s@%s coalesced=%s inferred=%s fence=%s\n", m.Generation, m.Sequence, m.Time.Format(time.RFC3339Nano), e.Attributes["route"],
					e.Kind, e.Attributes["resourceversion"], e.Attributes["coalesced"], e.Attributes["inferred"], m.Header.Get("Nats-Expected-Last-Subject-Sequence"))
			}
		}
	}
	b.WriteString("control messages:\n")
	for i := range recording.Messages {
		if m := &recording.Messages[i]; m.Event == nil {
			fmt.Fprintf(&b, "  %d/%d %v %s %s\n", m.Generation, m.Sequence, m.Time.Format(time.RFC3339Nano), m.Subject, m.Data)
		}
	}
	return b.String()
}

// Add takes another run's report into this one.
func (r *Report) Add(o *Report) {
	r.Seeds = append(r.Seeds, o.Seeds...)
	if r.Faults == nil {
		r.Faults = map[string]int{}
	}
	for name, n := range o.Faults {
		r.Faults[name] += n
	}
	r.Changes += o.Changes
	r.Events += o.Events
	r.Coalesced += o.Coalesced
	r.Inferred += o.Inferred
	r.Suppressed += o.Suppressed
	r.PeakBytes = max(r.PeakBytes, o.PeakBytes)
	r.Recovery = append(r.Recovery, o.Recovery...)
	r.Violations = append(r.Violations, o.Violations...)
	r.Logs += o.Logs
}

// Count is how many faults there were.
func (r *Report) Count() (n int) {
	for _, count := range r.Faults {
		n += count
	}
	return n
}

func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d faults, seeds %v\n", r.Count(), r.Seeds)
	names := slices.Collect(maps.Keys(r.Faults))
	slices.SortFunc(names, func(x, y string) int { return cmp.Or(cmp.Compare(r.Faults[y], r.Faults[x]), cmp.Compare(x, y)) })
	for _, name := range names {
		fmt.Fprintf(&b, "  %5d %s\n", r.Faults[name], name)
	}
	fmt.Fprintf(&b, "%d versions in etcd, %d events in the stream, %d coalesced, %d inferred, %d duplicates suppressed\n",
		r.Changes, r.Events, r.Coalesced, r.Inferred, r.Suppressed)
	times := slices.Sorted(slices.Values(r.Recovery))
	at := func(q float64) time.Duration {
		if len(times) == 0 {
			return 0
		}
		return times[min(len(times)-1, int(q*float64(len(times))))].Round(time.Millisecond)
	}
	fmt.Fprintf(&b, "delivers again after p50 %v, p99 %v, max %v\n", at(0.5), at(0.99), at(1))
	fmt.Fprintf(&b, "peak memory of a bridge: %.1f MiB resident\n", r.PeakBytes/(1<<20))
	byProperty := map[string]int{}
	for _, v := range r.Violations {
		byProperty[v.Property]++
	}
	fmt.Fprintf(&b, "violations: %d", len(r.Violations))
	for _, property := range slices.Sorted(maps.Keys(byProperty)) {
		fmt.Fprintf(&b, ", %s %d", property, byProperty[property])
	}
	b.WriteString("\n")
	if len(r.Violations) > 0 {
		b.WriteString(oracle.Report(r.Violations))
	}
	return b.String()
}
