//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// An atomic batch counts as faster where it was in every round, and its ratio
// is below this: what is nearer to 1 is noise.
const wins = 0.95

func report(w io.Writer, results []result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "replicas\tsync\tbytes\tflows\tbatch\tway\tµs/event\t(least–most)\tevents/s\tms/batch\tatomic/single\t")
	for _, r := range results {
		for _, way := range []way{r.usual, atomic, atomicAcked} {
			times := micros(r.times[way])
			ratio := ""
			if way != r.usual {
				ratio = fmt.Sprintf("%.2f", r.ratio(way))
			}
			m := median(times)
			perBatch := fmt.Sprintf("%.2f", m*float64(r.batch*r.flows)/1e3)
			fmt.Fprintf(table, "%d\t%s\t%d\t%d\t%d\t%s\t%.1f\t(%.1f–%.1f)\t%.0f\t%s\t%s\t\n",
				r.replicas, r.sync(), r.size, r.flows, r.batch, way, m, slices.Min(times), slices.Max(times), 1e6/m, perBatch, ratio)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	events, refused := 0, 0
	for _, r := range results {
		events += r.events
		refused += r.refused
	}
	fmt.Fprintf(w, "\n%d events; %d times one or a batch was refused with %d, though all before was acknowledged, and sent again\n", events, refused, fenceInUse)
	return nil
}

// ratio is the time of a way to that of single messages: the median of the
// rounds' ratios.
func (r result) ratio(w way) float64 { return median(r.ratios(w)) }

func (r result) ratios(w way) []float64 {
	ratios := make([]float64, 0, len(r.times[w]))
	for i, t := range r.times[w] {
		ratios = append(ratios, float64(t)/float64(r.times[r.usual][i]))
	}
	return ratios
}

func (r result) wins(w way) bool { return r.ratio(w) < wins && slices.Max(r.ratios(w)) < 1 }

// recommend says for each setup, size of events and number of flows from which
// batch size on atomic batches win, up to the largest that was measured.
func recommend(w io.Writer, results []result) error {
	type group struct {
		setup
		size, flows int
		usual       way
	}
	var order []group
	cells := map[group][]result{}
	for _, r := range results {
		g := group{r.setup, r.size, r.flows, r.usual}
		if cells[g] == nil {
			order = append(order, g)
		}
		cells[g] = append(cells[g], r)
	}
	fmt.Fprintf(w, "An atomic batch is faster than single messages (ratio below %.2f, and faster in every round) in batches of:\n", wins)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "replicas\tsync\tbytes\tflows\tsingle messages go\tatomic\twith AckFirst")
	for _, g := range order {
		fmt.Fprintf(table, "%d\t%s\t%d\t%d\t%s\t%s\t%s\n", g.replicas, g.sync(), g.size, g.flows, g.usual,
			threshold(cells[g], atomic), threshold(cells[g], atomicAcked))
	}
	return table.Flush()
}

func threshold(cells []result, w way) string {
	from := len(cells)
	for from > 0 && cells[from-1].wins(w) {
		from--
	}
	if from == len(cells) {
		return "never"
	}
	if from == 0 {
		return fmt.Sprintf("%d, the smallest measured, and more", cells[0].batch)
	}
	return fmt.Sprintf("%d and more", cells[from].batch)
}

func micros(times []time.Duration) []float64 {
	values := make([]float64, 0, len(times))
	for _, t := range times {
		values = append(values, float64(t)/float64(time.Microsecond))
	}
	return values
}

// spread is a median, and between which values it lies.
func spread(values []float64) string {
	return fmt.Sprintf("%.1f (%.1f–%.1f)", median(values), slices.Min(values), slices.Max(values))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
