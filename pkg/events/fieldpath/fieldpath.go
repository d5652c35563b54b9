// Package fieldpath names fields of a Kubernetes object, as users write them:
//
//	spec.items[*].secret
//	metadata.annotations['example.com/key']
//	spec.containers[0]
//
// A path is names joined by dots. A name is letters, digits, _ and -, and
// begins with a letter or _; any other is written in brackets and quotes,
// single or double, in which a backslash stands before a quote or a backslash.
// [0] is an element of a list, counted from 0; [*] is every element of a list,
// or every value of a mapping. What a path names need not be there.
package fieldpath

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Path names fields of an object. It is immutable; the zero value names
// nothing.
type Path struct {
	steps []step
}

// step is one step into an object: by name, by index, or into everything.
type step struct {
	name  string
	index int // -1 for a name, every for [*]
}

const (
	byName = -1
	every  = -2
)

// mostIndex bounds indexes: no object has a list as long.
const mostIndex = 1 << 20

// SyntaxError says why a text is no path.
type SyntaxError struct {
	Column  int // of what is wrong, in characters from 1
	Message string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("column %d: %s", e.Column, e.Message) }

// Parse reads a path. Its error is a *SyntaxError.
func Parse(text string) (Path, error) {
	p := parser{text: text}
	path, err := p.path()
	if err != nil {
		return Path{}, err
	}
	return path, nil
}

// Must is Parse for paths that are part of a program.
func Must(text string) Path {
	p, err := Parse(text)
	if err != nil {
		panic(fmt.Sprintf("field path %q: %v", text, err))
	}
	return p
}

type parser struct {
	text string
	at   int // in bytes
}

func (p *parser) fail(at int, format string, args ...any) error {
	return &SyntaxError{Column: utf8.RuneCountInString(p.text[:at]) + 1, Message: fmt.Sprintf(format, args...)}
}

func (p *parser) path() (Path, error) {
	var path Path
	if p.text == "" {
		return path, p.fail(0, "empty; write a path, as in spec.items[*].secret")
	}
	for p.at < len(p.text) {
		s, err := p.step(len(path.steps) == 0)
		if err != nil {
			return path, err
		}
		path.steps = append(path.steps, s)
	}
	return path, nil
}

func (p *parser) step(first bool) (step, error) {
	switch c := p.text[p.at]; {
	case c == '[':
		return p.bracket()
	case c == '.' && first:
		return step{}, p.fail(p.at, "a path begins with a name, without a dot")
	case c == '.':
		p.at++
		return p.plain()
	case first:
		return p.plain()
	default:
		r, _ := utf8.DecodeRuneInString(p.text[p.at:])
		return step{}, p.fail(p.at, "%q where . or [ should be; a name with other characters than letters, digits, _ and - is written as in ['example.com/key']", r)
	}
}

func (p *parser) plain() (step, error) {
	begin := p.at
	for p.at < len(p.text) && isPlain(p.text[p.at], p.at == begin) {
		p.at++
	}
	if p.at == begin {
		return step{}, p.fail(begin, "a name should be here; one that does not begin with a letter or _ is written as in ['example.com/key']")
	}
	return step{name: p.text[begin:p.at], index: byName}, nil
}

func isPlain(c byte, first bool) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_':
		return true
	case '0' <= c && c <= '9', c == '-':
		return !first
	}
	return false
}

func (p *parser) bracket() (step, error) {
	begin := p.at
	p.at++
	var s step
	switch rest := p.text[p.at:]; {
	case strings.HasPrefix(rest, "*"):
		p.at++
		s = step{index: every}
	case rest != "" && (rest[0] == '\'' || rest[0] == '"'):
		name, err := p.quoted()
		if err != nil {
			return step{}, err
		}
		s = step{name: name, index: byName}
	default:
		digits := p.at
		for p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9' {
			p.at++
		}
		if p.at == digits {
			return step{}, p.fail(digits, "after [ comes *, a number, or a name in quotes")
		}
		n, err := strconv.Atoi(p.text[digits:p.at])
		if err != nil || n > mostIndex {
			return step{}, p.fail(digits, "%s: no list is as long; the highest index is %d", p.text[digits:p.at], mostIndex)
		}
		s = step{index: n}
	}
	if p.at >= len(p.text) || p.text[p.at] != ']' {
		return step{}, p.fail(begin, "the bracket is not closed")
	}
	p.at++
	return s, nil
}

func (p *parser) quoted() (string, error) {
	begin := p.at
	quote := p.text[begin]
	p.at++
	var name strings.Builder
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch c {
		case quote:
			if !utf8.ValidString(name.String()) {
				return "", p.fail(begin, "the name is not UTF-8")
			}
			return name.String(), nil
		case '\\':
			if p.at >= len(p.text) || (p.text[p.at] != quote && p.text[p.at] != '\\') {
				return "", p.fail(p.at-1, `a backslash stands before a quote or a backslash; for one of them write \\`)
			}
			name.WriteByte(p.text[p.at])
			p.at++
		default:
			name.WriteByte(c)
		}
	}
	return "", p.fail(begin, "the quote is not closed")
}

// String is the path in the form that Parse reads.
func (p Path) String() string {
	var b strings.Builder
	for i, s := range p.steps {
		switch {
		case s.index == every:
			b.WriteString("[*]")
		case s.index >= 0:
			fmt.Fprintf(&b, "[%d]", s.index)
		case plainName(s.name):
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.name)
		default:
			b.WriteString("['" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s.name) + "']")
		}
	}
	return b.String()
}

func plainName(name string) bool {
	for i := range len(name) {
		if !isPlain(name[i], i == 0) {
			return false
		}
	}
	return name != ""
}

// Equal tells whether both are written the same.
func (p Path) Equal(other Path) bool { return p.String() == other.String() }

// Touches tells whether there can be a field that both name, or that one names
// and is within one that the other names.
func (p Path) Touches(other Path) bool {
	for i := range min(len(p.steps), len(other.steps)) {
		a, b := p.steps[i], other.steps[i]
		switch {
		case a.index == every || b.index == every:
		case a != b:
			return false
		}
	}
	return true
}

// Covers tells whether what other names is what p names, or within it, always.
func (p Path) Covers(other Path) bool {
	if len(p.steps) > len(other.steps) {
		return false
	}
	for i, s := range p.steps {
		if s.index != every && s != other.steps[i] {
			return false
		}
	}
	return true
}
