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
		for _, routes := range []int{1, manyRoutes} {
			if err := b.drainRoutes(ctx, round, routes); err != nil {
				return fmt.Errorf("%d routes: %w", routes, err)
			}
		}
	}
	return nil
}

func (b *bench) drainRoutes(ctx context.Context, round, routes int) (err error) {
	stream := fmt.Sprintf("routes-%d-%d", routes, round)
	m, err := b.startBridge(ctx, setup{name: stream, stream: stream, routes: routes, crds: crdName})
	if m != nil {
		defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	}
	if err != nil {
		return err
	}
	d, err := b.drainToStream(ctx, m.measured, stream, routes)
	if err != nil {
		return err
	}
	of := ofLimit
	if routes > 1 {
		of = ofBridge
	}
	n := float64(b.objects.count)
	api, cpu := micros(d.api)/n, micros(d.cpu)/n/float64(routes)
	b.sheet.add(routesAPI, 0, of, api)
	b.sheet.add(routesCPU, 0, of, cpu)
	b.say("  %d routes, round %d of %d: %.0f µs of the API server's CPU a change, %.1f µs of the bridge's a delivered event",
		routes, round+1, b.options.rounds, api, cpu)
	return nil
}
