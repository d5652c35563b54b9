//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// column is whose value it is.
type column int

const (
	none column = iota
	ofBridge
	ofStock
	ofLimit // what reads or writes and does nothing else
)

// sample has a value of each round.
type sample []float64

func (s sample) sorted() sample { return slices.Sorted(slices.Values(s)) }

func (s sample) median() float64 {
	sorted, n := s.sorted(), len(s)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// quantile is the smallest value that at least this part of all is not above.
func (s sample) quantile(q float64) float64 {
	sorted := s.sorted()
	return sorted[max(0, min(len(sorted)-1, ceil(q*float64(len(sorted)))-1))]
}

func ceil(f float64) int {
	n := int(f)
	if float64(n) < f {
		n++
	}
	return n
}

// over are the ratios of the rounds. What was not measured in the same number of
// rounds has no ratio.
func (s sample) over(other sample) sample {
	if len(s) != len(other) {
		return nil
	}
	ratios := make(sample, len(s))
	for i := range s {
		ratios[i] = s[i] / other[i]
	}
	return ratios
}

// figure is something that is measured.
type figure struct {
	section section
	name    string
	unit    string
	digits  int    // behind the point
	at      string // what it depends on: objects, CRDs, events/s; empty where it is measured once
	limit   string // what the column of the limit is
	goals   []goal
}

// goal bounds the bridge's value, by itself or as a ratio.
type goal struct {
	at      int // where the figure depends on something, there alone; 0 is anywhere
	against column
	atLeast bool // else at most
	bound   float64
}

// row is a figure at one place.
type row struct {
	figure *figure
	at     int
	of     map[column]sample
}

// sheet is all that was measured, in the order in which it was begun.
type sheet struct{ rows []*row }

func (s *sheet) row(f *figure, at int) *row {
	for _, r := range s.rows {
		if r.figure == f && r.at == at {
			return r
		}
	}
	r := &row{figure: f, at: at, of: map[column]sample{}}
	s.rows = append(s.rows, r)
	return r
}

// add notes a round's value.
func (s *sheet) add(f *figure, at int, of column, value float64) {
	r := s.row(f, at)
	r.of[of] = append(r.of[of], value)
}

// ratio is that of the bridge's values to those of another.
func (r *row) ratio(to column) sample { return r.of[ofBridge].over(r.of[to]) }

// goals are those that hold here.
func (r *row) goals() (here []goal) {
	for _, g := range r.figure.goals {
		if g.at == 0 || g.at == r.at {
			here = append(here, g)
		}
	}
	return here
}

// compared is the sample that a goal bounds.
func (r *row) compared(g goal) sample {
	if g.against == none {
		return r.of[ofBridge]
	}
	return r.ratio(g.against)
}

// met says whether the median of the rounds is within the goal. What was not
// measured is not.
func (r *row) met(g goal) bool {
	values := r.compared(g)
	if len(values) == 0 {
		return false
	}
	if g.atLeast {
		return values.median() >= g.bound
	}
	return values.median() <= g.bound
}

// missed are the goals that are not met, in words.
func (s *sheet) missed() (words []string) {
	for _, r := range s.rows {
		for _, g := range r.goals() {
			if !r.met(g) {
				words = append(words, fmt.Sprintf("%s: %s, and the goal is %s", r.title(), r.spread(g), r.words(g)))
			}
		}
	}
	return words
}

// title is the figure's name, and where it was measured.
func (r *row) title() string {
	if r.figure.at == "" {
		return r.figure.name
	}
	return fmt.Sprintf("%s, %s %s", r.figure.name, thousands(r.at), r.figure.at)
}

// words is a goal as a reader sees it.
func (r *row) words(g goal) string {
	sign := "≤"
	if g.atLeast {
		sign = "≥"
	}
	switch g.against {
	case ofStock:
		return fmt.Sprintf("%s %g × stock", sign, g.bound)
	case ofLimit:
		return fmt.Sprintf("%s %g × %s", sign, g.bound, r.figure.limit)
	default:
		return strings.TrimSpace(fmt.Sprintf("%s %g %s", sign, g.bound, r.figure.unit))
	}
}

// spread is what a goal compares, in words.
func (r *row) spread(g goal) string {
	if g.against == none {
		return strings.TrimSpace(spread(r.of[ofBridge], r.figure.digits) + " " + r.figure.unit)
	}
	return spread(r.compared(g), 2)
}

// spread is a median, and between which values it lies.
func spread(s sample, digits int) string {
	if len(s) == 0 {
		return ""
	}
	sorted := s.sorted()
	if len(s) == 1 {
		return number(s[0], digits)
	}
	return fmt.Sprintf("%s (%s to %s)", number(s.median(), digits), number(sorted[0], digits), number(sorted[len(sorted)-1], digits))
}

func number(f float64, digits int) string {
	if math.IsInf(f, 0) || math.IsNaN(f) { // beside something that was not there at all
		return "–"
	}
	whole, fraction, _ := strings.Cut(fmt.Sprintf("%.*f", digits, f), ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		fraction = "." + fraction
	}
	return sign + whole + fraction
}

func thousands(n int) string { return number(float64(n), 0) }
