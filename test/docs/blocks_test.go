//go:build unix

package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"
)

// top is the top of the source tree, from this package.
const top = "../.."

// block is a fenced block of commands (```sh) in a document, or of commands and
// what they print (```console).
type block struct {
	document string // path from the top of the tree
	line     int    // of its first command
	commands string
	shown    string // the ```text block that comes next, in the same section; "" without
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.document, b.line) }

// begins is the first line, by which the table names a block.
func (b block) begins() string {
	first, _, _ := strings.Cut(b.commands, "\n")
	return first
}

// blocks returns the blocks of commands of a document, in their order.
func blocks(t *testing.T, document string) []block {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(top, document))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, document, source)
}

func parse(t *testing.T, document string, source []byte) (found []block) {
	t.Helper()
	root := goldmark.DefaultParser().Parse(text.NewReader(source))
	open := false // what comes next may be what the last block prints
	err := ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if n.Kind() == ast.KindHeading {
			open = false
		}
		fenced, ok := n.(*ast.FencedCodeBlock)
		if !ok || !entering || fenced.Lines().Len() == 0 {
			return ast.WalkContinue, nil
		}
		content := string(fenced.Lines().Value(source))
		switch language := string(fenced.Language(source)); language {
		case "sh", "console":
			start := fenced.Lines().At(0).Start
			found = append(found, block{
				document: document,
				line:     1 + strings.Count(string(source[:start]), "\n"),
				commands: content,
			})
		case "text":
			if open {
				found[len(found)-1].shown = content
			}
		case "bash", "shell", "":
			// A block of commands by another name would be overlooked.
			t.Errorf("%s has a fenced block of language %q; commands are sh, and what they print is text", document, language)
		}
		open = string(fenced.Language(source)) == "sh"
		return ast.WalkContinue, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestEveryBlockIsKnown: the table has a row for each block of each document,
// and no row whose block is gone.
func TestEveryBlockIsKnown(t *testing.T) {
	used := make([]int, len(table))
	for _, document := range documents(t) {
		for _, b := range blocks(t, document) {
			i := rowOf(b)
			if i < 0 {
				t.Errorf("%s: the table of test/docs does not say what becomes of the block that begins with\n\t%s", b, b.begins())
				continue
			}
			used[i]++
			if used[i] > 1 && table[i].begins != all {
				t.Errorf("%s: two blocks begin with\n\t%s", b, b.begins())
			}
			if known := table[i].shows || table[i].unlike != ""; known != (b.shown != "") && table[i].not == "" {
				t.Errorf("%s: the table says that a block of text follows: %v; one does: %v", b, known, b.shown != "")
			}
		}
	}
	for i, r := range table {
		if used[i] == 0 {
			t.Errorf("%s has no block that begins with\n\t%s", r.document, r.begins)
		}
		if (r.not == "") == (r.until == "" && !r.ends) {
			t.Errorf("row of %s, %s: a block either is not run, for a reason, or ends, or is ended", r.document, r.begins)
		}
	}
}

// documents are all that have a row, and all others of which somebody may
// expect that their commands work.
func documents(t *testing.T) []string {
	t.Helper()
	names := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md"}
	more, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil || len(more) == 0 {
		t.Fatalf("no documents in docs: %v", err)
	}
	for _, path := range more {
		names = append(names, "docs/"+filepath.Base(path))
	}
	return names
}

func rowOf(b block) int {
	for i, r := range table {
		if r.document == b.document && (r.begins == all || r.begins == b.begins()) {
			return i
		}
	}
	return -1
}

func TestParse(t *testing.T) {
	document := "# A\n\n```sh\nfirst\n# more\n```\n\nwords\n\n```text\nshown\n```\n\n```text\nnot of it\n```\n\n- in a list:\n\n  ```sh\n  second\n  ```\n\n## B\n\n```text\nnor this\n```\n"
	got := parse(t, "x.md", []byte(document))
	want := []block{{"x.md", 4, "first\n# more\n", "shown\n"}, {"x.md", 21, "second\n", ""}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}
