package status

import (
	"bytes"
	"fmt"
	"html"
)

// markup is HTML that the program wrote itself. A constant becomes markup by
// itself, what was read at run time does not: where it has to, the conversion
// shows.
type markup string

// htmlWriter writes HTML, and the names, reasons and errors in it, whatever they
// hold, as text.
//
// It is not html/template, with which the linker has to keep every exported
// method of every type in the program, as a template may call any: a fifth of
// the executable. What html/template knows and this does not is where in the
// page a value stands: values are for text and for attributes in quotes, not for
// the addresses of links, not for styles, and not for scripts.
type htmlWriter struct{ out bytes.Buffer }

// put writes a page's part, with values for its verbs as in fmt.Printf. Numbers
// are formatted as they are, everything else as text.
func (w *htmlWriter) put(part markup, values ...any) {
	for i, v := range values {
		switch v.(type) {
		case bool, int, uint64, float64:
		default:
			values[i] = html.EscapeString(fmt.Sprint(v))
		}
	}
	fmt.Fprintf(&w.out, string(part), values...)
}

// raw writes a page's part that has no values in it, and whose % are its own.
func (w *htmlWriter) raw(part markup) { w.out.WriteString(string(part)) }
