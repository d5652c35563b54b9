//go:build unix

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// figure is one thing that is measured of each variant.
type figure struct {
	name string
	of   func(result) float64
}

var figures = []figure{
	{"heap per object, B", func(r result) float64 { return r.heapPerObject }},
	{"CPU per event, µs", func(r result) float64 { return r.cpuPerEvent }},
	{"peak memory, MiB", func(r result) float64 { return r.peakMiB }},
}

// report prints the figures beside each other. It fails where the flow needs
// as much heap for an object as an informer that keeps the whole of it: no
// noise of a machine makes that so.
func report(w io.Writer, results map[variant][]result) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\tflow\tstock informer\tflow / stock")
	for _, f := range figures {
		flow, stock := values(results[flowVariant], f), values(results[stockVariant], f)
		fmt.Fprintf(table, "%s\t%s\t%s\t%.2f\n", f.name, spread(flow), spread(stock), median(flow)/median(stock))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	heap := figures[0]
	if flow, stock := median(values(results[flowVariant], heap)), median(values(results[stockVariant], heap)); flow >= stock {
		return fmt.Errorf("the flow's heap per object, %.0f B, is not below the stock informer's, %.0f B", flow, stock)
	}
	return nil
}

func values(results []result, f figure) []float64 {
	sorted := make([]float64, 0, len(results))
	for _, r := range results {
		sorted = append(sorted, f.of(r))
	}
	slices.Sort(sorted)
	return sorted
}

func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func spread(sorted []float64) string {
	return fmt.Sprintf("%.0f (%.0f to %.0f)", median(sorted), sorted[0], sorted[len(sorted)-1])
}
