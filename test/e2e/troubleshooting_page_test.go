//go:build unix

package e2e_test

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the bridge and kubectl print into docs/troubleshooting.md, instead of comparing it")

// troubleshooting is the page, seen from this package's folder.
const troubleshooting = "../../docs/troubleshooting.md"

// page is a document in which blocks of output are what a test has seen:
//
//	<!-- output: NAME -->
//	```console
//	$ command
//	what it prints
//	```
type page struct {
	mu    sync.Mutex
	text  string
	shown map[string]bool
}

var outputs = regexp.MustCompile("(?s)<!-- output: ([a-z/-]+) -->\n```console\n(.*?)```\n")

func readPage(t *testing.T) *page {
	t.Helper()
	content, err := os.ReadFile(troubleshooting)
	if err != nil {
		t.Fatal(err)
	}
	return &page{text: string(content), shown: map[string]bool{}}
}

// output compares a block with what was seen, or takes it.
func (p *page) output(t *testing.T, name, command, printed string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown[name] = true
	seen := "$ " + command + "\n" + strings.TrimSuffix(printed, "\n") + "\n"
	for _, at := range outputs.FindAllStringSubmatchIndex(p.text, -1) {
		if p.text[at[2]:at[3]] != name {
			continue
		}
		if *update {
			p.text = p.text[:at[4]] + seen + p.text[at[5]:]
		} else if diff := cmp.Diff(p.text[at[4]:at[5]], seen); diff != "" {
			t.Errorf("docs/troubleshooting.md, %s (-documented +seen); go test -run TestTroubleshooting ./e2e -update takes it over:\n%s", name, diff)
		}
		return
	}
	t.Errorf("docs/troubleshooting.md has no block %s for\n%s", name, seen)
}

// done writes the page where it was to be updated, and finds blocks that
// nothing was compared with.
func (p *page) done(t *testing.T) {
	t.Helper()
	for _, block := range outputs.FindAllStringSubmatch(p.text, -1) {
		if !p.shown[block[1]] {
			t.Errorf("docs/troubleshooting.md has a block %s, which no test makes", block[1])
		}
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(troubleshooting, []byte(p.text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
