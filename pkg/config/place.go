package config

import (
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/crbridge/crbridge/pkg/settings"
)

// inside is where in the file a character of the string at p is, whose line and
// column in the string are given, all from 1. It is found by reading the string
// and the file side by side: however a string is written, in quotes, as a block
// or over several lines, its characters but white space are there in order.
// What is told of white space is the place behind the character before.
//
// Where the two do not agree, as with an escape in double quotes, or the value
// is not from the file, it is the string's own place, and exact is false.
func (r *report) inside(p settings.Path, text string, line, column int) (place origin, exact bool) {
	whole := r.origin(p)
	if whole.variable != "" || !r.Written(p) {
		return whole, false
	}
	scan, ok := r.scan(whole)
	if !ok {
		return whole, false
	}
	before, at := split(text, line, column)
	place = scan.place()
	for _, c := range before {
		if unicode.IsSpace(c) {
			continue
		}
		if scan.next() != c {
			return whole, false
		}
		place = scan.place()
	}
	if at == 0 || unicode.IsSpace(at) {
		return place, true
	}
	scan.skip()
	place = scan.place()
	return place, scan.next() == at
}

// split is what is before the line and column of a text, and the character that
// is there; 0 behind the last.
func split(text string, line, column int) (before []rune, at rune) {
	lines := strings.SplitAfter(text, "\n")
	line = min(line, len(lines))
	before = []rune(strings.Join(lines[:line-1], ""))
	rest := []rune(lines[line-1])
	column = min(column, len(rest)+1)
	if column <= len(rest) {
		at = rest[column-1]
	}
	return append(before, rest[:column-1]...), at
}

// scanner reads the lines of a file as the characters of one string in it.
type scanner struct {
	lines  []string // that from which it reads, and those behind it
	line   int      // the number of the first of them
	rest   []rune   // of that
	column int      // of the first of rest
	style  yaml.Style
}

// scan begins with a string's first character.
func (r *report) scan(whole origin) (*scanner, bool) {
	s := &scanner{line: whole.line, column: 1, style: whole.style}
	if whole.line < 1 || whole.line > len(r.lines) {
		return nil, false
	}
	s.lines = r.lines[whole.line-1:]
	s.rest = []rune(s.lines[0])
	before := whole.column - 1
	switch s.style {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		return s, s.newline() // the text begins on the line behind the | or >
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle:
		before++
	}
	if before > len(s.rest) {
		return nil, false
	}
	s.rest, s.column = s.rest[before:], s.column+before
	return s, true
}

func (s *scanner) place() origin { return origin{line: s.line, column: s.column} }

func (s *scanner) newline() bool {
	if len(s.lines) < 2 {
		return false
	}
	s.lines = s.lines[1:]
	s.line, s.rest, s.column = s.line+1, []rune(s.lines[0]), 1
	return true
}

// skip goes on to what is no white space.
func (s *scanner) skip() {
	for {
		for len(s.rest) > 0 && unicode.IsSpace(s.rest[0]) {
			s.rest, s.column = s.rest[1:], s.column+1
		}
		if len(s.rest) > 0 || !s.newline() {
			return
		}
	}
}

// next reads a character of the string that is no white space; 0 behind the
// last line.
func (s *scanner) next() rune {
	s.skip()
	if len(s.rest) == 0 {
		return 0
	}
	c, width := s.rest[0], 1
	if s.style == yaml.SingleQuotedStyle && c == '\'' {
		width = min(2, len(s.rest)) // it is written twice
	}
	s.rest, s.column = s.rest[width:], s.column+width
	return c
}
