//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/client-go/discovery"
)

// columnNames are what readers see.
var columnNames = map[column]string{ofBridge: "bridge", ofStock: "stock informer"}

// about is what a reader has to know of a run.
type about struct {
	date     time.Time
	machine  string
	versions string
	options  options
}

// about asks who takes part.
func (b *bench) about(ctx context.Context) (about, error) {
	discovered, err := discovery.NewDiscoveryClientForConfig(b.cp.Admin())
	if err != nil {
		return about{}, err
	}
	api, err := discovered.ServerVersion()
	if err != nil {
		return about{}, err
	}
	version, err := exec.CommandContext(ctx, b.executable, "version").Output()
	if err != nil {
		return about{}, fmt.Errorf("%s version: %w", b.executable, err)
	}
	return about{
		date: time.Now().UTC(), machine: machine(), options: b.options,
		versions: fmt.Sprintf("%s; kube-apiserver %s, nats-server %s", strings.TrimSpace(string(version)), strings.TrimPrefix(api.GitVersion, "v"), b.conn.ConnectedServerVersion()),
	}, nil
}

// machine is the machine in words.
func machine() string {
	words := fmt.Sprintf("%d × %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"))
	var kib float64
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%f kB", &kib); err == nil {
		words += fmt.Sprintf(", %.0f GiB of memory", kib/(1<<20))
	}
	return words + ", " + runtime.GOOS + "/" + runtime.GOARCH
}

// field is the first value of that name in a file of /proc.
func field(path, name string) string {
	file, err := os.Open(path)
	if err != nil {
		return "CPU"
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if key, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "CPU"
}

// titles say what a section is about.
func (a about) title(s section) string {
	switch s {
	case drainSection:
		return fmt.Sprintf("Catching up with a backlog: %s objects change once while the process is stopped", thousands(a.options.objects))
	case memorySection:
		return "Keeping up with objects"
	case lagSection:
		return fmt.Sprintf("Objects change at a steady rate, for %v", a.options.window)
	case restartSection:
		return fmt.Sprintf("Ending and starting again, %d objects having changed meanwhile", changedWhileDown)
	case routesSection:
		return fmt.Sprintf("Several routes on one CRD: the same drain, %s objects", thousands(a.options.objects))
	default:
		return "Many CRDs without objects, a flow of each"
	}
}

// report is all that was measured, in Markdown that can be read as it is.
func (s *sheet) report(a about) string {
	var text strings.Builder
	rounds := "one round"
	if a.options.rounds > 1 {
		rounds = fmt.Sprintf("medians of %d rounds (least to most), with %d drains in each", a.options.rounds, drainsEach)
	}
	fmt.Fprintf(&text, "%s on %s.\n%s.\nObjects of %s bytes; %s.\n", a.date.Format(time.DateOnly), a.machine, a.versions, thousands(a.options.size), rounds)
	for _, section := range sections() {
		table := [][]string{{"", "bridge", "stock informer", "bridge / stock", "limit", "bridge / limit", "goal"}}
		for _, r := range s.rows {
			if r.figure.section == section {
				table = append(table, r.cells())
			}
		}
		if len(table) > 1 {
			fmt.Fprintf(&text, "\n**%s**\n\n%s", a.title(section), markdown(withoutEmpty(table)))
		}
	}
	return text.String()
}

func (r *row) cells() []string {
	title := r.title()
	if r.figure.unit != "" {
		title += ", " + r.figure.unit
	}
	digits := r.figure.digits
	limit := spread(r.of[ofLimit], digits)
	if limit != "" {
		limit = r.figure.limit + ": " + limit
	}
	var goals []string
	for _, g := range r.goals() {
		outcome := "met"
		if !r.met(g) {
			outcome = "**missed**"
		}
		goals = append(goals, r.words(g)+": "+outcome)
	}
	return []string{
		title, spread(r.of[ofBridge], digits),
		spread(r.of[ofStock], digits), spread(r.ratio(ofStock), 2),
		limit, spread(r.ratio(ofLimit), 2), strings.Join(goals, ", "),
	}
}

// withoutEmpty leaves out columns that have nothing below their heading.
func withoutEmpty(table [][]string) [][]string {
	kept := make([][]string, len(table))
	for column := range table[0] {
		filled := false
		for _, cells := range table[1:] {
			filled = filled || cells[column] != ""
		}
		if !filled {
			continue
		}
		for i, cells := range table {
			kept[i] = append(kept[i], cells[column])
		}
	}
	return kept
}

// markdown is a table whose columns are as wide as they have to be.
func markdown(table [][]string) string {
	widths := make([]int, len(table[0]))
	for _, cells := range table {
		for i, cell := range cells {
			widths[i] = max(widths[i], 3, utf8.RuneCountInString(cell))
		}
	}
	var text strings.Builder
	line := func(cells []string, fill string) {
		for i, cell := range cells {
			text.WriteString("| " + cell + strings.Repeat(fill, widths[i]-utf8.RuneCountInString(cell)) + " ")
		}
		text.WriteString("|\n")
	}
	line(table[0], " ")
	line(make([]string, len(widths)), "-")
	for _, cells := range table[1:] {
		line(cells, " ")
	}
	return text.String()
}
