//go:build unix

package faults

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// routes are what the bridges are configured with at the moment.
type routes struct {
	without string // the route that is taken out
	varied  string // what the route "varied" selects, filters and sends; empty: there is none
	comment int    // so that each file is another one
}

// constant are the routes that stay what they are, as YAML. The oracle knows of
// each what it has to tell, whatever is done to the others.
var constant = []struct{ name, yaml string }{
	{"all", `{name: all, crds: ["*.shop.example.com"], sinks: [main]}`},
	{"ends", `{name: ends, crds: [orders.shop.example.com], events: [created, deleted], sinks: [main]}`},
	{"changes", `{name: changes, crds: [orders.shop.example.com], events: [updated, deleted], sinks: [main]}`},
	{"notes", `{name: notes, crds: [notes.text.example.com], sinks: [main]}`},
}

// everything is what the varied route is in the end.
const everything = "payload: {content: object}"

// variants of the varied route.
var variants = []string{
	everything,
	"payload: {content: metadata}",
	"payload: {content: change}",
	"labelSelector: color=red",
	"labelSelector: color=blue",
	"labelSelector: color=blue, namespaces: [default]",
	"namespaces: [default]",
	"namespaces: [default, kube-system]",
	"namespaces: [kube-system]",
	"labelSelector: color=red, payload: {redact: [spec.text]}",
	"", // none
}

func (r routes) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster: %s # %d\nroutes:\n", cluster, r.comment)
	for _, c := range constant {
		if c.name != r.without {
			fmt.Fprintf(&b, "  - %s\n", c.yaml)
		}
	}
	if r.varied != "" {
		fmt.Fprintf(&b, "  - {name: varied, crds: [orders.shop.example.com], sinks: [main], %s}\n", r.varied)
	}
	return b.String()
}

// reconfigure changes the configuration of all bridges, and waits until the
// one that runs has taken it, or for long enough that one would have.
func (w *world) reconfigure(ctx context.Context, change func(*routes)) error {
	w.mu.Lock()
	change(&w.routes)
	w.routes.comment++
	w.mu.Unlock()
	before := w.reloads(ctx)
	for _, b := range w.bridges {
		if _, err := w.config(b.name); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for w.reloads(ctx) == before && time.Now().Before(deadline) {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// reloads is how many files the bridge that runs has taken or refused.
func (w *world) reloads(ctx context.Context) float64 {
	b := w.active()
	b.mu.Lock()
	server := b.server
	b.mu.Unlock()
	families, err := metrics(ctx, server)
	if err != nil {
		return -1
	}
	return sum(families["bridge_config_reloads_total"])
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reload changes the configuration: the route that varies, or one of the others
// is away for a while, or the file is bad for a while.
func reload(ctx context.Context, w *world) (string, error) {
	switch n := w.random.IntN(10); {
	case n < 6:
		variant := variants[w.random.IntN(len(variants))]
		return fmt.Sprintf("varied is {%s}", variant), w.reconfigure(ctx, func(r *routes) { r.varied = variant })
	case n < 9:
		away := constant[w.random.IntN(len(constant))].name
		if err := w.reconfigure(ctx, func(r *routes) { r.without = away }); err != nil {
			return "", err
		}
		d, err := w.wait(ctx, 2*time.Second)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("without %s for %v", away, d), w.reconfigure(ctx, func(r *routes) { r.without = "" })
	default:
		for _, b := range w.bridges {
			path, err := w.config(b.name)
			if err == nil {
				err = os.WriteFile(path, []byte("routes: [\n"), 0o600)
			}
			if err != nil {
				return "", err
			}
		}
		d, err := w.wait(ctx, 3*time.Second)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("bad for %v", d), w.reconfigure(ctx, func(*routes) {})
	}
}

// settle makes the configuration what it is judged by.
func (w *world) settle(ctx context.Context) error {
	w.mu.Lock()
	varied := w.routes != routes{}
	w.mu.Unlock()
	if !varied {
		return nil
	}
	return w.reconfigure(ctx, func(r *routes) { r.without, r.varied = "", everything })
}

// isConstant tells whether the oracle knows all of what a route has to tell.
func isConstant(route string) bool {
	return slices.ContainsFunc(constant, func(c struct{ name, yaml string }) bool { return c.name == route })
}
