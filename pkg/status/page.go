package status

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
)

// policy lets a page load what the bridge itself serves, and nothing else. The
// script has nothing that makes markup of text, and could not.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// flowsPage is the page at /. It is whole without its script, which keeps it
// up to date.
func (b *Bridge) flowsPage(w http.ResponseWriter, r *http.Request) {
	q := parseQuery(r.URL.Query())
	v := b.view(q)
	page := v.Rows["page"]
	b.document(w, "/live/status", page,
		el("h1", page.set("data-state", "mood"), class("headline"), page.show("span", "headline", at("role", "status"))),
		about(page),
		alerts(page),
		el("section", at("aria-labelledby", "sinks-title"),
			el("h2", at("id", "sinks-title"), text("Sinks")),
			table("sinks", "Sinks", v, sinkRow, "Sink", "Connection", "Stream", "Keeps messages", "Space left"),
		),
		el("section", at("aria-labelledby", "flows-title"),
			el("h2", at("id", "flows-title"), text("Flows")),
			filter(q, b.snapshot().routes),
			chips(page),
			page.show("p", "found", class("found")),
			table("flows", "Flows", v, flowRow, "State", "CRD, route and sink", "Objects", "Events/s", "Lag", "Pending"),
			el("nav", class("pager"), at("aria-label", "More flows"),
				el("a", page.set("href", "previous"), page.unless("previous"), text("Previous")),
				el("a", page.set("href", "next"), page.unless("next"), text("Next"))),
		),
	)
}

// eventsPage shows what is delivered while somebody looks.
func (b *Bridge) eventsPage(w http.ResponseWriter, r *http.Request) {
	q := parseQuery(r.URL.Query())
	s := b.snapshot()
	page := s.pageFields(query{page: 1}, 0, 0)
	page["title"] = "Events, crbridge " + s.Cluster
	b.document(w, "/live/events", page,
		el("h1", class("headline"), text("Events as they are delivered")),
		el("p", class("about"), text("What was delivered before this page was opened is not here: the sink has it, and "),
			el("code", text("bridge tail")), text(" reads it. Nothing of an object's content is shown."),
			when(s.Role == "standby", text(" This bridge stands by and delivers nothing."))),
		el("form", class("filter"), at("action", "/events"), at("role", "search"),
			search(q.text, "CRD, object, route, sink or type"),
			el("button", text("Filter")),
			el("button", at("type", "button"), at("id", "pause"), at("aria-pressed", "false"), at("hidden", ""), text("Pause"))),
		el("p", class("found"), at("id", "missed"), at("hidden", "")),
		el("p", class("found"), at("id", "none"), text("Nothing yet. (The live view needs the page's script.)")),
		el("table", at("role", "table"), at("aria-label", "Events"), class("rows events"),
			head("Time", "Type", "CRD", "Object", "Route", "Sink", "Lag"),
			el("tbody", at("role", "rowgroup"), at("data-list", "events"))),
		el("template", at("id", "row-events"), eventRow("", fields{})),
	)
}

// document writes a page: what all of them have, and its own parts.
func (b *Bridge) document(w http.ResponseWriter, live string, page fields, parts ...part) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	tab := func(to, name string) part {
		return el("a", at("href", to), when((to == "/events") == (live == "/live/events"), at("aria-current", "page")), text(name))
	}
	_ = write(w, el("html", at("lang", "en"),
		el("head",
			el("meta", at("charset", "utf-8")),
			el("meta", at("name", "viewport"), at("content", "width=device-width, initial-scale=1")),
			el("meta", at("name", "color-scheme"), at("content", "light dark")),
			el("title", text(page["title"])),
			el("link", at("rel", "stylesheet"), at("href", styleAsset.path)),
			el("link", at("rel", "icon"), at("href", iconAsset.path)),
			el("script", at("src", scriptAsset.path), at("defer", "")),
		),
		el("body", at("data-row", "page"), at("data-live", live),
			el("header", class("top"),
				el("a", class("brand"), at("href", "/"), text("crbridge")),
				el("span", class("cluster"), text(b.Cluster)),
				page.show("span", "role", class("role")),
				el("nav", at("aria-label", "Pages"), tab("/", "Status"), tab("/events", "Events")),
				el("span", class("live"), at("id", "live"), at("data-state", "off"), text("not live")),
			),
			el("main", parts...),
		),
	)) // the reader may have gone; there is nobody to tell
}

func about(page fields) part {
	return el("p", class("about"),
		el("span", page.unless("leader"), text("The leader is "), page.show("b", "leader"), text(". ")),
		text("Configuration loaded "), when(page["loaded"] != "", moment(page, "loaded")), text(" ago."))
}

func alerts(page fields) part {
	return all(
		el("div", class("alert bad"), page.unless("error"),
			el("b", text("The configuration file has changed and is bad. The one before stays in force.")),
			page.show("pre", "error", at("tabindex", "0"))),
		el("div", class("alert bad"), page.unless("crds"),
			el("b", text("The bridge does not know the cluster's CRDs yet.")),
			page.show("pre", "crds", at("tabindex", "0"))),
		el("p", class("alert"), page.unless("restart"), text("A restart is needed for what has changed in "), page.show("b", "restart"), text(".")),
		el("p", class("alert"), page.unless("warnings"), page.show("span", "warnings", class("lines"))),
	)
}

// moment is how long ago the field's time was.
func moment(f fields, name string) part {
	at, err := time.Parse(time.RFC3339, f[name])
	return el("time", f.set("datetime", name), when(err == nil, text(age(time.Since(at)))))
}

func search(q, hint string) part {
	return el("label", text("Find "),
		el("input", at("type", "search"), at("name", "q"), at("value", q), at("placeholder", hint), at("maxlength", "200"), at("autocomplete", "off"), at("spellcheck", "false")))
}

func filter(q query, routes []string) part {
	return el("form", class("filter"), at("action", "/"), at("role", "search"),
		search(q.text, "CRD, sink, reason"),
		el("label", text("Route "), el("select", at("name", "route"), el("option", at("value", ""), text("all")), each(routes, func(route string) part {
			return el("option", at("value", route), when(route == q.route, at("selected", "")), text(route))
		}))),
		when(q.state != "", el("input", at("type", "hidden"), at("name", "state"), at("value", string(q.state)))),
		el("button", text("Filter")))
}

// chips are links to the flows in each state.
func chips(page fields) part {
	chip := func(name string) part {
		return el("li", page.unless("n:"+name),
			el("a", page.set("href", "to:"+name), page.set("aria-current", "on:"+name),
				el("span", class("state"), at("data-state", name), text(name)), text(" "), page.show("span", "n:"+name, class("count"))))
	}
	states := flow.States()
	slices.SortStableFunc(states, func(a, b flow.State) int { return cmp.Compare(urgency(&Flow{State: a}), urgency(&Flow{State: b})) })
	return el("ul", class("chips"), at("aria-label", "Flows by state"), chip("all"),
		each(states, func(state flow.State) part { return chip(string(state)) }))
}

func head(names ...string) part {
	return el("thead", at("role", "rowgroup"), el("tr", at("role", "row"), each(names, func(name string) part {
		return el("th", at("role", "columnheader"), at("scope", "col"), text(name))
	})))
}

// table has a row for each of the list, and a template for more. The roles are
// said because on narrow screens the style makes other boxes of the cells,
// which for browsers ends a table otherwise.
func table(list, label string, v *view, row func(id string, f fields) part, names ...string) part {
	return all(
		el("table", at("role", "table"), at("aria-label", label), class("rows "+list), head(names...),
			el("tbody", at("role", "rowgroup"), at("data-list", list),
				each(v.Lists[list], func(id string) part { return row(id, v.Rows[id]) }))),
		el("template", at("id", "row-"+list), row("", fields{})),
	)
}

func cell(name string, parts ...part) part {
	return el("td", append([]part{at("role", "cell"), class(name)}, parts...)...)
}

// number is a cell that says on narrow screens what it is.
func number(label string, parts ...part) part {
	return cell("number", append([]part{el("span", class("label"), at("aria-hidden", "true"), text(label))}, parts...)...)
}

func flowRow(id string, f fields) part {
	// graph is a number as it is now, and what it was like as a chart; none
	// where it was 0 all the time.
	graph := func(kind string) part {
		path := kind + "Chart"
		return el("div", class("graph"),
			el("svg", class("chart "+kind), at("viewBox", "0 0 120 24"), at("preserveAspectRatio", "none"), at("role", "img"),
				f.unless(path), f.set("aria-label", kind+"Words"), el("path", f.set("d", path))),
			f.show("span", kind))
	}
	return el("tr", at("role", "row"), at("data-row", id),
		cell("condition",
			f.show("span", "state", class("state"), f.set("data-state", "state")),
			el("span", class("since"), f.unless("since"), text(" for "), moment(f, "since"))),
		cell("what",
			f.show("b", "crd", class("crd")),
			el("span", class("path"), f.show("span", "route"), text(" → "), f.show("span", "sink"),
				el("span", f.unless("version"), text(", "), f.show("span", "version")),
				el("span", f.unless("unfenced"), text(", "), f.show("span", "unfenced"))),
			f.show("p", "reason", class("reason"), f.unless("reason")),
			el("details", class("todo"), f.unless("advice"), el("summary", text("What to do")),
				f.show("p", "advice"),
				el("div", class("copy"), f.unless("yaml"), f.show("pre", "yaml", at("tabindex", "0"), at("aria-label", "Role to apply")),
					el("button", at("type", "button"), at("data-copy", ""), at("hidden", ""), text("Copy"))))),
		number("Objects", f.show("span", "objects")),
		number("Events/s", graph("rate"),
			el("span", class("last"), f.unless("last"), text("last "), moment(f, "last"), text(" ago"))),
		number("Lag", graph("lag")),
		number("Pending", f.show("span", "pending")),
	)
}

func sinkRow(id string, f fields) part {
	return el("tr", at("role", "row"), at("data-row", id),
		cell("what", f.show("b", "name"), el("span", class("path"), f.show("span", "type"))),
		cell("connection",
			f.show("span", "state", class("state"), f.set("data-state", "state")),
			f.show("span", "server", class("path"), f.unless("server")),
			f.show("p", "problem", class("reason"), f.unless("problem"))),
		cell("stream", f.show("b", "stream"), f.show("span", "holds", class("path"), f.unless("holds")),
			f.show("span", "batches", class("path"), f.unless("batches")),
			f.show("p", "notes", class("lines note"), f.unless("notes"))),
		cell("kept", f.show("span", "kept")),
		cell("space", f.show("span", "space"),
			el("span", class("path"), f.unless("looked"), text("looked at "), moment(f, "looked"), text(" ago"))),
	)
}

func eventRow(id string, f fields) part {
	return el("tr", at("role", "row"), at("data-row", id),
		cell("time", f.show("span", "time")),
		cell("change", f.show("span", "type", class("type"), f.set("data-state", "type"))),
		cell("crd", f.show("span", "crd")),
		cell("object", f.show("b", "object")),
		cell("route", f.show("span", "route")),
		cell("sink", f.show("span", "sink")),
		cell("lag", f.show("span", "lag")),
	)
}
