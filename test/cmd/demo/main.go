//go:build unix

// Demo shows the bridge at work on one machine, with nothing but Go installed:
// it starts a real Kubernetes API server and a real NATS server, runs the
// bridge between them, keeps changing custom resources, and prints each event
// as a NATS subscriber gets it. Ctrl-C stops all that it started.
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
	// A second Ctrl-C ends the demo at once; the kernel ends its children.
	context.AfterFunc(ctx, stop)
	os.Exit(demo(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the demo's flags.
type options struct {
	duration time.Duration
	crdCycle time.Duration
	bridge   string
}

// demo runs the demo and returns its exit status: 0 when it was asked to end or
// its time was up, 1 when something failed, 2 when it was called wrongly.
func demo(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var opts options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&opts.duration, "duration", 0, "end by itself after so long, counted from the first change (default: at Ctrl-C)")
	flags.DurationVar(&opts.crdCycle, "crd-cycle", 30*time.Second, "remove the CRD and make it again so often; 0 is never")
	flags.StringVar(&opts.bridge, "bridge", "", "run this executable (default: build cmd/bridge)")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "demo: unexpected argument %q\n", flags.Arg(0))
		return 2
	case opts.duration < 0 || opts.crdCycle < 0:
		fmt.Fprintln(stderr, "demo: a duration cannot be negative")
		return 2
	}
	if err := run(ctx, opts, newScreen(stdout)); err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}
	return 0
}
