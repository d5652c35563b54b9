package status

import (
	_ "embed"
	"html/template"
	"net/http"
)

//go:embed page.html
var pageHTML string

// page is a template of html/template, which writes names, reasons and errors,
// whatever is in them, as text.
var page = template.Must(template.New("page").Parse(pageHTML))

func (b *Bridge) page(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	_ = page.Execute(w, b.Document()) // the reader has gone; there is nobody to tell
}
