// Package settingstest has what tests of settings need.
package settingstest

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/crbridge/crbridge/pkg/settings"
)

// Problems are what was reported, a line each. Nothing counts as written.
type Problems []string

// Value implements settings.Report.
func (p *Problems) Value(at settings.Path, format string, args ...any) {
	*p = append(*p, string(at)+": "+fmt.Sprintf(format, args...))
}

// Written implements settings.Report.
func (p *Problems) Written(settings.Path) bool { return false }

// Unknown implements settings.Report.
func (p *Problems) Unknown(settings.Path) bool { return false }

// Valid tells whether nothing is reported.
func Valid(validate func(settings.Report)) bool {
	var p Problems
	validate(&p)
	return len(p) == 0
}

// Agree holds texts made of the pieces against the form and against the
// validator: what is valid has the form, and where it is exact, nothing else has.
func Agree(t *testing.T, f settings.Form, pieces []string, exact bool, valid func(string) bool) {
	t.Helper()
	pattern, never := f.Regexp(), regexp.MustCompile(`^`+f.Never)
	takes := func(text string) bool {
		return pattern.MatchString(text) && (f.Longest == 0 || len([]rune(text)) <= f.Longest) && (f.Never == "" || !never.MatchString(text))
	}
	random := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 20000 {
		var b strings.Builder
		for range random.IntN(7) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		text := b.String()
		is := valid(text)
		if is {
			found++
		}
		if is && !takes(text) || exact && !is && takes(text) {
			t.Errorf("%q: valid: %t, by the form: %t", text, is, takes(text))
		}
	}
	if found < 50 {
		t.Errorf("only %d texts were valid", found)
	}
	if f.Title == "" {
		t.Error("the form has no title")
	}
}
