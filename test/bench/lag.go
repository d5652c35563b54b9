//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

var (
	lagMedian = &figure{section: lagSection, name: "lag, p50", unit: "ms", digits: 2, at: "events/s", limit: "raw watch"}
	lagTail   = &figure{section: lagSection, name: "lag, p99", unit: "ms", digits: 2, at: "events/s", limit: "raw watch"}
	lagAdded  = &figure{section: lagSection, name: "behind the raw watch, p50", unit: "ms", digits: 2, at: "events/s", limit: "raw publish", goals: []goal{
		{at: steadyRate, bound: 1},
	}}
	rateCPU = &figure{section: lagSection, name: "CPU per event", unit: "µs", digits: 0, at: "events/s"}
)

// steadyRate is the number of events in a second at which the goal for the lag
// holds.
const steadyRate = 200

// lags measures how long a change takes to a subscriber of NATS while objects
// change at a steady rate, and what that costs.
func (b *bench) lags(ctx context.Context) error {
	for round := range b.options.rounds {
		if err := b.lagOfStock(ctx, round); err != nil {
			return fmt.Errorf("stock informer: %w", err)
		}
		if err := b.lagOfBridge(ctx, round); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		if err := b.lagOfPublish(ctx, round); err != nil {
			return fmt.Errorf("raw publish: %w", err)
		}
	}
	return nil
}

func (b *bench) lagOfStock(ctx context.Context, round int) (err error) {
	stream := fmt.Sprintf("lag-stock-%d", round)
	m, err := b.startStock(ctx, stream, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	return b.lagAtRates(ctx, m, ofStock, stream, round)
}

func (b *bench) lagOfBridge(ctx context.Context, round int) (err error) {
	stream := fmt.Sprintf("lag-bridge-%d", round)
	m, err := b.startBridge(ctx, setup{name: stream, stream: stream, routes: 1, crds: crdName})
	if m != nil {
		defer func() { err = errors.Join(err, m.close(ctx), b.drop(ctx, stream)) }()
	}
	if err != nil {
		return err
	}
	if err := b.lagAtRates(ctx, m.measured, ofBridge, stream, round); err != nil {
		return err
	}
	return b.profileRate(ctx, m, stream)
}

// profileRate saves a CPU profile of the bridge while objects change at the
// steady rate, which is not measured.
func (b *bench) profileRate(ctx context.Context, m *bridge, stream string) error {
	dir := b.options.profiles
	if dir == "" {
		return nil
	}
	t, err := b.follow(ctx, stream)
	if err != nil {
		return err
	}
	profile := make(chan error, 1)
	go func() {
		profile <- m.profile(ctx, dir, fmt.Sprintf("profile?seconds=%d", max(1, int(b.options.window.Seconds()))), stream+"-cpu.pprof")
	}()
	return errors.Join(b.changeAt(ctx, steadyRate, t), t.stop(), <-profile)
}

func (b *bench) lagAtRates(ctx context.Context, m *measured, of column, stream string, round int) error {
	for _, rate := range b.options.rates {
		t, err := b.follow(ctx, stream)
		if err != nil {
			return err
		}
		before, err := m.cpu()
		if err != nil {
			return errors.Join(err, t.stop())
		}
		err = errors.Join(b.changeAt(ctx, rate, t), t.stop())
		if err != nil {
			return fmt.Errorf("%d events/s: %w", rate, err)
		}
		after, err := m.cpu()
		if err != nil {
			return err
		}
		raw, lag, added := t.lags()
		b.sheet.add(lagMedian, rate, of, lag.median())
		b.sheet.add(lagTail, rate, of, lag.quantile(0.99))
		b.sheet.add(lagAdded, rate, of, added.median())
		cpu := micros(after-before) / float64(len(lag))
		b.sheet.add(rateCPU, rate, of, cpu)
		if of == ofBridge {
			b.sheet.add(lagMedian, rate, ofLimit, raw.median())
			b.sheet.add(lagTail, rate, ofLimit, raw.quantile(0.99))
		}
		b.say("  %d events/s, round %d of %d, %s: lag p50 %.2f ms, p99 %.2f ms, %.2f ms behind the raw watch, %.0f µs of CPU an event",
			rate, round+1, b.options.rounds, columnNames[of], lag.median(), lag.quantile(0.99), added.median(), cpu)
	}
	return nil
}

// changeAt changes objects at that rate for as long as the options say, and
// waits until every change has been seen by all.
func (b *bench) changeAt(ctx context.Context, rate int, t *timing) error {
	group, changing := errgroup.WithContext(ctx)
	group.SetLimit(64)
	began := time.Now()
	count := max(1, int(b.options.window.Seconds()*float64(rate)))
	for i := range count {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if err := pause(changing, time.Until(due)); err != nil {
			break
		}
		group.Go(func() error {
			sent := time.Now()
			version, err := b.objects.update(changing, i%b.objects.count)
			t.note(t.sent, version, sent, err)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := until(ctx, 10*time.Millisecond, t.complete); err != nil {
		return fmt.Errorf("waiting for the events: %w; %s", err, t)
	}
	return nil
}

// timing has the moments at which each version was sent to the API server, seen
// by the raw watch, and seen by the subscriber.
type timing struct {
	mu                  sync.Mutex
	sent, seen, arrived map[uint64]time.Time
	failed              error

	stopWatch    context.CancelFunc
	watching     sync.WaitGroup
	subscription *nats.Subscription
}

// follow begins to note what comes.
func (b *bench) follow(ctx context.Context, stream string) (*timing, error) {
	t := &timing{sent: map[uint64]time.Time{}, seen: map[uint64]time.Time{}, arrived: map[uint64]time.Time{}}
	watch, err := newRawWatch(ctx, b.cp.Admin(), func(line []byte) {
		now := time.Now()
		version, err := versionOf(line)
		t.note(t.seen, version, now, err)
	})
	if err != nil {
		return nil, err
	}
	t.subscription, err = b.conn.Subscribe(stream+".>", func(m *nats.Msg) {
		now := time.Now()
		version, err := strconv.ParseUint(m.Header.Get("ce-resourceversion"), 10, 64)
		t.note(t.arrived, version, now, err)
	})
	if err != nil {
		return nil, err
	}
	if err := b.conn.Flush(); err != nil {
		return nil, err
	}
	watched, cancel := context.WithCancel(ctx)
	t.stopWatch = cancel
	t.watching.Go(func() {
		if err := watch.run(watched); err != nil && watched.Err() == nil {
			t.note(nil, 0, time.Time{}, err)
		}
	})
	return t, nil
}

func (t *timing) stop() error {
	t.stopWatch()
	t.watching.Wait()
	return t.subscription.Unsubscribe()
}

// note notes the first moment of a version.
func (t *timing) note(into map[uint64]time.Time, version uint64, at time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failed = errors.Join(t.failed, err)
		return
	}
	if _, known := into[version]; !known {
		into[version] = at
	}
}

// complete says whether every version that was sent was seen by both.
func (t *timing) complete() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for version := range t.sent {
		if t.seen[version].IsZero() || t.arrived[version].IsZero() {
			return false, t.failed
		}
	}
	return true, t.failed
}

func (t *timing) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%d were sent, %d seen by the raw watch, %d arrived", len(t.sent), len(t.seen), len(t.arrived))
}

// lags are, in milliseconds, how long after it was sent each version was seen by
// the raw watch and by the subscriber, and how long the subscriber was behind the
// watch. What the API server needs to write is in the first two: a watch may tell
// of a change before who made it has an answer.
func (t *timing) lags() (raw, lag, added sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for version, at := range t.sent {
		raw = append(raw, millis(t.seen[version].Sub(at)))
		lag = append(lag, millis(t.arrived[version].Sub(at)))
		added = append(added, millis(t.arrived[version].Sub(t.seen[version])))
	}
	return raw, lag, added
}

func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// lagOfPublish measures how long a message takes from who publishes it to a
// stream to who has subscribed to its subject, both in this process.
func (b *bench) lagOfPublish(ctx context.Context, round int) (err error) {
	const stream = "lag-publish"
	s, err := b.js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: []string{stream + ".>"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop(ctx, s.CachedInfo().Config.Name)) }()
	conn, err := nats.Connect(b.nats.URL())
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	arrived := make(chan time.Time, 1)
	subscription, err := b.conn.Subscribe(stream+".>", func(*nats.Msg) { arrived <- time.Now() })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscription.Unsubscribe()) }()
	if err := b.conn.Flush(); err != nil {
		return err
	}
	data := make([]byte, b.options.size)
	for _, rate := range b.options.rates {
		var lags sample
		for range max(1, int(b.options.window.Seconds()*float64(min(rate, steadyRate)))) {
			began := time.Now()
			ack, err := js.PublishMsgAsync(&nats.Msg{Subject: stream + ".x", Data: data})
			if err != nil {
				return err
			}
			select {
			case at := <-arrived:
				lags = append(lags, millis(at.Sub(began)))
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case <-ack.Ok():
			case err := <-ack.Err():
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := pause(ctx, time.Until(began.Add(time.Second/time.Duration(rate)))); err != nil {
				return err
			}
		}
		b.sheet.add(lagAdded, rate, ofLimit, lags.median())
		b.say("  %d events/s, round %d of %d, raw publish: %.2f ms to a subscriber", rate, round+1, b.options.rounds, lags.median())
	}
	return nil
}
