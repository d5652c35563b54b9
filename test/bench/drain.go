//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/crbridge/crbridge/test/process"
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
	plainRate   = &figure{section: drainSection, name: "events in a second, drain; over HTTP/1.1", digits: 0, limit: plainWatch}
	plainCPU    = &figure{section: drainSection, name: "CPU per event, drain; over HTTP/1.1", unit: "µs", digits: 1, limit: plainWatch}
	publishRate = &figure{section: drainSection, name: "events in a second, drain; published in atomic batches", digits: 0, limit: "raw publish"}
	singlesRate = &figure{section: drainSection, name: "events in a second, drain; published singly", digits: 0, limit: "raw publish"}
	publishCPU  = &figure{section: drainSection, name: "CPU per event, drain; published in atomic batches", unit: "µs", digits: 1, limit: "raw publish"}
)

// plainWatch is a raw watch over a connection of its own, as the bridge has it
// where much comes. The raw watch is what client-go makes of its configuration,
// over HTTP/2.
const plainWatch = "raw watch over HTTP/1.1"

// drained is what a process used to catch up with one change of each object.
type drained struct {
	took time.Duration
	cpu  time.Duration
	api  time.Duration // CPU of the API server meanwhile
	from uint64        // sequence of the stream before
}

// drainsEach is how often the same processes catch up in a round. Of all that is
// measured here, how fast they do depends most on what the machine does else.
const drainsEach = 3

// follower is a process that follows the objects.
type follower struct {
	*measured
	name   string
	of     column
	stream string // that it writes to; empty: it counts what comes, see watchWork
	routes int
	plain  bool   // it is the limit over HTTP/1.1
	goesOn func() // called when it does after it was stopped; may be nil
}

// drain stops all these processes, changes each object once, and lets them go on,
// one when the one before it has told of all of it, the first of them first. So
// they have the same to catch up with, and a machine that is not the same for
// long is for all of them.
func (b *bench) drain(ctx context.Context, first int, followers ...follower) (_ []drained, err error) {
	defer func() {
		if err != nil {
			for _, f := range followers {
				err = errors.Join(err, f.Signal(syscall.SIGCONT))
			}
		}
	}()
	for _, f := range followers {
		if f.stream == "" {
			if err := expect(ctx, f.measured, b.objects.count); err != nil {
				return nil, err
			}
		}
		if err := f.Pause(ctx); err != nil {
			return nil, err
		}
	}
	last, err := b.objects.updateAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("changing the objects: %w", err)
	}
	all := make([]drained, len(followers))
	for i := range followers {
		n := (first + i) % len(followers)
		if all[n], err = b.catchUp(ctx, followers[n], last); err != nil {
			return nil, fmt.Errorf("%s: %w", followers[n].name, err)
		}
	}
	return all, nil
}

// catchUp lets a process that was stopped go on, and waits until it has told of
// all up to the last change. What writes to a stream fails unless that has one
// event more for each object and route.
func (b *bench) catchUp(ctx context.Context, f follower, last place) (d drained, err error) {
	if f.stream != "" {
		if d.from, err = b.lastSequence(ctx, f.stream); err != nil {
			return d, err
		}
	}
	// Its heap is so large that this costs as much as half of what the process has
	// to catch up with, and would come with some processes and not with others.
	if err := b.cp.CollectGarbage(ctx); err != nil {
		return d, err
	}
	cpu, err := f.cpu()
	if err != nil {
		return d, err
	}
	api, err := process.CPU(b.cp.APIServer.PID())
	if err != nil {
		return d, err
	}
	began := time.Now()
	if err := f.Signal(syscall.SIGCONT); err != nil {
		return d, err
	}
	if f.goesOn != nil {
		f.goesOn()
	}
	if f.stream == "" {
		err = wait(ctx, f.measured)
	}
	for r := range f.routes {
		err = errors.Join(err, b.stored(ctx, f.stream, r, last))
	}
	if err != nil {
		return d, err
	}
	d.took = time.Since(began)
	if d.cpu, err = f.cpu(); err != nil {
		return d, err
	}
	d.cpu -= cpu
	if d.api, err = process.CPU(b.cp.APIServer.PID()); err != nil {
		return d, err
	}
	d.api -= api
	if f.stream == "" {
		return d, nil
	}
	got, err := b.events(ctx, f.stream, d.from)
	if want := b.objects.count * f.routes; err == nil && got != want {
		err = fmt.Errorf("stream %s has %d events of the drain, want %d", f.stream, got, want)
	}
	return d, err
}

// drains measures the bridge, the stock informer and the limits, by turns.
func (b *bench) drains(ctx context.Context) error {
	for round := range b.options.rounds {
		if err := b.drainsOf(ctx, round); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) drainsOf(ctx context.Context, round int) (err error) {
	watch := follower{name: "raw watch", of: ofLimit}
	if watch.measured, err = b.child(ctx, "watch", fmt.Sprintf("watch-%d", round), settings{}); err != nil {
		return fmt.Errorf("%s: %w", watch.name, err)
	}
	defer func() { err = errors.Join(err, watch.close(ctx)) }()

	plain := follower{name: plainWatch, of: ofLimit, plain: true}
	if plain.measured, err = b.child(ctx, "watch", fmt.Sprintf("watch-http1-%d", round), settings{http1: true}); err != nil {
		return fmt.Errorf("%s: %w", plain.name, err)
	}
	defer func() { err = errors.Join(err, plain.close(ctx)) }()

	stock := follower{name: "stock informer", of: ofStock, stream: fmt.Sprintf("stock-%d", round), routes: 1}
	if stock.measured, err = b.startStock(ctx, stock.stream, false); err != nil {
		return fmt.Errorf("%s: %w", stock.name, err)
	}
	defer func() { err = errors.Join(err, stock.close(ctx), b.drop(ctx, stock.stream)) }()
	if err := b.noteMemory(ctx, ofStock, stock.measured); err != nil {
		return fmt.Errorf("%s: %w", stock.name, err)
	}

	stream := fmt.Sprintf("bridge-%d", round)
	bridge, err := b.startBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: crdName})
	if bridge != nil {
		defer func() { err = errors.Join(err, bridge.close(ctx), b.drop(ctx, stream)) }()
	}
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := b.noteMemory(ctx, ofBridge, bridge.measured); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}

	followers := []follower{watch, plain, stock, {measured: bridge.measured, name: "bridge", of: ofBridge, stream: stream, routes: 1}}
	for turn := range drainsEach {
		drained, err := b.drain(ctx, turn, followers...)
		if err != nil {
			return err
		}
		for i, f := range followers {
			if err := b.noteDrain(f, round, turn, drained[i]); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
		if err := b.publishSame(ctx, round, turn, stream, drained[len(drained)-1]); err != nil {
			return fmt.Errorf("raw publish: %w", err)
		}
	}
	return b.profileDrain(ctx, bridge, followers[len(followers)-1])
}

// noteDrain notes and tells what came of a drain.
func (b *bench) noteDrain(f follower, round, turn int, d drained) error {
	memory, err := memoryOf(f.PID())
	if err != nil {
		return err
	}
	n := float64(b.objects.count)
	if !f.plain {
		b.sheet.add(drainRate, 0, f.of, n/d.took.Seconds())
		b.sheet.add(drainCPU, 0, f.of, micros(d.cpu)/n)
		b.sheet.add(drainPeak, 0, f.of, memory.peak/mib)
	}
	if f.plain || f.of == ofBridge {
		b.sheet.add(plainRate, 0, f.of, n/d.took.Seconds())
		b.sheet.add(plainCPU, 0, f.of, micros(d.cpu)/n)
	}
	b.say("  drain, round %d of %d, turn %d of %d, %s: %.0f events/s, %.1f µs of CPU an event, the API server's %.1f µs, peak %.0f MiB",
		round+1, b.options.rounds, turn+1, drainsEach, f.name, n/d.took.Seconds(), micros(d.cpu)/n, micros(d.api)/n, memory.peak/mib)
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// profileDrain saves a CPU profile of one more drain, which is not measured.
func (b *bench) profileDrain(ctx context.Context, m *bridge, f follower) error {
	dir := b.options.profiles
	if dir == "" {
		return nil
	}
	profile := make(chan error, 1)
	f.goesOn = func() {
		go func() {
			profile <- m.profile(ctx, dir, "profile?seconds="+fmt.Sprint(b.profileSeconds()), f.stream+"-drain-cpu.pprof")
		}()
	}
	if _, err := b.drain(ctx, 0, f); err != nil {
		return err
	}
	return errors.Join(<-profile, m.profile(ctx, dir, "heap?gc=1", f.stream+"-heap.pprof"))
}

// profileSeconds is about as long as a drain takes.
func (b *bench) profileSeconds() int { return max(1, b.objects.count/2_500) }
