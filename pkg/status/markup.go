package status

import (
	"io"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// part is something that goes into an element: a child or an attribute. Pages
// are trees of nodes that golang.org/x/net/html writes out, which escapes each
// text and each attribute's value. So what comes from outside cannot become
// markup, as long as three rules are kept, which TestPageIsText checks: no
// element whose content is not escaped (script, style and the like) has any, no
// attribute is one that runs or styles something, and links begin with what is
// written here.
//
// Not html/template: it finds methods by name at run time, and with that in the
// program the linker keeps every exported method of every library. The bridge's
// executable would be a quarter larger.
type part func(parent *html.Node)

func el(tag string, parts ...part) part {
	return func(parent *html.Node) {
		n := &html.Node{Type: html.ElementNode, Data: tag, DataAtom: atom.Lookup([]byte(tag))}
		for _, p := range parts {
			p(n)
		}
		parent.AppendChild(n)
	}
}

func text(s string) part {
	return func(parent *html.Node) {
		if s != "" {
			parent.AppendChild(&html.Node{Type: html.TextNode, Data: strings.ToValidUTF8(s, "\uFFFD")})
		}
	}
}

func at(name, value string) part {
	return func(n *html.Node) {
		n.Attr = append(n.Attr, html.Attribute{Key: name, Val: strings.ToValidUTF8(value, "\uFFFD")})
	}
}

func class(names string) part { return at("class", names) }

func all(parts ...part) part {
	return func(parent *html.Node) {
		for _, p := range parts {
			p(parent)
		}
	}
}

// each is a part for each of the items.
func each[T any](items []T, of func(T) part) part {
	return func(parent *html.Node) {
		for _, item := range items {
			of(item)(parent)
		}
	}
}

func when(is bool, parts ...part) part {
	if !is {
		return all()
	}
	return all(parts...)
}

// write writes a whole document.
func write(w io.Writer, root part) error {
	document := &html.Node{Type: html.DocumentNode}
	document.AppendChild(&html.Node{Type: html.DoctypeNode, Data: "html"})
	root(document)
	return html.Render(w, document)
}

// fields are what a part of the page shows now, by name. The page has them when
// it is written, with names beside them; the script puts newer ones in their
// places, as text.
type fields map[string]string

// show is an element with a field's text.
func (f fields) show(tag, name string, parts ...part) part {
	return el(tag, append(parts, at("data-f", name), text(f[name]))...)
}

// set is an attribute with a field's value. The script knows by the name of
// data-… which attribute that is.
func (f fields) set(attribute, name string) part {
	data := map[string]string{"d": "data-d", "aria-label": "data-l", "href": "data-h", "data-state": "data-s", "datetime": "data-t", "aria-current": "data-c"}[attribute]
	return all(at(data, name), when(f[name] != "", at(attribute, f[name])))
}

// unless hides an element for as long as the field is empty.
func (f fields) unless(name string) part {
	return all(at("data-if", name), when(f[name] == "", at("hidden", "")))
}
