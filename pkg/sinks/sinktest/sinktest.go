// Package sinktest is the conformance suite for sinks: what pkg/sinks promises
// to those who publish, tried on a sink and the real server behind it.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Harness is one kind of sink, with a server of its own that the suite may
// treat badly. The server runs when the suite gets it, and nothing is in it.
type Harness struct {
	// Open opens a new sink that leads to the server, running or not.
	Open func(t *testing.T) sinks.Sink
	// OpenForgetful is Open, if the sink is the first that leads to the server,
	// but what is stored more than a moment ago is not known again by its id.
	// It is for publishers that are journals, nil where they are not.
	OpenForgetful func(t *testing.T) sinks.Sink
	// Stored is what the server has taken, oldest first.
	Stored func(t *testing.T) []event.Event
	// Kill ends the server at once; Restart starts it again with what it had.
	Kill, Restart func(t *testing.T)
	// Pause has the server read nothing and answer nothing until Resume.
	Pause, Resume func(t *testing.T)
	// Refuse makes an event one that the sink can never take.
	Refuse func(e *events.Event)
	// OncePerID tells that the sink stores an event that is published again
	// only once.
	OncePerID bool
	// Local tells that the sink has no server to look for: that it cannot
	// deliver shows with the first event.
	Local bool
	// Durable tells that what the sink calls durable outlives the server's
	// process. Where it does not, the suite asks for less after a failure.
	Durable bool
	// Leaks excepts goroutines that are left by a library's fault.
	Leaks []goleak.Option
}

// Cluster is where the suite's events come from.
const Cluster = "test"

// patience is how long the suite waits for what has to come.
const patience = 30 * time.Second

// Run tries a sink. start gives each test a fresh harness.
func Run(t *testing.T, start func(t *testing.T) Harness) {
	run(t, start, []test{
		{"keeps the order within and across batches", order},
		{"says how far a batch is durable when an event is refused", prefix},
		{"stores a batch that is published again as it says", again},
		{"returns when its context ends, and what it called durable is", cancel},
		{"opens without its server, and works when the server comes", unreachable},
		{"loses nothing and keeps the order when its server is killed under load", killed},
		{"carries hundreds of flows, whatever one of them does", many},
		{"closes while batches are on their way", closing},
		{"takes an empty batch for durable", empty},
	})
}

// RunJournal tries what a sink promises whose publishers are journals.
func RunJournal(t *testing.T, start func(t *testing.T) Harness) {
	run(t, start, []test{
		{"knows nothing of a flow that is new", unknown},
		{"gives nothing twice to who has it", claimedAgain},
		{"publishes and records nothing that is not claimed", unclaimed},
		{"lets another take over, and the first no more", takenOver},
		{"keeps rows that no event tells", recorded},
		{"begins with a snapshot and goes on with what came after", snapshot},
		{"takes no harm from a snapshot that does not count", uncounted},
		{"keeps two histories apart", rebased},
		{"is claimed when its server comes", claimedLater},
		{"stores each event once, in order, whoever claims and whenever its server is killed", handedOver},
	})
}

type test struct {
	name string
	run  func(*testing.T, Harness)
}

func run(t *testing.T, start func(t *testing.T) Harness, tests []test) {
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			var h Harness
			t.Cleanup(func() { goleak.VerifyNone(t, append(h.Leaks, before)...) }) // the last to run: all else is closed by then
			h = start(t)
			test.run(t, h)
		})
	}
}

// open opens a sink that is closed when the test ends.
func open(t *testing.T, h Harness) sinks.Sink {
	t.Helper()
	s := h.Open(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// flow is the n-th flow's.
func flow(n int) sinks.Flow {
	return sinks.Flow{Route: "route" + strconv.Itoa(n), CRD: "orders.shop.example.com"}
}

// publisher is the flow's; it is claimed where it is a journal.
func publisher(t *testing.T, s sinks.Sink, f sinks.Flow) sinks.Publisher {
	t.Helper()
	p := s.Publisher(f)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := claim(ctx, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// claim claims the publisher's flow, again and again until that works. One
// that is no journal needs no claim.
func claim(ctx context.Context, p sinks.Publisher) error {
	if _, ok := p.(journal.Journal); !ok {
		return nil
	}
	return claimWith(ctx, p, &ledger{})
}

// uid is the object's.
func uid(object string) uuid.UUID { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(object)) }

// change is the event for a version of an object of a flow.
func change(t *testing.T, f sinks.Flow, object string, version int) events.Event {
	t.Helper()
	return changeOf(t, f, events.Updated, object, version)
}

// changeOf is the event for what has happened to an object of a flow.
func changeOf(t *testing.T, f sinks.Flow, what events.Type, name string, version int) events.Event {
	t.Helper()
	e, err := events.New(
		events.Origin{
			Cluster: Cluster, Group: "shop.example.com", Version: "v1", Kind: "Order", Resource: "orders",
			Namespaced: true, Route: f.Route,
		}, nil,
		events.Change{
			Type: what, Namespace: "default", Name: name, UID: uid(name).String(),
			ResourceVersion: uint64(version), Observed: time.Unix(int64(version), 0),
			Object: &object.Object{JSON: fmt.Appendf(nil, `{"spec":{"version":%d}}`, version)},
		})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// changes are versions from first to last of objects, taking turns.
func changes(t *testing.T, f sinks.Flow, objects, first, last int) (batch []events.Event) {
	t.Helper()
	for version := first; version <= last; version++ {
		for object := range objects {
			batch = append(batch, change(t, f, "object"+strconv.Itoa(object), version))
		}
	}
	return batch
}

// deliver publishes a batch as flows do: again and again, until all of it is
// durable.
func deliver(ctx context.Context, p sinks.Publisher, batch []events.Event) error {
	for len(batch) > 0 {
		attempt, cancel := context.WithTimeout(ctx, patience/3)
		durable, err := p.Publish(attempt, batch)
		cancel()
		switch all := durable == len(batch); {
		case err == nil && !all:
			return fmt.Errorf("publishing %d events returned %d and no error", len(batch), durable)
		case err != nil && all:
			return fmt.Errorf("publishing %d events took all of them, and returned an error: %w", len(batch), err)
		}
		batch = batch[durable:]
		if errors.Is(err, journal.ErrReplaced) {
			if err := claim(ctx, p); err != nil {
				return err
			}
		}
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%d events are not durable: %w", len(batch), err)
			}
			pause(ctx, 20*time.Millisecond)
		}
	}
	return nil
}

// must delivers within the suite's patience.
func must(t *testing.T, p sinks.Publisher, batch []events.Event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := deliver(ctx, p, batch); err != nil {
		t.Fatal(err)
	}
}

// pause is the delay between two attempts.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !condition() {
		if ctx.Err() != nil {
			t.Fatalf("after %v still not: %s", patience, what)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

func ids(batch []events.Event) []string {
	all := make([]string, len(batch))
	for i := range batch {
		all[i] = batch[i].ID()
	}
	return all
}

func storedIDs(stored []event.Event) []string {
	all := make([]string, len(stored))
	for i := range stored {
		all[i] = stored[i].ID()
	}
	return all
}

// verify checks what is stored against what was delivered: nothing is missing
// or invented, and the first copies of each object's events of each flow are
// in order.
func verify(t *testing.T, h Harness, delivered []events.Event) {
	t.Helper()
	type object struct{ route, subject string }
	wanted := map[string]bool{}
	for i := range delivered {
		wanted[delivered[i].ID()] = true
	}
	seen, last := map[string]int{}, map[object]string{}
	for _, e := range h.Stored(t) {
		if !wanted[e.ID()] {
			t.Errorf("stored, but never published: %s", e.ID())
		}
		seen[e.ID()]++
		extensions := e.Extensions()
		o := object{fmt.Sprint(extensions[events.ExtRoute]), e.Subject()}
		sequence := fmt.Sprint(extensions[events.ExtSequence])
		if seen[e.ID()] == 1 {
			if sequence <= last[o] {
				t.Errorf("%v: sequence %s is stored after %s", o, sequence, last[o])
			}
			last[o] = sequence
		}
		if h.OncePerID && seen[e.ID()] == 2 {
			t.Errorf("stored twice: %s", e.ID())
		}
	}
	missing := slices.DeleteFunc(ids(delivered), func(id string) bool { return seen[id] > 0 })
	if len(missing) > 0 {
		t.Errorf("%d of %d events are not stored, the first is %s", len(missing), len(delivered), missing[0])
	}
}
