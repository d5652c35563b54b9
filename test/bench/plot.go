//go:build linux

package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// plot is an image of two panels beside each other.
type plot struct {
	name   string // of its file
	alt    string
	panels [2]panel
}

// panel is a figure over what it depends on.
type panel struct {
	title  string
	figure *figure
	x      string
}

func plots() []plot {
	const objects, crds, rate = "objects", "CRDs, a flow of each", "changes per second"
	return []plot{
		{"performance-objects.svg", "Memory and CPU of bridge and stock informer against the number of objects", [2]panel{
			{"Memory when all is listed", resident, objects},
			{"CPU per object, first list", listCPU, objects},
		}},
		{"performance-crds.svg", "Memory of bridge and stock informers, and the time until they run, against the number of CRDs", [2]panel{
			{"Memory, idle", flowsMemory, crds},
			{"Until all flows run", flowsStart, crds},
		}},
		{"performance-rate.svg", "CPU per event and lag of bridge and stock informer against the rate of changes", [2]panel{
			{"CPU per event", rateCPU, rate},
			{"Lag, from the write to the subscriber, median", lagMedian, rate},
		}},
	}
}

// The layout, in pixels.
const (
	plotWidth   = 880
	plotHeight  = 350
	panelWidth  = plotWidth / 2
	panelLeft   = 66 // of the axes, in the panel
	panelRight  = panelWidth - 34
	panelTop    = 74
	panelBottom = 292
)

// plotStyle has the colours for light and for dark surroundings, which the
// reader's browser chooses between. Lines differ in their marks and dashes too.
const plotStyle = `
    text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-size: 13px; font-weight: 600 }
    .quiet { fill: #59636e }
    .page { fill: #ffffff; stroke: #d1d9e0 }
    .grid { stroke: #d1d9e0; stroke-width: 1 }
    .axis { stroke: #59636e; stroke-width: 1 }
    .line { fill: none; stroke-width: 2; stroke-linejoin: round }
    .bar { stroke-width: 1.5 }
    .bridge { stroke: #0969da } .bridge.mark { fill: #0969da }
    .stock { stroke: #bc4c00 } .stock.mark { fill: #ffffff; stroke-width: 2 }
    .limit { stroke: #6e7781 } .limit.mark { fill: #6e7781 } .limit.line { stroke-dasharray: 5 4 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .quiet { fill: #9198a1 }
      .page { fill: #0d1117; stroke: #3d444d }
      .grid { stroke: #2a313c }
      .axis { stroke: #9198a1 }
      .bridge { stroke: #4493f8 } .bridge.mark { fill: #4493f8 }
      .stock { stroke: #f0883e } .stock.mark { fill: #0d1117 }
      .limit { stroke: #9198a1 } .limit.mark { fill: #9198a1 }
    }
  `

// plotted is a line of a panel.
type plotted struct {
	of    column
	class string
}

// lines are those of a panel, in the order of the legend.
func lines() []plotted {
	return []plotted{{ofBridge, "bridge"}, {ofStock, "stock"}, {ofLimit, "limit"}}
}

func (l plotted) name(f *figure) string {
	if l.of == ofLimit {
		return f.limit
	}
	return columnNames[l.of]
}

// draw makes the plot as SVG.
func (s *sheet) draw(p plot) (string, error) {
	var svg strings.Builder
	fmt.Fprintf(&svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\">\n",
		plotWidth, plotHeight, plotWidth, plotHeight)
	fmt.Fprintf(&svg, "  <title>%s</title>\n  <style>%s</style>\n", escaped(p.alt), plotStyle)
	fmt.Fprintf(&svg, "  <rect class=\"page\" x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n", plotWidth-1, plotHeight-1)
	for i, panel := range p.panels {
		var rows []*row
		for _, r := range s.rows {
			if r.figure == panel.figure {
				rows = append(rows, r)
			}
		}
		if len(rows) == 0 {
			return "", fmt.Errorf("%q was not measured", panel.figure.name)
		}
		fmt.Fprintf(&svg, "  <g transform=\"translate(%d 0)\">\n", i*panelWidth)
		drawPanel(&svg, panel, rows)
		svg.WriteString("  </g>\n")
	}
	svg.WriteString("</svg>\n")
	return svg.String(), nil
}

// scale turns values into pixels.
type scale struct {
	most       float64 // the value at to; 0 is at from
	from, to   float64
	step       float64 // between ticks
	tickDigits int
}

// newScale goes from 0 to a round number that is not below most, in at most
// five steps.
func newScale(most, from, to float64) scale {
	if most <= 0 {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most/5)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if step*factor*5 >= most*(1-1e-9) {
			step *= factor
			break
		}
	}
	digits := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	return scale{most: math.Ceil(most/step-1e-9) * step, from: from, to: to, step: step, tickDigits: digits}
}

func (s scale) at(value float64) float64 { return s.from + (s.to-s.from)*value/s.most }

func (s scale) ticks() (all []float64) {
	for i := 0; float64(i)*s.step <= s.most*(1+1e-9); i++ {
		all = append(all, float64(i)*s.step)
	}
	return all
}

func drawPanel(svg *strings.Builder, p panel, rows []*row) {
	var mostX, mostY float64
	for _, r := range rows {
		mostX = max(mostX, float64(r.at))
		for _, values := range r.of {
			for _, v := range values {
				mostY = max(mostY, v)
			}
		}
	}
	x, y := newScale(mostX, panelLeft, panelRight), newScale(mostY, panelBottom, panelTop)
	text := func(class, anchor string, x, y float64, words string) {
		fmt.Fprintf(svg, "    <text class=\"%s\" text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", class, anchor, x, y, escaped(words))
	}
	line := func(class string, x1, y1, x2, y2 float64) {
		fmt.Fprintf(svg, "    <line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x1, y1, x2, y2)
	}
	text("title", "start", panelLeft-46, 24, p.title)
	text("quiet", "start", panelLeft-46, panelTop-12, p.figure.unit)
	text("quiet", "middle", (panelLeft+panelRight)/2, panelBottom+40, p.x)
	for _, tick := range y.ticks() {
		line("grid", panelLeft, y.at(tick), panelRight, y.at(tick))
		text("quiet", "end", panelLeft-8, y.at(tick)+4, number(tick, y.tickDigits))
	}
	for _, tick := range x.ticks() {
		line("axis", x.at(tick), panelBottom, x.at(tick), panelBottom+4)
		text("quiet", "middle", x.at(tick), panelBottom+19, number(tick, x.tickDigits))
	}
	line("axis", panelLeft, panelBottom, panelRight, panelBottom)
	legend := float64(panelLeft)
	for _, l := range lines() {
		var points []string
		var marks strings.Builder
		for _, r := range rows {
			values := r.of[l.of].sorted()
			if len(values) == 0 {
				continue
			}
			px, py := x.at(float64(r.at)), y.at(max(0, values.median()))
			points = append(points, fmt.Sprintf("%.1f,%.1f", px, py))
			fmt.Fprintf(&marks, "    <line class=\"bar %s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
				l.class, px, y.at(max(0, values[0])), px, y.at(max(0, values[len(values)-1])))
			fmt.Fprintf(&marks, "    <g><title>%s, %s %s: %s %s</title>%s</g>\n", escaped(l.name(p.figure)), thousands(r.at), escaped(r.figure.at),
				spread(values, p.figure.digits), p.figure.unit, mark(l.class, px, py))
		}
		if len(points) == 0 {
			continue
		}
		fmt.Fprintf(svg, "    <polyline class=\"line %s\" points=\"%s\"/>\n%s", l.class, strings.Join(points, " "), marks.String())
		line("line "+l.class, legend, 43, legend+22, 43)
		fmt.Fprintf(svg, "    %s\n", mark(l.class, legend+11, 43))
		text("", "start", legend+28, 47, l.name(p.figure))
		legend += 28 + 7*float64(len(l.name(p.figure))) + 14
	}
}

// mark is how a line's points look.
func mark(class string, x, y float64) string {
	switch class {
	case "bridge":
		return fmt.Sprintf(`<circle class="%s mark" cx="%.1f" cy="%.1f" r="4"/>`, class, x, y)
	case "stock":
		return fmt.Sprintf(`<rect class="%s mark" x="%.1f" y="%.1f" width="7" height="7"/>`, class, x-3.5, y-3.5)
	default:
		return fmt.Sprintf(`<path class="%s mark" d="M%.1f %.1f l4 7 h-8 z"/>`, class, x, y-4)
	}
}

func escaped(words string) string {
	var text strings.Builder
	_ = xml.EscapeText(&text, []byte(words)) // a strings.Builder takes all
	return text.String()
}
