package sinktest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	handedOverObjects  = 10
	handedOverVersions = 120
	handovers          = 6
)

// handedOver has two bridges take flows from each other under load, while the
// server is killed. Each goes on from what its ledger says, so that an event
// too many, too few or out of order shows.
func handedOver(t *testing.T, h Harness) {
	const flows, rounds = 4, 3
	bridges := [2]sinks.Sink{}
	for i := range bridges {
		h := h
		h.Open = h.OpenForgetful
		bridges[i] = open(t, h)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	progress := make(chan struct{}, flows*handedOverVersions*handovers)
	var load sync.WaitGroup
	for n := range flows {
		load.Go(func() { handOver(ctx, t, bridges, flow(n), progress) })
	}
	for range rounds {
		for range flows * handedOverVersions / 2 / (rounds + 1) {
			select {
			case <-progress:
			case <-ctx.Done():
				t.Fatal("no progress")
			}
		}
		h.Kill(t)
		h.Restart(t)
	}
	load.Wait()
	if t.Failed() {
		return
	}
	next := map[string]int{}
	for _, e := range h.Stored(t) {
		object := fmt.Sprint(e.Extensions()[events.ExtRoute], " ", e.Subject())
		if got := fmt.Sprint(e.Extensions()[events.ExtResourceVersion]); got != fmt.Sprint(next[object]+1) {
			t.Errorf("%s: version %s is stored after %d", object, got, next[object])
		}
		next[object]++
	}
	if len(next) != flows*handedOverObjects {
		t.Errorf("there are %d objects", len(next))
	}
	for object, n := range next {
		if n != handedOverVersions {
			t.Errorf("%s: %d versions are stored, there were %d", object, n, handedOverVersions)
		}
	}
}

// handOver delivers all versions of a flow's objects, by one bridge after the
// other. Each goes on until it is shut out.
func handOver(ctx context.Context, t *testing.T, bridges [2]sinks.Sink, f sinks.Flow, progress chan<- struct{}) {
	var running sync.WaitGroup
	defer running.Wait()
	for turn := range handovers {
		p := bridges[turn%2].Publisher(f)
		l := &ledger{}
		if err := claimWith(ctx, p, l); err != nil {
			t.Error(err)
			return
		}
		upTo := handedOverVersions
		if turn < handovers-1 {
			upTo = handedOverVersions * (turn + 1) / handovers
		}
		reached := make(chan struct{})
		running.Go(func() {
			if err := deliverTurn(ctx, t, p, f, l, upTo, reached, progress); err != nil {
				t.Errorf("%v, turn %d: %v", f, turn, err)
			}
		})
		select {
		case <-reached:
		case <-ctx.Done():
			t.Errorf("%v: turn %d took too long", f, turn)
			return
		}
	}
}

// deliverTurn delivers version after version, and says when it has reached one.
func deliverTurn(ctx context.Context, t *testing.T, p sinks.Publisher, f sinks.Flow, l *ledger, upTo int, reached chan<- struct{}, progress chan<- struct{}) error {
	said := false
	defer func() {
		if !said {
			close(reached)
		}
	}()
	for {
		batch := l.next(t, f)
		if version := l.least(); !said && version >= upTo {
			close(reached)
			said = true
		}
		if len(batch) == 0 {
			return nil
		}
		for len(batch) > 0 {
			attempt, cancel := context.WithTimeout(ctx, patience/3)
			durable, err := p.Publish(attempt, batch)
			cancel()
			l.take(batch[:durable])
			batch = batch[durable:]
			if _, fenced := errors.AsType[*journal.FencedError](err); fenced {
				return nil
			}
			if errors.Is(err, journal.ErrReplaced) {
				if err := claimWith(ctx, p, l); err != nil {
					return err
				}
				break
			}
			if err != nil {
				if ctx.Err() != nil {
					return err
				}
				pause(ctx, 5*time.Millisecond)
			}
		}
		select {
		case progress <- struct{}{}:
		default:
		}
	}
}

// least is the version that all objects have reached.
func (l *ledger) least() int {
	if len(l.rows) < handedOverObjects {
		return 0
	}
	least := handedOverVersions
	for _, row := range l.rows {
		least = min(least, int(row.Version))
	}
	return least
}

// next are the two versions of each object that come after those it has.
func (l *ledger) next(t *testing.T, f sinks.Flow) (batch []events.Event) {
	for step := 1; step <= 2; step++ {
		for n := range handedOverObjects {
			object := fmt.Sprint("object", n)
			if version := int(l.rows["default/"+object].Version) + step; version <= handedOverVersions {
				batch = append(batch, change(t, f, object, version))
			}
		}
	}
	return batch
}

// claimWith claims until that works or ctx ends.
func claimWith(ctx context.Context, p sinks.Publisher, l *ledger) error {
	for {
		_, err := p.(journal.Journal).Claim(ctx, l)
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause(ctx, 20*time.Millisecond)
	}
}
