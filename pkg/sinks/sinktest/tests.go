package sinktest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

func order(t *testing.T, h Harness) {
	p := publisher(t, open(t, h), flow(0))
	batch := changes(t, flow(0), 3, 1, 40)
	must(t, p, batch[:50])
	must(t, p, batch[50:])
	verify(t, h, batch)
	if got := len(h.Stored(t)); got != len(batch) {
		t.Errorf("%d events are stored, published were %d", got, len(batch))
	}
}

func prefix(t *testing.T, h Harness) {
	p := publisher(t, open(t, h), flow(0))
	must(t, p, changes(t, flow(0), 3, 1, 1)) // from here on the sink works
	batch := changes(t, flow(0), 3, 2, 4)
	const refused = 5
	h.Refuse(&batch[refused])
	durable, err := p.Publish(t.Context(), batch)
	if err == nil || durable > refused {
		t.Fatalf("Publish of an event that cannot be stored, at %d: returned %d and %v", refused, durable, err)
	}
	stored := map[string]bool{}
	for _, id := range storedIDs(h.Stored(t)) {
		stored[id] = true
	}
	for _, id := range ids(batch[:durable]) {
		if !stored[id] {
			t.Errorf("called durable, but not stored: %s", id)
		}
	}
	for i := refused; i < len(batch); i++ {
		if batch[i].Subject() == batch[refused].Subject() && stored[batch[i].ID()] {
			t.Errorf("stored, though one before it of the same object was refused: %s", batch[i].ID())
		}
	}
	if again, err := p.Publish(t.Context(), batch[durable:refused]); err != nil {
		t.Errorf("what is before the refused event is not taken: %d of %d: %v", again, refused-durable, err)
	}
}

func again(t *testing.T, h Harness) {
	s := open(t, h)
	batch := changes(t, flow(0), 3, 1, 5)
	must(t, publisher(t, s, flow(0)), batch)
	must(t, publisher(t, s, flow(0)), batch[5:])
	must(t, publisher(t, open(t, h), flow(0)), batch) // as after a restart of the bridge
	verify(t, h, batch)
}

func cancel(t *testing.T, h Harness) {
	s := open(t, h)
	p := publisher(t, s, flow(0))
	must(t, p, changes(t, flow(0), 3, 1, 1))
	h.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	batch := changes(t, flow(0), 3, 2, 9)
	begin := time.Now()
	durable, err := p.Publish(ctx, batch)
	took := time.Since(begin)
	h.Resume(t)
	if durable != 0 || err == nil {
		t.Errorf("Publish to a server that does not answer returned %d and %v", durable, err)
	}
	if took > 5*time.Second {
		t.Errorf("Publish returned %v after its context had ended", took)
	}
	must(t, p, batch)
	verify(t, h, append(changes(t, flow(0), 3, 1, 1), batch...))
}

func unreachable(t *testing.T, h Harness) {
	h.Kill(t)
	s := open(t, h)
	p := s.Publisher(flow(0))
	batch := changes(t, flow(0), 3, 1, 3)
	told := func() bool {
		status := s.Status()
		return !status.Connected && status.LastError != ""
	}
	if !h.Local {
		eventually(t, "the status says why the sink takes nothing", told)
	}
	if durable, err := p.Publish(t.Context(), batch); durable != 0 || err == nil {
		t.Errorf("Publish without a server returned %d and %v", durable, err)
	}
	if !told() {
		t.Errorf("the sink takes nothing, and its status is %+v", s.Status())
	}
	if j, ok := p.(journal.Journal); ok {
		if _, err := j.Claim(t.Context(), &ledger{}); err == nil {
			t.Error("without a server the flow can be claimed")
		}
	}
	h.Restart(t)
	p = publisher(t, s, flow(0))
	must(t, p, batch)
	if status := s.Status(); !status.Connected || status.LastError != "" {
		t.Errorf("the sink works, and its status is %+v", status)
	}
	verify(t, h, batch)
}

func killed(t *testing.T, h Harness) {
	const flows, objects, versions, rounds = 8, 10, 60, 3
	s := open(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var delivered []events.Event
	progress := make(chan struct{}, flows*versions)
	var load sync.WaitGroup
	publishers := make([]sinks.Publisher, flows)
	for n := range flows {
		publishers[n] = publisher(t, s, flow(n))
	}
	for n, p := range publishers {
		var batches [][]events.Event
		for version := 1; version <= versions; version += 2 {
			batch := changes(t, flow(n), objects, version, version+1)
			batches = append(batches, batch)
			delivered = append(delivered, batch...)
		}
		load.Go(func() {
			for _, batch := range batches {
				if err := deliver(ctx, p, batch); err != nil {
					t.Error(err)
					return
				}
				progress <- struct{}{}
			}
		})
	}
	for range rounds {
		for range flows * versions / 2 / (rounds + 1) {
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
	if h.Durable {
		verify(t, h, delivered)
	}
}

func many(t *testing.T, h Harness) {
	const flows, objects, versions = 300, 3, 3
	s := open(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	refused := change(t, flow(flows), "large", 1)
	h.Refuse(&refused)
	stuck, stop := context.WithCancel(ctx)
	var blocked, others sync.WaitGroup
	defer blocked.Wait()
	defer stop()
	blocked.Go(func() {
		p := s.Publisher(flow(flows))
		if err := claim(stuck, p); err != nil {
			t.Error(err)
		}
		if err := deliver(stuck, p, []events.Event{refused}); err == nil {
			t.Error("an event that cannot be stored was taken")
		}
	})
	var delivered []events.Event
	for n := range flows {
		batch := changes(t, flow(n), objects, 1, versions)
		delivered = append(delivered, batch...)
		others.Go(func() {
			p := s.Publisher(flow(n))
			err := claim(ctx, p)
			if err == nil {
				err = deliver(ctx, p, batch)
			}
			if err != nil {
				t.Errorf("flow %d: %v", n, err)
			}
		})
	}
	others.Wait()
	verify(t, h, delivered)
}

func closing(t *testing.T, h Harness) {
	const flows = 20
	s := h.Open(t)
	var mu sync.Mutex
	var durable, published []events.Event
	begun := make(chan struct{}, flows)
	var publishing sync.WaitGroup
	publishers := make([]sinks.Publisher, flows)
	for n := range flows {
		publishers[n] = publisher(t, s, flow(n))
	}
	for n, p := range publishers {
		publishing.Go(func() {
			for version := 1; ; version++ {
				batch := changes(t, flow(n), 5, version, version)
				mu.Lock()
				published = append(published, batch...)
				mu.Unlock()
				if version == 3 {
					begun <- struct{}{}
				}
				for len(batch) > 0 {
					k, err := p.Publish(t.Context(), batch)
					mu.Lock()
					durable = append(durable, batch[:k]...)
					mu.Unlock()
					batch = batch[k:]
					if errors.Is(err, sinks.ErrClosed) {
						return
					}
				}
			}
		})
	}
	for range flows {
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close: %v", err)
	}
	publishing.Wait()
	if err := s.Close(ctx); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if k, err := s.Publisher(flow(0)).Publish(t.Context(), published[:1]); k != 0 || !errors.Is(err, sinks.ErrClosed) {
		t.Errorf("Publish after Close returned %d and %v", k, err)
	}
	if s.Status().Connected {
		t.Error("the sink is closed and says that it is connected")
	}
	stored := map[string]bool{}
	for _, id := range storedIDs(h.Stored(t)) {
		stored[id] = true
	}
	for i := range durable {
		if !stored[durable[i].ID()] {
			t.Errorf("called durable, but not stored: %s", durable[i].ID())
		}
	}
}

func empty(t *testing.T, h Harness) {
	s := open(t, h)
	p := publisher(t, s, flow(0))
	must(t, p, []events.Event{change(t, flow(0), "object", 1)})
	if durable, err := p.Publish(t.Context(), nil); durable != 0 || err != nil {
		t.Errorf("Publish of nothing returned %d and %v", durable, err)
	}
}
