//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

const mib = 1 << 20

var (
	drainRate = &figure{section: drainSection, name: "events in a second, drain", digits: 0, limit: "raw watch", goals: []goal{
		{against: ofLimit, atLeast: true, bound: 0.9},
	}}
	drainCPU = &figure{section: drainSection, name: "CPU per event, drain", unit: "µs", digits: 1, limit: "raw watch", goals: []goal{
		{against: ofStock, bound: 0.25},
	}}
	drainPeak   = &figure{section: drainSection, name: "peak memory, drain", unit: "MiB", digits: 0, limit: "raw watch"}
	publishRate = &figure{section: drainSection, name: "events in a second, drain; published in atomic batches", digits: 0, limit: "raw publish"}
	singlesRate = &figure{section: drainSection, name: "events in a second, drain; published singly", digits: 0, limit: "raw publish"}
	publishCPU  = &figure{section: drainSection, name: "CPU per event, drain; published in atomic batches", unit: "µs", digits: 1, limit: "raw publish"}
)

// drained is what a process used to catch up with one change of each object.
type drained struct {
	took time.Duration
	cpu  time.Duration
	api  time.Duration // CPU of the API server meanwhile
	from uint64        // sequence of the stream before
}

// drain stops the process, changes each object once, lets the process go on, and
// waits until it has told of all of it, which is when after returns.
func (b *bench) drain(ctx context.Context, m *measured, after func(ctx context.Context, last place) error) (d drained, err error) {
	if err := m.Pause(ctx); err != nil {
		return d, err
	}
	last, err := b.objects.updateAll(ctx)
	if err != nil {
		return d, errors.Join(fmt.Errorf("changing the objects: %w", err), m.Signal(syscall.SIGCONT))
	}
	cpu, err := m.cpu()
	if err != nil {
		return d, err
	}
	api, err := cpuOf(b.cp.APIServer.PID())
	if err != nil {
		return d, err
	}
	began := time.Now()
	if err := m.Signal(syscall.SIGCONT); err != nil {
		return d, err
	}
	if err := after(ctx, last); err != nil {
		return d, err
	}
	d.took = time.Since(began)
	if d.cpu, err = m.cpu(); err != nil {
		return d, err
	}
	d.cpu -= cpu
	if d.api, err = cpuOf(b.cp.APIServer.PID()); err != nil {
		return d, err
	}
	d.api -= api
	return d, nil
}

// drainToStream is drain for what writes to a stream, on so many routes. It
// fails unless the stream has one event more for each object and route.
func (b *bench) drainToStream(ctx context.Context, m *measured, stream string, routes int) (drained, error) {
	from, err := b.lastSequence(ctx, stream)
	if err != nil {
		return drained{}, err
	}
	d, err := b.drain(ctx, m, func(ctx context.Context, last place) error {
		for r := range routes {
			if err := b.stored(ctx, stream, r, last); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return d, err
	}
	d.from = from
	got, err := b.events(ctx, stream, from)
	if want := b.objects.count * routes; err == nil && got != want {
		err = fmt.Errorf("stream %s has %d events of the drain, want %d", stream, got, want)
	}
	return d, err
}

// drains measures the bridge, the stock informer and the limits, by turns.
func (b *bench) drains(ctx context.Context) error {
	for round := range b.options.rounds {
		if err := b.drainWatch(ctx, round); err != nil {
			return fmt.Errorf("raw watch: %w", err)
		}
		if err := b.drainStock(ctx, round); err != nil {
			return fmt.Errorf("stock informer: %w", err)
		}
		if err := b.drainBridge(ctx, round); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
	}
	return nil
}

func (b *bench) drainWatch(ctx context.Context, round int) (err error) {
	m, err := b.child(ctx, "watch", fmt.Sprintf("watch-%d", round), settings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx)) }()
	if err := expect(ctx, m, b.objects.count); err != nil {
		return err
	}
	d, err := b.drain(ctx, m, func(ctx context.Context, _ place) error { return wait(ctx, m) })
	if err != nil {
		return err
	}
	return b.noteDrain("raw watch", round, ofLimit, m, d)
}

func (b *bench) drainStock(ctx context.Context, round int) (err error) {
	stream := fmt.Sprintf("stock-%d", round)
	m, err := b.startStock(ctx, stream, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	if err := b.noteMemory(ctx, ofStock, m); err != nil {
		return err
	}
	d, err := b.drainToStream(ctx, m, stream, 1)
	if err != nil {
		return err
	}
	return b.noteDrain("stock informer", round, ofStock, m, d)
}

func (b *bench) drainBridge(ctx context.Context, round int) (err error) {
	stream := fmt.Sprintf("bridge-%d", round)
	m, err := b.startBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: crdName})
	if m != nil {
		defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	}
	if err != nil {
		return err
	}
	if err := b.noteMemory(ctx, ofBridge, m.measured); err != nil {
		return err
	}
	d, err := b.drainToStream(ctx, m.measured, stream, 1)
	if err != nil {
		return err
	}
	if err := b.noteDrain("bridge", round, ofBridge, m.measured, d); err != nil {
		return err
	}
	if err := b.profileDrain(ctx, m, stream); err != nil {
		return err
	}
	return b.publishSame(ctx, round, stream, d)
}

// noteDrain notes and tells what came of a drain.
func (b *bench) noteDrain(who string, round int, of column, m *measured, d drained) error {
	memory, err := memoryOf(m.PID())
	if err != nil {
		return err
	}
	n := float64(b.objects.count)
	b.sheet.add(drainRate, 0, of, n/d.took.Seconds())
	b.sheet.add(drainCPU, 0, of, micros(d.cpu)/n)
	b.sheet.add(drainPeak, 0, of, memory.peak/mib)
	b.say("  drain, round %d of %d, %s: %.0f events/s, %.1f µs of CPU an event, the API server's %.1f µs, peak %.0f MiB",
		round+1, b.options.rounds, who, n/d.took.Seconds(), micros(d.cpu)/n, micros(d.api)/n, memory.peak/mib)
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// profileDrain saves a CPU profile of one more drain, which is not measured.
func (b *bench) profileDrain(ctx context.Context, m *bridge, stream string) error {
	dir := b.options.profiles
	if dir == "" {
		return nil
	}
	profile := make(chan error, 1)
	_, err := b.drain(ctx, m.measured, func(ctx context.Context, last place) error {
		go func() {
			profile <- m.profile(ctx, dir, "profile?seconds="+fmt.Sprint(b.profileSeconds()), stream+"-drain-cpu.pprof")
		}()
		return b.stored(ctx, stream, 0, last)
	})
	return errors.Join(err, <-profile, m.profile(ctx, dir, "heap?gc=1", stream+"-heap.pprof"))
}

// profileSeconds is about as long as a drain takes.
func (b *bench) profileSeconds() int { return max(1, b.objects.count/2_500) }
