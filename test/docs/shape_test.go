//go:build unix

package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

// What differs from run to run: numbers, times and ports among them, names of
// temporary folders, the UUIDs of objects, and who orders what in the demo, which
// goes by how many ticks a machine makes of 30 s.
var (
	uuids   = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	scratch = regexp.MustCompile(`[^\s'"=]*/crbridge-(demo-)?\d+`)
	commits = regexp.MustCompile(`\b[0-9a-f]{7,40}\b`)
	people  = regexp.MustCompile(`\b(Ada|Grace|Edsger|Barbara|Leslie|Radia)\b`)
	goods   = regexp.MustCompile(`\b(tea|coffee|cocoa|honey|rice)\b`)
	numbers = regexp.MustCompile(`\d+`)
	spaces  = regexp.MustCompile(`\s+`)
)

// shape is a line of output without what differs from run to run.
func shape(line string) string {
	line = uuids.ReplaceAllString(line, "UUID")
	line = scratch.ReplaceAllString(line, "FOLDER")
	line = commits.ReplaceAllString(line, "N")
	line = people.ReplaceAllString(line, "NAME")
	line = goods.ReplaceAllString(line, "ITEM")
	line = numbers.ReplaceAllString(line, "N")
	return strings.TrimSpace(spaces.ReplaceAllString(line, " "))
}

// missing are the lines that a document shows and that were not printed, in
// any order. A line that is "…" stands for any number of others, and one that
// ends so for every line that begins with it.
func missing(shown, printed string) []string {
	have := map[string]bool{}
	for line := range strings.Lines(printed) {
		have[shape(line)] = true
	}
	var lines []string
	for line := range strings.Lines(shown) {
		want := shape(line)
		begin, open := strings.CutSuffix(want, "…")
		found := want == "" || have[want]
		for line := range have {
			found = found || open && strings.HasPrefix(line, begin)
		}
		if !found {
			lines = append(lines, strings.TrimRight(line, "\n"))
		}
	}
	return lines
}

func TestMissing(t *testing.T) {
	printed := "==> Running /tmp/x/crbridge-demo-17/b.yaml\n00:56:16  created  order-0007   212\nok  \ta/b\t(cached)\nid: a3deb549-75ce-4540-a517-6b99d98e17b2.7.x\n"
	for _, row := range []struct {
		reason, shown string
		missing       int
	}{
		{"numbers, times, folders and spaces differ", "==> Running /tmp/crbridge-demo-1/b.yaml\n01:00:00 created order-0001 5\n", 0},
		{"ids differ", "id: 00000000-0000-4000-8000-000000000000.9.x\n", 0},
		{"lines are left out", "…\nok  \ta/b…\n…\n\n", 0},
		{"another word", "01:00:00 updated order-0001 5\n", 1},
		{"another word, and all else left out", "fail …\n", 1},
	} {
		if got := missing(row.shown, printed); len(got) != row.missing {
			t.Errorf("%s: missing %q, want %d lines", row.reason, got, row.missing)
		}
	}
}
