package main

import (
	"context"
	"log/slog"
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
			changed, settled := lastChange(flows(), began)
			if !settled || now.Sub(changed) < settledFor || changed.Equal(last) {
				continue
			}
			last, done = changed, now
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
