//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// rollup makes a message into one that takes the place of all that its subject
// has.
func rollup(msg *nats.Msg) *nats.Msg {
	msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	return msg
}

func (f *flow) controlMsg() *nats.Msg {
	return &nats.Msg{Subject: f.control(), Header: nats.Header{}}
}

func (f *flow) allowRollup(ctx context.Context) error {
	config := f.stream.CachedInfo().Config
	config.AllowRollup = true
	_, err := f.js.UpdateStream(ctx, config)
	return err
}

func factRollupNotAllowed(ctx context.Context, f *flow) (string, error) {
	single := f.single(ctx, rollup(f.fenced(f.controlMsg())))
	msgs := f.fencedFirst(4)
	rollup(msgs[3])
	batch, err := f.batch(ctx, msgs, false)
	return "single message " + single + "; last of a batch " + batch, err
}

func factRollupSingle(ctx context.Context, f *flow) (string, error) {
	if err := f.allowRollup(ctx); err != nil {
		return "", err
	}
	return f.rolledUp(ctx, f.control(), f.single(ctx, rollup(f.fenced(f.controlMsg()))))
}

func factRollupStale(ctx context.Context, f *flow) (string, error) {
	if err := f.allowRollup(ctx); err != nil {
		return "", err
	}
	if err := f.lose(ctx); err != nil {
		return "", err
	}
	single := f.single(ctx, rollup(f.fenced(f.controlMsg())))
	batch, err := f.batch(ctx, append(f.fencedFirst(3), rollup(f.controlMsg())), false)
	if err != nil {
		return "", err
	}
	return f.rolledUp(ctx, f.control(), "single message "+single+"; last of a batch "+batch)
}

func factRollupFirst(ctx context.Context, f *flow) (string, error) {
	if err := f.allowRollup(ctx); err != nil {
		return "", err
	}
	answer, err := f.batch(ctx, append([]*nats.Msg{rollup(f.fenced(f.controlMsg()))}, f.next(3)...), false)
	if err != nil {
		return "", err
	}
	return f.rolledUp(ctx, f.control(), answer)
}

func factRollupLast(ctx context.Context, f *flow) (string, error) {
	if err := f.allowRollup(ctx); err != nil {
		return "", err
	}
	answer, err := f.batch(ctx, append(f.fencedFirst(3), rollup(f.controlMsg())), false)
	if err != nil {
		return "", err
	}
	return f.rolledUp(ctx, f.control(), answer)
}

func factRollupTwice(ctx context.Context, f *flow) (string, error) {
	if err := f.allowRollup(ctx); err != nil {
		return "", err
	}
	msgs := f.fencedFirst(4)
	msgs[2].Subject = msgs[1].Subject
	rollup(msgs[2])
	return f.batch(ctx, msgs, false)
}

// rolledUp adds how many messages a subject has.
func (f *flow) rolledUp(ctx context.Context, subject, answer string) (string, error) {
	info, err := f.stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s; its subject then has %d", answer, info.State.Subjects[subject]), nil
}

// factOpenServer opens batches on many streams, none of which is at its limit.
// With replicas the streams have different leaders.
func factOpenServer(ctx context.Context, f *flow) (answer string, err error) {
	const streams, each = 25, 45
	config := f.stream.CachedInfo().Config
	open := 0
	var names []string
	defer func() {
		for _, name := range names {
			err = errors.Join(err, f.js.DeleteStream(context.WithoutCancel(ctx), name))
		}
	}()
	for i := range streams {
		config.Name = fmt.Sprintf("%s-%d", f.streamName(), i)
		config.Subjects = []string{fmt.Sprintf("open.%d", i)}
		if _, err := f.js.CreateStream(ctx, config); err != nil {
			return "", err
		}
		names = append(names, config.Name)
		for range each {
			publisher, err := jetstreamext.NewBatchPublisher(f.js, jetstreamext.BatchFlowControl{AckFirst: true, AckTimeout: 5 * time.Second})
			if err != nil {
				return "", err
			}
			if err := publisher.AddMsg(&nats.Msg{Subject: config.Subjects[0], Header: nats.Header{}}); err != nil {
				return fmt.Sprintf("%d, the next is %s", open, outcome(err)), nil
			}
			open++
		}
	}
	return fmt.Sprintf("%d, and no limit was met", open), nil
}
