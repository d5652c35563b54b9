package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// tailOptions say what bridge tail shows.
type tailOptions struct {
	sink, subject, output             string
	crd, namespace, name, kind, route string
	fromStart                         bool
}

// tail prints the events of a sink as they come, until ctx is done.
func tail(ctx context.Context, o options, environ []string, stdout, stderr io.Writer) error {
	c, err := loadConfig(o.config, environ)
	if err != nil {
		return err
	}
	sink, err := o.tail.choose(c, o.config)
	if err != nil {
		return usageError{err}
	}
	_, settings := c.Sinks[sink].Kind()
	readable, is := settings.(sinks.Readable)
	if !is {
		return usageError{fmt.Errorf("bridge tail: what goes to sink %s cannot be read there", sink)}
	}
	printEvent, begin := printLine(stdout), func() { fmt.Fprintf(stdout, lineFormat, "TIME", "TYPE", "CRD", "OBJECT", "VERSION", "ROUTE") }
	if o.tail.output == "json" {
		printEvent, begin = json.NewEncoder(stdout).Encode, func() {}
	}
	return readable.Follow(ctx, visiting(c, sink), sinks.Followed{
		Subject: o.tail.subject, Fields: o.tail.fields(c), FromStart: o.tail.fromStart, Begun: begin,
		Problem: func(words string) {
			if words != "" {
				words += "; retrying"
			}
			fmt.Fprintf(stderr, "bridge tail: sink %s: %s\n", sink, cmp.Or(words, "connected"))
		},
		Take: func(e event.Event) error {
			if !o.tail.shows(&e) {
				return nil
			}
			return printEvent(e)
		},
	})
}

// choose is the sink to read: the one that is named, or the only one.
func (t *tailOptions) choose(c *config.Config, path string) (string, error) {
	names := slices.Sorted(maps.Keys(c.Sinks))
	switch {
	case t.output != "text" && t.output != "json":
		return "", fmt.Errorf("bridge tail: -o %q: write text or json", t.output)
	case t.sink == "" && len(names) > 1:
		return "", fmt.Errorf("bridge tail: %s has the sinks %s: say with --sink which one", path, strings.Join(names, ", "))
	case t.sink == "":
		t.sink = names[0]
	case !slices.Contains(names, t.sink):
		return "", fmt.Errorf("bridge tail: --sink %q: %s has the sinks %s", t.sink, path, strings.Join(names, ", "))
	}
	if t.kind != "" && !slices.ContainsFunc(events.Types(), func(known events.Type) bool { return string(known) == t.kind }) {
		return "", fmt.Errorf("bridge tail: --type %q: there are %s", t.kind, strings.Join(events.Type("").Words(), ", "))
	}
	if t.crd != "" && !strings.Contains(t.crd, ".") {
		return "", errors.New("bridge tail: --crd " + t.crd + ": a CRD's name is <plural>.<group>")
	}
	if _, of := c.Sinks[t.sink].Kind(); t.fromStart && !of.KeepsLedgers() {
		return "", fmt.Errorf("bridge tail: --from-start: sink %s has no jetstream, and keeps nothing", t.sink)
	}
	return t.sink, nil
}

// fields are what is shown, as far as an address can tell; the server leaves
// the rest out.
func (t *tailOptions) fields(c *config.Config) events.Fields {
	plural, group, _ := strings.Cut(t.crd, ".")
	return events.Fields{
		Cluster: c.Cluster, Group: group, Resource: plural, Namespace: t.namespace, Name: t.name, Event: t.kind, Route: t.route,
	}
}

// shows tells whether the event is one of those that were asked for.
func (t *tailOptions) shows(e *event.Event) bool {
	return (t.crd == "" || t.crd == crdOf(e)) &&
		(t.namespace == "" || t.namespace == attribute(e, events.ExtNamespace)) &&
		(t.name == "" || t.name == attribute(e, events.ExtName)) &&
		(t.kind == "" || t.kind == typeOf(e)) &&
		(t.route == "" || t.route == attribute(e, events.ExtRoute))
}

func attribute(e *event.Event, name string) string {
	value, there := e.Extensions()[name]
	if !there {
		return ""
	}
	return fmt.Sprint(value)
}

// crdOf is <plural>.<group>, of /clusters/<cluster>/apis/<group>/<plural>.
func crdOf(e *event.Event) string {
	parts := strings.Split(e.Source(), "/")
	if len(parts) != 6 {
		return e.Source()
	}
	return parts[5] + "." + parts[4]
}

// typeOf is the type as the configuration has it, or whole where it is another's.
func typeOf(e *event.Event) string {
	for _, t := range events.Types() {
		if t.CloudEvent() == e.Type() {
			return string(t)
		}
	}
	return e.Type()
}

const lineFormat = "%-24s  %-10s  %-40s  %-40s  %-10s  %s\n"

// printLine prints an event as one line for people.
func printLine(w io.Writer) func(any) error {
	return func(v any) error {
		e, _ := v.(event.Event)
		more := []string{attribute(&e, events.ExtRoute)}
		for _, mark := range []string{events.ExtInferred, events.ExtCoalesced, events.ExtOversize} {
			if attribute(&e, mark) != "" {
				more = append(more, mark)
			}
		}
		_, err := fmt.Fprintf(w, lineFormat, e.Time().UTC().Format("2006-01-02T15:04:05.000Z"),
			printable(typeOf(&e)), printable(crdOf(&e)), printable(e.Subject()), printable(attribute(&e, events.ExtResourceVersion)), printable(strings.Join(more, " ")))
		return err
	}
}

// printable is the text without what a terminal would obey.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
