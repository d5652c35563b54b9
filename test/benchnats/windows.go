//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/process"
)

const (
	// steadyRate is how many events come in a second: as many as an API server's
	// watch brings in a backlog.
	steadyRate = 7_000
	// steadyFor is how long they come for each window of each round.
	steadyFor = 2 * time.Second
	// steadyBytes is an event's payload, and steadyHeaders the attributes that it
	// has besides.
	steadyBytes   = 2048
	steadyHeaders = 15
)

// window is how many events are published in one go, and how.
type window struct {
	events int
	way    way
}

func allWindows() []window {
	var windows []window
	for _, events := range []int{8, 32, 64, 128, 192, 256, 512} {
		windows = append(windows, window{events, pipelined})
	}
	return append(windows, window{256, atomic}, window{512, atomic})
}

// cost is what an event costs, in microseconds of CPU, in each round.
type cost struct{ server, client, both []float64 }

// compareWindows measures on one server what an event costs where events come at
// a steady rate, and wait until there is a window of them.
func compareWindows(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	server, err := controlplane.StartNATS(ctx, controlplane.NATSOptions{Progress: stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := keepStream(ctx, server.URL(), 1); err != nil {
		return err
	}
	costs := make([]cost, len(o.windows))
	for round := range o.rounds {
		for i, w := range o.windows {
			if err := costs[i].measure(ctx, server, w); err != nil {
				return fmt.Errorf("windows of %d, %s: %w", w.events, w.way, err)
			}
			fmt.Fprintf(stderr, "round %d of %d: windows of %d, %s: %.1f µs of CPU an event\n", round+1, o.rounds, w.events, w.way, costs[i].both[round])
		}
	}
	fmt.Fprintf(stdout, "\nWhat an event of %d B with %d attributes costs where %d come in a second, in µs of CPU; median (least to most)\n\n", steadyBytes, steadyHeaders, steadyRate)
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "window\tway\tserver\tclient\tboth")
	for i, w := range o.windows {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", w.events, w.way, spread(costs[i].server), spread(costs[i].client), spread(costs[i].both))
	}
	return table.Flush()
}

// measure publishes so for a while, to a stream of its own.
func (c *cost) measure(ctx context.Context, server *controlplane.NATSServer, w window) (err error) {
	conn, js, err := connect(server.URL())
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := newStream(ctx, js, 1, true)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, js.DeleteStream(context.WithoutCancel(ctx), stream.CachedInfo().Config.Name))
	}()
	f, err := newFlow(ctx, js, stream, "r0", steadyBytes)
	if err != nil {
		return err
	}
	windows := make([][]*nats.Msg, max(1, int(steadyFor.Seconds()*steadyRate)/w.events))
	for i := range windows {
		windows[i] = f.next(w.events)
		for _, m := range windows[i] {
			describe(m)
		}
	}
	pids := []int{server.PID(), os.Getpid()}
	before, err := usedBy(pids)
	if err != nil {
		return err
	}
	start := time.Now()
	for i, messages := range windows {
		there := time.Duration((i+1)*w.events) * time.Second / steadyRate // the last of them
		select {
		case <-time.After(time.Until(start.Add(there))):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := f.publish(ctx, w.way, messages); err != nil {
			return err
		}
	}
	after, err := usedBy(pids)
	if err != nil {
		return err
	}
	each := func(i int) float64 {
		return float64((after[i] - before[i]).Nanoseconds()) / 1000 / float64(f.sent)
	}
	c.server, c.client, c.both = append(c.server, each(0)), append(c.client, each(1)), append(c.both, each(0)+each(1))
	return checkStored(ctx, stream, []*flow{f})
}

// describe adds what a bridge's event has besides.
func describe(m *nats.Msg) {
	for i := range steadyHeaders {
		m.Header["ce-attribute"+strconv.Itoa(i)] = []string{"the value of attribute " + strconv.Itoa(i)}
	}
}

func usedBy(pids []int) (used []time.Duration, err error) {
	for _, pid := range pids {
		cpu, err := process.CPU(pid)
		if err != nil {
			return nil, err
		}
		used = append(used, cpu)
	}
	return used, nil
}
