package config

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"sort"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parse reads the file's only document, or reports why there is none.
func parse(content []byte, r *report) (*yaml.Node, bool) {
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	if at := invalidUTF8(content); at >= 0 {
		r.at(place(content[:at]), "not UTF-8: byte 0x%02X", content[at])
		return nil, false
	}
	documents, err := documents(content)
	if err != nil {
		at := breaksAt(content, err)
		r.at(place(content[:at]), "YAML syntax: %s%s", plain(err), hint(content[at:]))
		return nil, false
	}
	if len(documents) > 1 {
		r.at(originOf(documents[1]), "a second YAML document; a configuration is a single one")
		return nil, false
	}
	if len(documents) == 0 || isNull(documents[0].Content[0]) {
		r.at(origin{line: 1, column: 1}, "the file is empty; it needs at least cluster, routes and sinks")
		return nil, false
	}
	return documents[0].Content[0], true
}

func documents(content []byte) ([]*yaml.Node, error) {
	var all []*yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		n := &yaml.Node{}
		switch err := decoder.Decode(n); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, n)
	}
}

// breaksAt is the offset of the character at which the parser gives up with
// the error. The parser itself names at most a line, at times the one before,
// and never a column. But it reads from left to right: each beginning of the
// content that reaches that character gives the same error. So a quote that is
// never closed is found where it opens.
func breaksAt(content []byte, err error) int {
	same := func(length int) bool {
		_, e := documents(wholeRunes(content, length))
		return e != nil && plain(e) == plain(err)
	}
	// Lines first: cut within a line, an earlier one could fail alike.
	ends := lineEnds(content)
	line := min(sort.Search(len(ends), func(i int) bool { return same(ends[i]) }), len(ends)-1)
	start, end := 0, ends[line]
	if line > 0 {
		start = ends[line-1]
	}
	// Then back, byte by byte; each costs a parse. In a line that is too long
	// for that the place may be that of an earlier quote or bracket.
	const long = 1000
	if end-start > long {
		return len(wholeRunes(content, start+sort.Search(end-start, func(i int) bool { return same(start + i) })-1))
	}
	for end > start && same(end-1) {
		end--
	}
	return len(wholeRunes(content, end-1))
}

// lineEnds are the offsets behind each line.
func lineEnds(content []byte) []int {
	var ends []int
	at := 0
	for line := range bytes.Lines(content) {
		at += len(line)
		ends = append(ends, at)
	}
	return ends
}

// wholeRunes is the beginning of the content with at most the given length,
// not cut within a character.
func wholeRunes(content []byte, length int) []byte {
	length = max(0, length)
	for length > 0 && length < len(content) && !utf8.RuneStart(content[length]) {
		length--
	}
	return content[:length]
}

var yamlPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// plain is the parser's error without its idea of the place.
func plain(err error) string { return yamlPrefix.ReplaceAllString(err.Error(), "") }

// hint explains what the parser says of the most usual mistake.
func hint(rest []byte) string {
	if len(rest) > 0 && rest[0] == '\t' {
		return "; this is a tab: indent with spaces"
	}
	return ""
}

func invalidUTF8(content []byte) int {
	for i := 0; i < len(content); {
		r, size := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// place is the line and column of the character that follows.
func place(before []byte) origin {
	lines := lineBreak.Split(string(before), -1)
	return origin{line: len(lines), column: utf8.RuneCountInString(lines[len(lines)-1]) + 1}
}

// lineBreak is what the parser takes for one, and so what lines are counted by.
var lineBreak = regexp.MustCompile("\r\n|[\n\r\u0085\u2028\u2029]")
