//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReport(t *testing.T) {
	s := &sheet{}
	for round := range 3 {
		r := float64(round)
		s.add(drainCPU, 0, ofLimit, 10+r)
		s.add(drainCPU, 0, ofStock, 200+r)
		s.add(drainCPU, 0, ofBridge, 50+r)
		s.add(flowsMemory, 1000, ofBridge, 160)
	}
	got := s.report(about{
		date: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC), machine: "2 × CPU", versions: "bridge v1",
		options: options{objects: 20000, size: 2048, rounds: 3},
	})
	want := `2026-11-28 on 2 × CPU.
bridge v1.
Objects of 2,048 bytes; medians of 3 rounds (least to most), with 3 drains in each.

**Catching up with a backlog: 20,000 objects change once while the process is stopped**

|                          | bridge              | stock informer         | bridge / stock      | limit                          | bridge / limit      | goal                |
| ------------------------ | ------------------- | ---------------------- | ------------------- | ------------------------------ | ------------------- | ------------------- |
| CPU per event, drain, µs | 51.0 (50.0 to 52.0) | 201.0 (200.0 to 202.0) | 0.25 (0.25 to 0.26) | raw watch: 11.0 (10.0 to 12.0) | 4.64 (4.33 to 5.00) | ≤ 0.25 × stock: **missed** |

**Many CRDs without objects, a flow of each**

|                               | bridge           | goal                     |
| ----------------------------- | ---------------- | ------------------------ |
| memory, idle, 1,000 CRDs, MiB | 160 (160 to 160) | ≤ 150 MiB: **missed** |
`
	if diff := cmp.Diff(unpadded(want), unpadded(got)); diff != "" {
		t.Error(diff)
	}
	for table := range strings.SplitSeq(got, "\n\n") {
		width := -1
		for line := range strings.Lines(table) {
			if !strings.HasPrefix(line, "|") {
				continue
			}
			n := len([]rune(strings.TrimSpace(line)))
			if width >= 0 && n != width {
				t.Errorf("the table is not straight:\n%s", table)
				break
			}
			width = n
		}
	}
}

// unpadded is a text with one space where there are several, and short rules.
func unpadded(text string) string {
	for _, double := range []string{"  ", "----"} {
		for strings.Contains(text, double) {
			text = strings.ReplaceAll(text, double, double[1:])
		}
	}
	return text
}

func TestSplice(t *testing.T) {
	for _, test := range []struct {
		why, before, want string
	}{
		{"what was there is replaced", "a\n" + docBegin + "old\n" + docEnd + "b\n", "a\n" + docBegin + "\nnew\n\n" + docEnd + "b\n"},
		{"the first time nothing is there", docBegin + docEnd, docBegin + "\nnew\n\n" + docEnd},
		{"without its lines the document is left alone", "a\n", ""},
		{"twice is not clear", docBegin + docEnd + docBegin + docEnd, ""},
		{"the end before the beginning", docEnd + docBegin, ""},
	} {
		t.Run(test.why, func(t *testing.T) {
			got, err := splice(test.before, "\nnew\n")
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v, want %q", got, err, test.want)
			}
			if err != nil {
				return
			}
			if again, err := splice(got, "new"); err != nil || again != got {
				t.Errorf("the same text makes it %q, %v", again, err)
			}
		})
	}
}

// full is a sheet that has what all plots want.
func full(rounds int) *sheet {
	s := &sheet{}
	for _, p := range plots() {
		for _, panel := range p.panels {
			for _, at := range []int{100, 300, 1000} {
				for round := range rounds {
					s.add(panel.figure, at, ofBridge, float64(at*(10+round))/100)
					s.add(panel.figure, at, ofStock, float64(at*(80+round))/100)
				}
			}
		}
	}
	return s
}

func TestPlots(t *testing.T) {
	for _, p := range plots() {
		t.Run(p.name, func(t *testing.T) {
			svg, err := full(3).draw(p)
			if err != nil {
				t.Fatal(err)
			}
			elements := map[string]int{}
			for decoder := xml.NewDecoder(strings.NewReader(svg)); ; {
				token, err := decoder.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("no XML: %v\n%s", err, svg)
				}
				if start, is := token.(xml.StartElement); is {
					elements[start.Name.Local]++
				}
			}
			// Of two panels with two lines of three points each; the legend has a mark
			// of each line too, and the page is a rect.
			want := map[string]int{"polyline": 4, "circle": 2 * (3 + 1), "rect": 2*(3+1) + 1}
			for name, n := range want {
				if elements[name] != n {
					t.Errorf("%d of %s, want %d", elements[name], name, n)
				}
			}
			for _, panel := range p.panels {
				for _, words := range []string{panel.title, panel.x, panel.figure.unit} {
					if !strings.Contains(svg, ">"+escaped(words)+"</text>") {
						t.Errorf("nothing says %q", words)
					}
				}
			}
			if _, err := (&sheet{}).draw(p); err == nil {
				t.Error("a plot of nothing")
			}
		})
	}
}

func TestScale(t *testing.T) {
	for _, test := range []struct {
		why   string
		most  float64
		ticks []float64
	}{
		{"a round number is the end", 100, []float64{0, 20, 40, 60, 80, 100}},
		{"else the next one is", 1430, []float64{0, 500, 1000, 1500}},
		{"below one", 0.31, []float64{0, 0.1, 0.2, 0.3, 0.4}},
		{"nothing has an axis too", 0, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}},
	} {
		t.Run(test.why, func(t *testing.T) {
			s := newScale(test.most, 0, 100)
			got := s.ticks()
			for i := range got {
				got[i] = float64(int(got[i]*1000+0.5)) / 1000
			}
			if diff := cmp.Diff(test.ticks, got); diff != "" {
				t.Error(diff)
			}
			if s.at(test.most) > 100+1e-9 {
				t.Errorf("%v is at %v, outside", test.most, s.at(test.most))
			}
		})
	}
}

func TestWriteDoc(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "performance.md")
	before := "# Performance\n\n" + docBegin + docEnd + "\nMore.\n"
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeDoc(dir, "a report\n", &sheet{}); err == nil {
		t.Error("a document without plots")
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != before {
		t.Errorf("a run that failed has changed the document: %q, %v", now, err)
	}
	if err := writeDoc(dir, "a report\n", full(1)); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Performance\n\n", "\na report\n", "\nMore.\n", "](performance-objects.svg)", "](performance-crds.svg)", "](performance-rate.svg)"} {
		if !strings.Contains(string(now), want) {
			t.Errorf("%q is missing in\n%s", want, now)
		}
	}
	images, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(images) != len(plots()) {
		t.Errorf("images %v, %v", images, err)
	}
}

func TestOptions(t *testing.T) {
	for _, test := range []struct {
		why, arguments string
		want           string // of the error; empty: none
	}{
		{"all is measured by default", "", ""},
		{"small, but for what is said", "-quick -objects 700", ""},
		{"some sections", "-only drain,lag", ""},
		{"a section that is none", "-only drian", "no section"},
		{"numbers that do not grow", "-memory 10,5", "grow"},
		{"none", "-objects 0", "above 0"},
		{"an argument", "all", "unexpected"},
	} {
		t.Run(test.why, func(t *testing.T) {
			_, err := parseOptions(strings.Fields(test.arguments), io.Discard)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	o, err := parseOptions([]string{"-quick", "-objects", "700"}, io.Discard)
	if err != nil || o.objects != 700 || o.rounds != 1 {
		t.Errorf("%+v, %v", o, err)
	}
	for arguments, whole := range map[string]bool{"": true, "-quick": false, "-only lag": false, "-rounds 1": false, "-rounds 5": true} {
		if o, err := parseOptions(strings.Fields(arguments), io.Discard); err != nil || o.whole() != whole {
			t.Errorf("a run with %q is whole: %t, %v", arguments, o.whole(), err)
		}
	}
	if diff := cmp.Diff([]int{500, 700}, o.counts()); diff != "" {
		t.Errorf("numbers of objects: %s", diff)
	}
}

func TestParseMemory(t *testing.T) {
	got, err := parseMemory([]byte("Name:\tbridge\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t9\n"))
	if err != nil || got != (memory{resident: mib, peak: 2 * mib}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseMemory([]byte("Name:\tbridge\nVmHWM:\t  2048 kB\n")); err == nil {
		t.Error("a process without memory: it is a zombie")
	}
}

func TestFrames(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	var got []string
	last, err := eachFrame(strings.NewReader("a\n"+long+"\nb\ncut off"), func(line []byte) { got = append(got, strings.TrimSuffix(string(line), "\n")) })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", long, "b"}, got); diff != "" || string(last) != "b\n" {
		t.Errorf("%s; last %q", diff, last)
	}
	if v, err := versionOf([]byte(`{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"42"}}}`)); v != 42 || err != nil {
		t.Errorf("version %d, %v", v, err)
	}
	if _, err := versionOf([]byte(`{}`)); err == nil {
		t.Error("a version of nothing")
	}
}
