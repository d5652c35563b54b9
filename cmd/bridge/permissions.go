package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/crbridge/crbridge/pkg/sinks/nats"
)

// printPermissions prints what the NATS user of each sink has to be allowed, in
// the form of nats-server's configuration.
func printPermissions(_ context.Context, o options, environ []string, stdout, _ io.Writer) error {
	c, err := loadConfig(o.config, environ)
	if err != nil {
		return err
	}
	printed := 0
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		settings := c.Sinks[name].NATS
		if settings == nil || settings.Embedded != nil { // which permits all to who may connect
			continue
		}
		publish, subscribe, err := settings.Permissions(visiting(c, name))
		if err != nil {
			return err
		}
		if printed++; printed > 1 {
			fmt.Fprintln(stdout)
		}
		fmt.Fprintf(stdout, "# What the NATS user of sink %s needs, and no more.\n", name)
		table := tabwriter.NewWriter(stdout, 0, 0, 1, ' ', 0)
		fmt.Fprint(table, "permissions: {\n")
		permissions(table, "publish", publish)
		permissions(table, "subscribe", subscribe)
		fmt.Fprint(table, "}\n")
		if err := table.Flush(); err != nil {
			return err
		}
	}
	if printed == 0 {
		return usageError{fmt.Errorf("bridge permissions: %s has no sink that leads to a NATS server of others", o.config)}
	}
	return nil
}

func permissions(w io.Writer, verb string, all []nats.Permission) {
	fmt.Fprintf(w, "  %s: {allow: [\n", verb)
	for _, p := range all {
		fmt.Fprintf(w, "    %q\t# %s\n", p.Subject, strings.TrimSpace(p.For))
	}
	fmt.Fprint(w, "  ]}\n")
}
