//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
)

var (
	routesAPI = &figure{section: routesSection, name: "the API server's CPU per change, 5 routes", unit: "µs", digits: 0, limit: "1 route", goals: []goal{
		{against: ofLimit, bound: 1.3},
	}}
	routesCPU = &figure{section: routesSection, name: "the bridge's CPU per delivered event, 5 routes", unit: "µs", digits: 1, limit: "1 route"}
)

// manyRoutes is how many routes have the same CRD.
const manyRoutes = 5

// routes measures what it costs to deliver the same changes on several routes,
// beside one.
func (b *bench) routes(ctx context.Context) error {
	for round := range b.options.rounds {
		if err := b.drainRoutes(ctx, round); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) drainRoutes(ctx context.Context, round int) (err error) {
	var followers []follower
	defer func() {
		for _, f := range followers {
			err = errors.Join(err, f.close(ctx), b.drop(ctx, f.stream))
		}
	}()
	for _, of := range []struct {
		column
		routes int
	}{{ofLimit, 1}, {ofBridge, manyRoutes}} {
		f := follower{name: fmt.Sprintf("%d routes", of.routes), of: of.column, stream: fmt.Sprintf("routes-%d-%d", of.routes, round), routes: of.routes}
		m, err := b.startBridge(ctx, setup{name: f.stream, stream: f.stream, routes: f.routes, crds: crdName})
		if m != nil {
			f.measured = m.measured
			followers = append(followers, f)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	n := float64(b.objects.count)
	for turn := range drainsEach {
		drained, err := b.drain(ctx, turn, followers...)
		if err != nil {
			return err
		}
		for i, f := range followers {
			api, cpu := micros(drained[i].api)/n, micros(drained[i].cpu)/n/float64(f.routes)
			b.sheet.add(routesAPI, 0, f.of, api)
			b.sheet.add(routesCPU, 0, f.of, cpu)
			b.say("  %s, round %d of %d, turn %d of %d: %.0f µs of the API server's CPU a change, %.1f µs of the bridge's a delivered event",
				f.name, round+1, b.options.rounds, turn+1, drainsEach, api, cpu)
		}
	}
	return nil
}
