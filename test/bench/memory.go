//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	resident = &figure{section: memorySection, name: "memory when all is listed", unit: "MiB", digits: 0, at: "objects", goals: []goal{
		{at: 20_000, against: ofStock, bound: 0.1},
	}}
	peak = &figure{section: memorySection, name: "peak memory of the first list", unit: "MiB", digits: 0, at: "objects", goals: []goal{
		{at: 100_000, bound: 120},
	}}
	heapPerObject = &figure{section: memorySection, name: "heap per object", unit: "B", digits: 0, at: "objects", goals: []goal{
		{at: 100_000, bound: 120},
	}}
	listCPU  = &figure{section: memorySection, name: "CPU per object, first list", unit: "µs", digits: 1, at: "objects"}
	listTime = &figure{section: memorySection, name: "first list, until all is durable", unit: "s", digits: 1, at: "objects"}
)

// memories measures what the bridge and the stock informer need to keep up with
// all the objects that there are, by turns.
func (b *bench) memories(ctx context.Context) error {
	for round := range b.options.rounds {
		if err := b.memoryOfStock(ctx, fmt.Sprintf("stock-%d-%d", b.objects.count, round)); err != nil {
			return fmt.Errorf("stock informer: %w", err)
		}
		if err := b.memoryOfBridge(ctx, fmt.Sprintf("bridge-%d-%d", b.objects.count, round)); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
	}
	return nil
}

func (b *bench) memoryOfStock(ctx context.Context, stream string) (err error) {
	m, err := b.startStock(ctx, stream, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	return b.noteMemory(ctx, ofStock, m)
}

func (b *bench) memoryOfBridge(ctx context.Context, stream string) (err error) {
	m, err := b.startBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: crdName})
	if m != nil {
		defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	}
	if err != nil {
		return err
	}
	return b.noteMemory(ctx, ofBridge, m.measured)
}

// noteMemory notes what a process has that has listed all objects, and the heap
// of which is larger by that than one that has listed none.
func (b *bench) noteMemory(ctx context.Context, of column, m *measured) error {
	cpu, err := m.cpu() // before what is asked of it here
	if err != nil {
		return err
	}
	took := time.Since(m.began)
	first, err := memoryOf(m.PID())
	if err != nil {
		return err
	}
	heap, err := m.heap(ctx)
	if err != nil {
		return err
	}
	settled, err := m.settled(ctx)
	if err != nil {
		return err
	}
	empty, err := b.emptyHeap(ctx, of)
	if err != nil {
		return err
	}
	n := b.objects.count
	b.sheet.add(resident, n, of, settled.resident/mib)
	b.sheet.add(peak, n, of, max(first.peak, settled.resident)/mib)
	b.sheet.add(heapPerObject, n, of, (heap-empty)/float64(n))
	b.sheet.add(listCPU, n, of, micros(cpu)/float64(n))
	b.sheet.add(listTime, n, of, took.Seconds())
	b.say("  %s objects, %s: listed in %.1f s with %.1f µs of CPU each, %.0f MiB, peak %.0f MiB, %.0f B of heap an object",
		thousands(n), columnNames[of], took.Seconds(), micros(cpu)/float64(n),
		settled.resident/mib, first.peak/mib, (heap-empty)/float64(n))
	return nil
}

// emptyHeap is the heap of a process that follows a CRD without objects. It is
// measured once.
func (b *bench) emptyHeap(ctx context.Context, of column) (_ float64, err error) {
	if heap, known := b.empty[of]; known {
		return heap, nil
	}
	stream := fmt.Sprintf("empty-%d", of)
	var m *measured
	if of == ofBridge {
		bridge, err := b.startBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: emptyCRD})
		if err != nil {
			return 0, err
		}
		m = bridge.measured
	} else if m, err = b.startStock(ctx, stream, true); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	heap, err := m.heap(ctx)
	b.empty[of] = heap
	return heap, err
}

// startStock starts the stock informer's pipeline and returns when all objects
// are durable.
func (b *bench) startStock(ctx context.Context, stream string, empty bool) (*measured, error) {
	m, err := b.child(ctx, "stock", stream, settings{stream: stream, empty: empty})
	if err != nil || empty {
		return m, err
	}
	return m, b.told(ctx, stream, b.objects.count)
}

// told waits until the stream has that many events.
func (b *bench) told(ctx context.Context, stream string, count int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	return until(ctx, 20*time.Millisecond, func() (bool, error) {
		last, err := b.lastSequence(ctx, stream)
		if err != nil || last < uint64(count) {
			return false, err
		}
		n, err := b.events(ctx, stream, 0)
		return n >= count, err
	})
}
