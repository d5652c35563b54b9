//go:build unix

// Command soak breaks a real bridge and everything around it at random, as often
// as it is told to, and reports what came of it. It ends with status 1 where
// a guarantee was broken, and prints the seed that did it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/crbridge/crbridge/test/faults"
	"github.com/crbridge/crbridge/test/servers"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	count := flag.Int("faults", 1000, "how many faults")
	part := flag.Int("part", 100, "how many faults until everything is started anew and the oracle looks at what came through")
	seed := flag.Uint64("seed", uint64(rand.Uint32()), "what all choices come from")
	nodes := flag.Int("nodes", 1, "how many NATS servers: more than one are a cluster, and each has all of the stream")
	kinds := flag.String("kinds", "", "names of the faults to choose from, separated by commas; default: all")
	bridge := flag.String("bridge", "", "a bridge that was built with the tag failpoints; default: it is built")
	flag.Parse()
	dir, err := os.MkdirTemp("", "crbridge-soak-")
	if err != nil {
		return err
	}
	if *bridge == "" {
		if *bridge, err = servers.BuildBridge(ctx, dir, os.Stdout, "-tags=failpoints"); err != nil {
			return err
		}
	}
	var total faults.Report
	began := time.Now()
	for done := 0; done < *count && ctx.Err() == nil; done += *part {
		opts := faults.Options{
			Bridge: *bridge, Faults: min(*part, *count-done), Seed: *seed + uint64(done / *part), Nodes: *nodes,
			Dir: filepath.Join(dir, fmt.Sprintf("part%d", done / *part)), Progress: os.Stdout,
		}
		if *kinds != "" {
			opts.Kinds = strings.Split(*kinds, ",")
		}
		if err := os.Mkdir(opts.Dir, 0o755); err != nil {
			return err
		}
		report, err := faults.Run(ctx, opts)
		if err != nil {
			fmt.Println(total.String())
			return fmt.Errorf("seed %d, logs in %s: %w", opts.Seed, opts.Dir, err)
		}
		total.Add(report)
		fmt.Printf("%d of %d faults, %v, violations: %d\n", total.Count(), *count, time.Since(began).Round(time.Second), len(total.Violations))
		if len(report.Violations) > 0 {
			fmt.Println(total.String())
			return fmt.Errorf("seed %d broke a guarantee; logs are in %s", opts.Seed, opts.Dir)
		}
		if err := os.RemoveAll(opts.Dir); err != nil {
			return err
		}
	}
	fmt.Println(total.String())
	return errors.Join(ctx.Err(), os.RemoveAll(dir))
}
