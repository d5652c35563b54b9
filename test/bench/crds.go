//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
)

var (
	flowsMemory = &figure{section: crdsSection, name: "memory, idle", unit: "MiB", digits: 0, at: "CRDs", goals: []goal{
		{at: 1000, bound: 150},
	}}
	flowsPeak     = &figure{section: crdsSection, name: "peak memory", unit: "MiB", digits: 0, at: "CRDs"}
	flowsHeap     = &figure{section: crdsSection, name: "heap per flow, idle", unit: "KiB", digits: 1, at: "CRDs"}
	flowsRoutines = &figure{section: crdsSection, name: "goroutines per flow, idle", digits: 1, at: "CRDs"}
	flowsStart    = &figure{section: crdsSection, name: "until all flows run", unit: "s", digits: 1, at: "CRDs"}
	flowsCPU      = &figure{section: crdsSection, name: "CPU until all flows run", unit: "s", digits: 1, at: "CRDs"}
	flowsStorm    = &figure{section: crdsSection, name: "most requests to read in flight, until all flows run", digits: 0, at: "CRDs"}
)

// crds measures many flows, each of a CRD of its own of which there is nothing.
func (b *bench) crds(ctx context.Context) error {
	none, err := b.withoutFlows(ctx)
	if err != nil {
		return err
	}
	created := 0
	for _, count := range b.options.crds {
		b.say("creating CRDs, until there are %s", thousands(count))
		err := parallel(ctx, created, count, func(ctx context.Context, i int) error { return createCRD(ctx, b.cp.Admin(), numbered(i)) })
		if err != nil {
			return err
		}
		created = count
		for round := range b.options.rounds {
			if err := b.flowsOfStock(ctx, count, round, none[ofStock]); err != nil {
				return fmt.Errorf("%d CRDs, stock informers: %w", count, err)
			}
			if err := b.flowsOfBridge(ctx, count, round, none[ofBridge]); err != nil {
				return fmt.Errorf("%d CRDs, bridge: %w", count, err)
			}
		}
	}
	return nil
}

func (b *bench) flowsOfStock(ctx context.Context, count, round int, none idle) (err error) {
	stream := fmt.Sprintf("crds-stock-%d-%d", count, round)
	storm := b.watchStorm(ctx)
	m, err := b.child(ctx, "stock", stream, settings{stream: stream, crds: count})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	return b.noteFlows(ctx, ofStock, count, round, m, none, storm)
}

func (b *bench) flowsOfBridge(ctx context.Context, count, round int, none idle) (err error) {
	stream := fmt.Sprintf("crds-bridge-%d-%d", count, round)
	m, err := b.newBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: "*." + group})
	if err != nil {
		return err
	}
	storm := b.watchStorm(ctx)
	m.began = time.Now()
	if err := m.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	if err := m.running(ctx, count); err != nil {
		return err
	}
	if err := b.noteFlows(ctx, ofBridge, count, round, m.measured, none, storm); err != nil {
		return err
	}
	dir := b.options.profiles
	if dir == "" {
		return nil
	}
	return errors.Join(m.profile(ctx, dir, "heap?gc=1", stream+"-heap.pprof"), m.profile(ctx, dir, "goroutine?debug=1", stream+"-goroutines.txt"))
}

// noteFlows notes what a process took until it followed all CRDs, which it does
// now, and what it has then.
func (b *bench) noteFlows(ctx context.Context, of column, count, round int, m *measured, none idle, storm func() (float64, error)) error {
	took := time.Since(m.began)
	cpu, err := m.cpu()
	if err != nil {
		return err
	}
	requests, err := storm()
	if err != nil {
		return err
	}
	before, err := memoryOf(m.PID())
	if err != nil {
		return err
	}
	now, err := m.idle(ctx)
	if err != nil {
		return err
	}
	settled, err := m.settled(ctx)
	if err != nil {
		return err
	}
	n := float64(count)
	b.sheet.add(flowsMemory, count, of, settled.resident/mib)
	b.sheet.add(flowsPeak, count, of, max(before.peak, settled.resident)/mib)
	b.sheet.add(flowsHeap, count, of, (now.heap-none.heap)/1024/n)
	b.sheet.add(flowsRoutines, count, of, (now.routines-none.routines)/n)
	b.sheet.add(flowsStart, count, of, took.Seconds())
	b.sheet.add(flowsCPU, count, of, cpu.Seconds())
	b.sheet.add(flowsStorm, count, of, requests)
	b.say("  %s CRDs, round %d of %d, %s: run after %.1f s and %.1f s of CPU, %.0f MiB, peak %.0f MiB, heap %.1f MiB, %.0f goroutines, %.0f requests in flight",
		thousands(count), round+1, b.options.rounds, columnNames[of], took.Seconds(), cpu.Seconds(), settled.resident/mib, before.peak/mib, now.heap/mib, now.routines, requests)
	return nil
}

// idle is what a process has that has nothing to do.
type idle struct{ heap, routines float64 }

func (m *measured) idle(ctx context.Context) (i idle, err error) {
	if i.heap, err = m.heap(ctx); err != nil {
		return i, err
	}
	i.routines, err = m.metric(ctx, "go_goroutines")
	return i, err
}

// withoutFlows is what the processes have that follow no CRD.
func (b *bench) withoutFlows(ctx context.Context) (_ map[column]idle, err error) {
	const stream = "crds-none"
	stock, err := b.child(ctx, "stock", stream+"-stock", settings{stream: stream, crds: noCRDs})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stock.close(ctx), b.drop(ctx, stream)) }()
	bridge, err := b.newBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: "*." + group})
	if err != nil {
		return nil, err
	}
	if err := bridge.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bridge.close(ctx)) }()
	if err := bridge.await(ctx, flow.Waiting, 1); err != nil { // of the wildcard
		return nil, err
	}
	none := map[column]idle{}
	if none[ofStock], err = stock.idle(ctx); err != nil {
		return nil, err
	}
	none[ofBridge], err = bridge.idle(ctx)
	return none, err
}

// watchStorm begins to look how many requests to read the API server has in
// hand, and returns a function that ends it and tells the most. The server shows
// the most of the last second; its watches do not count, and the question does.
func (b *bench) watchStorm(ctx context.Context) func() (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	var most float64
	var failed error
	look := func() {
		n, err := b.cp.Metric(context.WithoutCancel(ctx), "apiserver_current_inflight_requests", map[string]string{"request_kind": "readOnly"})
		most, failed = max(most, n), errors.Join(failed, err)
	}
	looking.Go(func() {
		for pause(ctx, time.Second) == nil {
			look()
		}
	})
	return func() (float64, error) {
		cancel()
		looking.Wait()
		look()
		return most, failed
	}
}
