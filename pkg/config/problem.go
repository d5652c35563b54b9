package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/crbridge/crbridge/pkg/settings"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// File, Line and Column say where in the file it is; both count from 1,
	// columns in characters.
	File         string
	Line, Column int
	// Variable is the environment variable that it is in instead; then there
	// is no File, Line and Column.
	Variable string
	// Message names the key, the value (unless that may be a secret) and what
	// would be right.
	Message string
}

// String is the problem as one line.
func (p Problem) String() string {
	if p.Variable != "" {
		return fmt.Sprintf("environment: %s: %s", p.Variable, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Error is the error of [Load] for bad content. It holds all that is wrong, in
// the order of the file, then what is wrong in the environment.
type Error struct {
	Problems []Problem
}

// Error gives one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// origin is where a key or a value was written.
type origin struct {
	line, column int
	variable     string     // set for what comes from the environment
	style        yaml.Style // of a value that is a string
}

// report gathers the problems of one load, and knows the places of what was
// read.
type report struct {
	file     string
	values   map[settings.Path]origin // of values, in the file or in the environment
	keys     map[settings.Path]origin // of keys in the file
	faulty   map[settings.Path]bool   // what has a problem that makes its content unknown
	problems []Problem
	lines    []string // of the file
}

func newReport(file string, content []byte) *report {
	return &report{
		file:   file,
		lines:  lineBreak.Split(strings.TrimPrefix(string(content), "\ufeff"), -1),
		values: map[settings.Path]origin{},
		keys:   map[settings.Path]origin{},
		faulty: map[settings.Path]bool{},
	}
}

// at adds a problem with its place.
func (r *report) at(o origin, format string, args ...any) {
	p := Problem{Message: fmt.Sprintf(format, args...)}
	if o.variable != "" {
		p.Variable = o.variable
	} else {
		p.File, p.Line, p.Column = r.file, o.line, o.column
	}
	r.problems = append(r.problems, p)
}

// Value implements settings.Report.
func (r *report) Value(p settings.Path, format string, args ...any) {
	if r.Unknown(p) {
		return
	}
	r.at(r.origin(p), "%s: %s", p, fmt.Sprintf(format, args...))
}

// key adds a problem of the key at p itself.
func (r *report) key(p settings.Path, format string, args ...any) {
	r.at(r.keys[p], "%s: %s", p, fmt.Sprintf(format, args...))
}

// fault marks p as something whose content is not known.
func (r *report) fault(p settings.Path) { r.faulty[p] = true }

// Unknown implements settings.Report.
func (r *report) Unknown(p settings.Path) bool {
	for {
		if r.faulty[p] {
			return true
		}
		if p == "" {
			return false
		}
		p = p.Parent()
	}
}

// unknownBelow tells whether p, or anything in it or around it, was not
// understood.
func (r *report) unknownBelow(p settings.Path) bool {
	for q := range r.faulty {
		if strings.HasPrefix(string(q), string(p)+".") || strings.HasPrefix(string(q), string(p)+"[") {
			return true
		}
	}
	return r.Unknown(p)
}

// Written implements settings.Report.
func (r *report) Written(p settings.Path) bool {
	_, ok := r.values[p]
	return ok
}

func (r *report) origin(p settings.Path) origin {
	for p != "" && !r.Written(p) {
		p = p.Parent()
	}
	return r.values[p]
}

// err is nil if there is no problem.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Variable, b.Variable), // those of the file have none
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
		)
	})
	return &Error{Problems: r.problems}
}
