package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// resyncTimeout is how long a sink may take to store a request.
const resyncTimeout = 30 * time.Second

// resync asks the bridge that runs the route, or that will, to deliver the
// present state of its objects again. The request is stored where the flows
// keep their ledgers: so it reaches the one bridge that leads, wherever it
// runs, and outlives its restart.
func resync(ctx context.Context, o options, environ []string, stdout, _ io.Writer) (err error) {
	path, route := o.config, o.route
	if route == "" {
		return usageError{errors.New("bridge resync: --route R is required")}
	}
	c, err := loadConfig(path, environ)
	if err != nil {
		return err
	}
	names, err := keepersOf(c, path, route)
	if err != nil {
		return err
	}
	open, err := openSinks(ctx, c, sinks.Environment{Guest: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(ctx, open)) }()
	ctx, cancel := context.WithTimeout(ctx, resyncTimeout)
	defer cancel()
	for _, name := range names {
		number, err := request(ctx, open[name], route)
		if err != nil {
			return fmt.Errorf("route %s: %w", route, err)
		}
		fmt.Fprintf(stdout, "sink %s has the request, number %d: the bridge that runs route %s tells of all its objects again, as existing, with ids that end in .r%d\n",
			name, number, route, number)
	}
	return nil
}

// keepersOf are the sinks that keep the ledgers of the route's flows.
func keepersOf(c *config.Config, path, route string) ([]string, error) {
	i := slices.IndexFunc(c.Routes, func(r config.Route) bool { return r.Name == route })
	if i < 0 {
		names := make([]string, 0, len(c.Routes))
		for _, r := range c.Routes {
			names = append(names, r.Name)
		}
		return nil, usageError{fmt.Errorf("%s: there is no route %q; there are: %s", path, route, strings.Join(names, ", "))}
	}
	var keepers []string
	for _, sink := range c.Routes[i].Sinks {
		keeper := sink
		if _, of := c.Sinks[sink].Kind(); !of.KeepsLedgers() {
			keeper = c.State.Sink
		}
		if keeper == "" {
			return nil, usageError{fmt.Errorf("%s: routes[%d].sinks: sink %q keeps nothing, and state.sink names none that does: "+
				"restart the bridge instead, it then tells of all objects as existing", path, i, sink)}
		}
		if !slices.Contains(keepers, keeper) {
			keepers = append(keepers, keeper)
		}
	}
	return keepers, nil
}

// request stores a request, as often as it takes for the sink to be connected.
func request(ctx context.Context, sink sinks.Sink, route string) (uint64, error) {
	for {
		number, err := sink.Keeper().RequestResync(ctx, route)
		if err == nil {
			return number, nil
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
