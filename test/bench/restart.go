//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	restartTime = &figure{section: restartSection, name: "restart, until it runs and a change is durable", unit: "s", digits: 2, at: "objects", goals: []goal{
		{bound: 2},
	}}
	restartCPU = &figure{section: restartSection, name: "CPU of a restart", unit: "s", digits: 2, at: "objects"}
	goneTime   = &figure{section: restartSection, name: "restart after 410, until it runs and a change is durable", unit: "s", digits: 2, at: "objects"}
	goneCPU    = &figure{section: restartSection, name: "CPU per unchanged object, after 410", unit: "µs", digits: 1, at: "objects", goals: []goal{
		{bound: 15},
	}}
	gonePeak = &figure{section: restartSection, name: "peak memory, after 410", unit: "MiB", digits: 0, at: "objects", goals: []goal{
		{at: 100_000, bound: 120},
	}}
)

// changedWhileDown is how many objects change while the bridge is down. Where
// little has happened for 75 s, an API server keeps no more than the last 100
// changes of a resource (defaultLowerBoundCapacity, resizeCacheLocked in
// k8s.io/apiserver/pkg/storage/cacher/watch_cache.go): with as many as that, it
// may no longer have what came before.
const changedWhileDown = 50

// restarted is what a start took.
type restarted struct {
	took, cpu time.Duration
	peak      float64
	lists     float64 // requests for a list of the objects that the API server had meanwhile
}

// restarts measures how long the bridge is away when it is ended and started
// again: while the API server still has what happened meanwhile, and when it has
// not, so that the bridge has to look for it in a list.
func (b *bench) restarts(ctx context.Context) (err error) {
	const stream = "restart"
	m, err := b.startBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: crdName})
	if m != nil {
		defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	}
	if err != nil {
		return err
	}
	n := b.objects.count
	for round := range b.options.rounds {
		kept, err := b.restart(ctx, m, func(context.Context) error { return nil })
		if err != nil {
			return fmt.Errorf("restart: %w", err)
		}
		if kept.lists != 0 {
			return fmt.Errorf("the bridge has listed %.0f times after a restart, although the API server had all that happened", kept.lists)
		}
		gone, err := b.restart(ctx, m, b.forget)
		if err != nil {
			return fmt.Errorf("restart after 410: %w", err)
		}
		if gone.lists == 0 {
			return errors.New("the bridge has not listed, although the API server has forgotten what happened")
		}
		unchanged := micros(gone.cpu-kept.cpu) / float64(n-min(n, changedWhileDown))
		b.sheet.add(restartTime, n, ofBridge, kept.took.Seconds())
		b.sheet.add(restartCPU, n, ofBridge, kept.cpu.Seconds())
		b.sheet.add(goneTime, n, ofBridge, gone.took.Seconds())
		b.sheet.add(goneCPU, n, ofBridge, unchanged)
		b.sheet.add(gonePeak, n, ofBridge, gone.peak/mib)
		b.say("  restart, round %d of %d: %.2f s and %.2f s of CPU; after 410 %.2f s and %.2f s of CPU, %.1f µs for each unchanged object, peak %.0f MiB",
			round+1, b.options.rounds, kept.took.Seconds(), kept.cpu.Seconds(), gone.took.Seconds(), gone.cpu.Seconds(), unchanged, gone.peak/mib)
	}
	return nil
}

// restart ends the bridge, changes some objects, does what else is to be done
// while it is down, starts it, and waits until it runs and all is durable.
func (b *bench) restart(ctx context.Context, m *bridge, down func(context.Context) error) (r restarted, err error) {
	if err := m.close(ctx); err != nil {
		return r, err
	}
	var last place
	// The last in a list as well as in a watch, so that the list is over when its
	// change is durable.
	for i := max(0, b.objects.count-changedWhileDown); i < b.objects.count; i++ {
		if last, err = b.objects.touch(ctx, i); err != nil {
			return r, err
		}
	}
	if err := down(ctx); err != nil {
		return r, err
	}
	before, err := b.lists(ctx)
	if err != nil {
		return r, err
	}
	m.began = time.Now()
	if err := m.Start(ctx); err != nil {
		return r, err
	}
	if err := errors.Join(m.running(ctx, 1), b.stored(ctx, m.stream, 0, last)); err != nil {
		return r, err
	}
	r.took = time.Since(m.began)
	if r.cpu, err = m.cpu(); err != nil {
		return r, err
	}
	memory, err := memoryOf(m.PID())
	if err != nil {
		return r, err
	}
	r.peak = memory.peak
	r.lists, err = b.lists(ctx)
	r.lists -= before
	return r, err
}

// forget has the API server lose what it knows of the past: etcd is compacted,
// and the API server, which keeps some of it, is started again.
func (b *bench) forget(ctx context.Context) error {
	if err := b.cp.Compact(ctx); err != nil {
		return err
	}
	if err := b.cp.APIServer.Restart(ctx); err != nil {
		return err
	}
	// Its own first list of the objects is not what is measured.
	return until(ctx, 50*time.Millisecond, func() (bool, error) {
		_, err := b.objects.client.List(ctx, metav1.ListOptions{Limit: 1, ResourceVersion: "0"})
		return err == nil, nil // asked again until ctx ends
	})
}

// lists is how often the API server was asked for a list of the objects.
func (b *bench) lists(ctx context.Context) (float64, error) {
	return b.cp.Metric(ctx, "apiserver_request_total", map[string]string{"verb": "LIST", "group": resource.Group, "resource": resource.Resource})
}
