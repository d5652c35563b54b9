package status

import (
	_ "embed"
	"net/http"
	"strings"
)

//go:embed page.css
var pageCSS string

func (b *Bridge) page(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(page(b.Document())) // the reader has gone; there is nobody to tell
}

func page(d Document) []byte {
	var w htmlWriter
	w.put(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5">
<title>crbridge %s</title>
<style>
`, d.Cluster)
	w.raw(markup(pageCSS))
	w.put(`</style>
</head>
<body>
<h1>crbridge: %s</h1>
`, d.Cluster)
	w.configuration(d)
	w.flows(d.Flows)
	w.sinks(d.Sinks)
	w.put(`</body>
</html>
`)
	return w.out.Bytes()
}

func (w *htmlWriter) configuration(d Document) {
	c := d.Configuration
	w.put(`<p>This bridge is the %s. Configuration of %s.`, d.Role, c.LoadedAt.Format("2006-01-02 15:04:05 MST"))
	if len(c.RestartNeeded) > 0 {
		w.put(` A restart is needed for what has changed in %s.`, strings.Join(c.RestartNeeded, ", "))
	}
	w.put("</p>\n")
	if c.Error != "" {
		w.put(`<p><strong>The configuration file has changed and is bad; the one before stays in force:</strong></p>
<pre>%s</pre>
`, c.Error)
	}
}

func (w *htmlWriter) flows(flows []Flow) {
	w.put(`<h2>Flows</h2>
<div class="wide"><table>
<thead><tr><th>CRD<th>Route<th>Sink<th>Version<th>State<th class="number">Objects<th class="number">Delivered<th class="number">Pending<th class="number">Lag</tr></thead>
<tbody>
`)
	for i := range flows {
		f := &flows[i]
		w.put(`<tr><td>%s<td>%s<td>%s<td>%s<td><strong>%s</strong>`, f.CRD, f.Route, f.Sink, f.Version, f.State)
		if f.Reason != "" {
			w.put(`<br>%s`, f.Reason)
		}
		w.put(`<td class="number">%d<td class="number">%d<td class="number">%d<td class="number">%.1f s</tr>
`, f.Objects, f.Delivered, f.Pending, f.LagSeconds)
	}
	w.put("</tbody></table></div>\n")
}

func (w *htmlWriter) sinks(sinks []Sink) {
	w.put(`<h2>Sinks</h2>
<div class="wide"><table>
<thead><tr><th>Sink<th>Type<th>Connected<th>Last error<th>Notes</tr></thead>
<tbody>
`)
	for i := range sinks {
		s := &sinks[i]
		connected := "no"
		if s.Connected {
			connected = "yes"
		}
		w.put(`<tr><td>%s<td>%s<td>%s<td>%s<td>`, s.Name, s.Type, connected, s.LastError)
		for _, note := range s.Notes {
			w.put(`%s<br>`, note)
		}
		w.put("</tr>\n")
	}
	w.put("</tbody></table></div>\n")
}
