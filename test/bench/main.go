//go:build unix

// Bench measures what a flow costs beside the usual way of doing its job, a
// shared informer of unstructured objects, in one run on one machine: heap per
// watched object and CPU per event. Both make the same events and publish them
// through the same sink to a real JetStream, from a real API server; what
// differs is how objects get from the API server to the sink.
//
// Heap is what is live after the first list is delivered, less what was live
// before it. CPU is that of the whole process for one update of each object,
// all of which are made while the process is stopped, so that it works through
// a backlog. Each variant is a process of its own, and they take turns.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/crbridge/crbridge/test/controlplane"
)

// options are the size of the measurement.
type options struct {
	objects int
	size    int // bytes of each object's spec
	rounds  int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 1 && args[0] == childArg {
		return runChild(ctx, stdout)
	}
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.objects, "objects", 5000, "how many objects are watched, and updated once in each round")
	flags.IntVar(&o.size, "size", 2048, "bytes of each object's spec")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each variant is measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.objects < 1 || o.size < 0 || o.rounds < 1 || flags.NArg() > 0 {
		return errors.New("objects and rounds are at least 1, size is not negative, and there are no arguments")
	}
	results, err := measure(ctx, o, stderr)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d objects of %d bytes, %d rounds, %s, GOMAXPROCS %d; median (least to most)\n\n",
		o.objects, o.size, o.rounds, runtime.Version(), runtime.GOMAXPROCS(0))
	return report(stdout, results)
}

// measure runs each variant in turn, for as many rounds as asked for.
func measure(ctx context.Context, o options, progress io.Writer) (_ map[variant][]result, err error) {
	fmt.Fprintln(progress, "starting a Kubernetes API server and a NATS server")
	cp, err := controlplane.Start(ctx, controlplane.Options{Progress: progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cp.Close()) }()
	server, err := controlplane.StartNATS(ctx, controlplane.NATSOptions{Progress: progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	objects, err := newObjects(ctx, cp.Admin(), o)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "creating %d objects\n", o.objects)
	if err := objects.create(ctx); err != nil {
		return nil, err
	}
	results := map[variant][]result{}
	for round := range o.rounds {
		for _, v := range variants {
			r, err := measureOnce(ctx, v, fmt.Sprintf("%s-%d", v, round), objects, cp.AdminKubeconfig(), server.URL())
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", v, round+1, err)
			}
			fmt.Fprintf(progress, "round %d of %d, %s: %.0f B of heap an object, %.0f µs of CPU an event\n",
				round+1, o.rounds, v, r.heapPerObject, r.cpuPerEvent)
			results[v] = append(results[v], r)
		}
	}
	return results, nil
}
