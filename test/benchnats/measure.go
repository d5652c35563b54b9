//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nats-io/nats.go/jetstream"
)

// cell is what is published: a line of the table for each way.
type cell struct {
	size  int // bytes of an event
	flows int
	batch int
}

func (c cell) String() string {
	return fmt.Sprintf("%d B, %d flows, batches of %d", c.size, c.flows, c.batch)
}

func allCells() []cell {
	var cells []cell
	for _, size := range []int{512, 2048} {
		for _, batch := range []int{1, 4, 16, 64, 256, 512, 1000} {
			cells = append(cells, cell{size: size, flows: 1, batch: batch})
		}
		for _, batch := range []int{64, 512} {
			cells = append(cells, cell{size: size, flows: 16, batch: batch})
		}
	}
	return cells
}

func quickCells() []cell {
	return []cell{{512, 1, 1}, {512, 1, 64}, {512, 1, 1000}, {512, 16, 64}}
}

// result has, of each way, the time for an event in each round.
type result struct {
	setup
	cell
	usual way // what atomic batches are compared with
	times map[way][]time.Duration

	events, refused int // in all rounds
}

// measure lets the ways take turns on a stream of their own.
func measure(ctx context.Context, url string, s setup, c cell, o options) (_ result, err error) {
	r := result{setup: s, cell: c, usual: pipelined, times: map[way][]time.Duration{}}
	if s.replicas > 1 {
		r.usual = singles // the others would be refused
	}
	ways := []way{r.usual, atomic, atomicAcked}

	conn, js, err := connect(url)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	stream, err := newStream(ctx, js, s.replicas, true)
	if err != nil {
		return r, err
	}
	defer func() {
		err = errors.Join(err, js.DeleteStream(context.WithoutCancel(ctx), stream.CachedInfo().Config.Name))
	}()
	flows := make([]*flow, c.flows)
	for i := range flows {
		if flows[i], err = newFlow(ctx, js, stream, fmt.Sprintf("r%d", i), c.size); err != nil {
			return r, err
		}
	}
	for _, w := range ways { // to warm up
		if _, err := turn(ctx, flows, w, c.batch, 0); err != nil {
			return r, fmt.Errorf("%s: %w", w, err)
		}
	}
	for round := range o.rounds {
		for i := range ways {
			w := ways[(round+i)%len(ways)]
			t, err := turn(ctx, flows, w, c.batch, o.time)
			if err != nil {
				return r, fmt.Errorf("%s: %w", w, err)
			}
			r.times[w] = append(r.times[w], t)
		}
	}
	for _, f := range flows {
		r.events += f.sent
		r.refused += f.refused
	}
	return r, checkStored(ctx, stream, flows)
}

// turn lets each flow publish one batch after the other until a time has
// passed, and returns the time for an event.
func turn(ctx context.Context, flows []*flow, w way, batch int, atLeast time.Duration) (time.Duration, error) {
	if w == singles {
		batch = 1 // it makes no difference, and a turn does not get too long
	}
	before := sent(flows)
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range flows {
		group.Go(func() error {
			for {
				if err := f.publish(ctx, w, f.next(batch)); err != nil {
					return err
				}
				if time.Since(start) >= atLeast {
					return nil
				}
			}
		})
	}
	err := group.Wait()
	return time.Since(start) / time.Duration(sent(flows)-before), err
}

func sent(flows []*flow) int {
	n := 0
	for _, f := range flows {
		n += f.sent
	}
	return n
}

// checkStored compares what the stream holds with what was acknowledged.
func checkStored(ctx context.Context, stream jetstream.Stream, flows []*flow) error {
	info, err := stream.Info(ctx)
	if err != nil {
		return err
	}
	want := uint64(sent(flows) + len(flows)) // a message on each control subject
	if state := info.State; state.Msgs != want || state.NumSubjects != want {
		return fmt.Errorf("the stream holds %d messages on %d subjects, not %d", state.Msgs, state.NumSubjects, want)
	}
	return nil
}
