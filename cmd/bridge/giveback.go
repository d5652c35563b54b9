package main

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/crbridge/crbridge/internal/residue"
	"github.com/crbridge/crbridge/pkg/flow"
)

const (
	// settledFor is for how long no flow starts or changes its state before what
	// the start needed is given back.
	settledFor = 3 * time.Second
	// giveBackEvery is how often that is done at most: where CRDs come and go all
	// the time, so does what their flows need.
	giveBackEvery = 10 * time.Minute
)

// giveBack gives memory back whenever flows have started and settled, until ctx is
// done.
func giveBack(ctx context.Context, flows func() []flow.Status, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	began := time.Now()
	var last, done time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if !done.IsZero() && now.Sub(done) < giveBackEvery {
				continue
			}
			all := flows()
			changed, settled := lastChange(all, began)
			if !settled || now.Sub(changed) < settledFor || changed.Equal(last) {
				continue
			}
			if last = changed; started(all) {
				done = now
			}
			dropped, err := residue.GiveBack()
			log.Debug("memory that the start needed is given back", "executableKiB", dropped>>10, "error", err)
		}
	}
}

// lastChange is when a flow last changed its state since the process began, and
// whether none is starting.
func lastChange(flows []flow.Status, began time.Time) (last time.Time, settled bool) {
	last = began
	for _, f := range flows {
		if f.State == flow.Starting {
			return time.Time{}, false
		}
		if f.Since.After(last) {
			last = f.Since
		}
	}
	return last, true
}

// started tells whether a flow has: a standby's have their start before them.
func started(flows []flow.Status) bool {
	return slices.ContainsFunc(flows, func(f flow.Status) bool { return f.State != flow.Standby && f.State != flow.Waiting })
}
