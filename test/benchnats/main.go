//go:build linux

// Benchnats measures what it costs to publish events durably to a JetStream
// stream behind a fence, in the two ways that there are: single messages with
// the fence in each, and atomic batches with the fence in the first message. It
// starts real nats-servers, one and a cluster of three, each with the default
// sync_interval and with "always".
//
// First it prints facts that code which publishes so has to know, having put
// each question to the servers that it measures. Then comes a table, and from
// which batch size on an atomic batch is the faster way.
//
// Then it measures what an event costs the server and who publishes it, by how
// many are published in one go, where they come at the rate of a backlog.
//
// A flow has one batch in flight. Of each line of the table the ways took
// turns, and figures are medians of the rounds; ratios are taken within a round.
// How many messages the stream holds in the end is checked.
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
	"time"

	"github.com/crbridge/crbridge/test/controlplane"
)

// options are the size of the measurement.
type options struct {
	rounds int
	time   time.Duration // of one way in one round
	cells  []cell
	// windows are those whose price is compared at a steady rate.
	windows []window
	slow    bool // ask the facts that take long, too
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "benchnats:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	var quick, factsOnly, windowsOnly bool
	flags := flag.NewFlagSet("benchnats", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&quick, "quick", false, "few sizes, short rounds, and no facts that take long: a minute in all")
	flags.BoolVar(&factsOnly, "facts", false, "print the facts only")
	flags.BoolVar(&windowsOnly, "windows", false, "measure only what an event costs, by how many are published in one go")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each way is measured")
	flags.DurationVar(&o.time, "time", 100*time.Millisecond, "for how long each way publishes in a round")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.cells, o.windows, o.slow = allCells(), allWindows(), !quick
	if quick {
		o.windows = []window{{32, pipelined}, {256, pipelined}, {256, atomic}}
		o.cells, o.rounds, o.time = quickCells(), min(o.rounds, 2), min(o.time, 50*time.Millisecond)
	}
	if o.rounds < 1 || o.time <= 0 || flags.NArg() > 0 {
		return errors.New("rounds and time are above 0, and there are no arguments")
	}
	if windowsOnly {
		return compareWindows(ctx, o, stdout, stderr)
	}
	setups := []setup{{replicas: 1}, {replicas: 1, syncAlways: true}, {replicas: 3}, {replicas: 3, syncAlways: true}}
	var results []result
	for _, s := range setups {
		if factsOnly && s.syncAlways {
			continue // the facts do not depend on it
		}
		r, err := onServer(ctx, s, o, factsOnly, stdout, stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		results = append(results, r...)
	}
	if factsOnly {
		return nil
	}
	fmt.Fprintf(stdout, "\n%d rounds of %s, %s, GOMAXPROCS %d; median (least to most)\n\n", o.rounds, o.time, runtime.Version(), runtime.GOMAXPROCS(0))
	if err := report(stdout, results); err != nil {
		return err
	}
	fmt.Fprintln(stdout)
	if err := recommend(stdout, results); err != nil {
		return err
	}
	return compareWindows(ctx, o, stdout, stderr)
}

// setup is a server, or a cluster, that is measured.
type setup struct {
	replicas   int
	syncAlways bool
}

func (s setup) sync() string {
	if s.syncAlways {
		return "always"
	}
	return "default"
}

func (s setup) String() string { return fmt.Sprintf("R%d, sync %s", s.replicas, s.sync()) }

func onServer(ctx context.Context, s setup, o options, factsOnly bool, stdout, stderr io.Writer) (_ []result, err error) {
	opts := controlplane.NATSOptions{Progress: stderr}
	if s.syncAlways {
		opts.JetStream = "sync_interval: always"
	}
	var url string
	var cluster *controlplane.NATSCluster
	if s.replicas == 1 {
		server, err := controlplane.StartNATS(ctx, opts)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, server.Close()) }()
		url = server.URL()
	} else {
		cluster, err = controlplane.StartNATSCluster(ctx, s.replicas, opts)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, cluster.Close()) }()
		url = cluster.URL()
	}
	if err := keepStream(ctx, url, s.replicas); err != nil {
		return nil, err
	}
	if factsOnly || !s.syncAlways {
		fmt.Fprintf(stderr, "%s: facts\n", s)
		if err := askAll(ctx, stdout, asked{url: url, replicas: s.replicas, cluster: cluster}, o.slow); err != nil || factsOnly {
			return nil, err
		}
		if cluster != nil {
			if err := cluster.Start(ctx); err != nil {
				return nil, err
			}
		}
	}
	results := make([]result, 0, len(o.cells))
	for _, c := range o.cells {
		start := time.Now()
		r, err := measure(ctx, url, s, c, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c, err)
		}
		fmt.Fprintf(stderr, "%s: %s: %d events in %s\n", s, c, r.events, time.Since(start).Round(time.Millisecond))
		results = append(results, r)
	}
	return results, nil
}
