//go:build linux

// Bench measures what the bridge costs, beside what cannot be beaten and beside
// the usual way of doing its job, in one run on one machine, with a real API
// server and a real JetStream:
//
//   - the raw watch reads the API server's watch of the objects, counts its
//     frames and throws them away: faster than that no event can be had; in
//     drains a second one does so over HTTP/1.1;
//   - the raw publish is a loop of nats.go that publishes the very messages of
//     the bridge: faster than that no event can be made durable;
//   - the stock informer is client-go's shared informer of unstructured objects,
//     whose handler makes the same events and publishes them through the same
//     sink;
//   - the bridge is the binary that is released, with a configuration file.
//
// Each is a process of its own. They take turns, as many as there are rounds, and
// are compared within a round. Those that catch up with a backlog are stopped
// together, three times in each round, and go on one after the other: each has the
// same to catch up with, and is compared with those that did so just before or
// after. CPU is that of the whole process, in user and
// kernel; memory is what the process has resident, as the kernel counts it; heap
// is what is live after a collection.
//
// The program fails where a goal is missed, if it is told to check them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil:
		return
	case errors.Is(err, flag.ErrHelp):
		return
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	stop()
	if _, usage := errors.AsType[*usageError](err); usage {
		os.Exit(2) //nolint:gocritic // stop was called
	}
	os.Exit(1)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == childArg {
		return runChild(ctx, args[1:])
	}
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return err
		}
	}
	began := time.Now()
	sheet, about, err := measure(ctx, o, stderr)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "measured in %v\n\n", time.Since(began).Round(time.Second))
	report := sheet.report(about)
	if _, err := io.WriteString(stdout, report); err != nil {
		return err
	}
	switch {
	case o.doc == "":
	case !o.whole():
		fmt.Fprintln(stderr, "\nnot written down: that takes all sections, and three rounds")
	default:
		if err := writeDoc(o.doc, report, sheet); err != nil {
			return err
		}
	}
	if missed := sheet.missed(); o.check && len(missed) > 0 {
		return &missedError{missed}
	}
	return nil
}

// bench is a run.
type bench struct {
	*world
	options options
	objects *objects
	sheet   *sheet
	empty   map[column]float64 // heap without objects
}

// measure measures what the options say: first all that is done with the objects
// of one CRD, of which there are ever more, then many CRDs.
func measure(ctx context.Context, o options, progress io.Writer) (*sheet, about, error) {
	b := &bench{options: o, sheet: &sheet{}, empty: map[column]float64{}}
	var about about
	if counts := o.counts(); len(counts) > 0 {
		err := b.inWorld(ctx, progress, func(ctx context.Context) (err error) {
			if about, err = b.about(ctx); err != nil {
				return err
			}
			return b.withObjects(ctx, counts)
		})
		if err != nil {
			return nil, about, err
		}
	}
	if o.selected(crdsSection) {
		err := b.inWorld(ctx, progress, func(ctx context.Context) (err error) {
			if about, err = b.about(ctx); err != nil {
				return err
			}
			return b.crds(ctx)
		})
		if err != nil {
			return nil, about, err
		}
	}
	return b.sheet, about, nil
}

// inWorld does something with servers of its own.
func (b *bench) inWorld(ctx context.Context, progress io.Writer, do func(context.Context) error) (err error) {
	if b.world, err = newWorld(ctx, b.options, progress); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(err != nil || b.options.keep)) }()
	return do(ctx)
}

func (b *bench) withObjects(ctx context.Context, counts []int) (err error) {
	if b.objects, err = newObjects(ctx, b.cp.Admin(), b.options.size); err != nil {
		return err
	}
	for _, count := range counts {
		b.say("creating objects, until there are %s", thousands(count))
		if err := b.objects.grow(ctx, count); err != nil {
			return fmt.Errorf("creating objects: %w", err)
		}
		for _, s := range b.options.at(count) {
			b.say("%s, with %s objects", s, thousands(count))
			if err := b.section(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
	}
	return nil
}

func (b *bench) section(ctx context.Context, s section) error {
	switch s {
	case drainSection:
		return b.drains(ctx)
	case memorySection:
		return b.memories(ctx)
	case lagSection:
		return b.lags(ctx)
	case restartSection:
		return b.restarts(ctx)
	case routesSection:
		return b.routes(ctx)
	default:
		return b.crds(ctx)
	}
}
