//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// window is how many messages a flow has on their way at most.
const window = 512

// publishWork publishes messages that another has written to a stream once more,
// to a stream of its own, and does nothing else. /load?from=S&count=N has it read
// N events from that sequence of the stream on, and /publish?atomic=… has it
// publish them, and says how long that took.
func publishWork(ctx context.Context, s settings, mux *http.ServeMux, ready func()) error {
	conn, err := nats.Connect(s.nats)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(window))
	if err != nil {
		return err
	}
	var loaded []*nats.Msg
	mux.HandleFunc("GET /load", func(w http.ResponseWriter, r *http.Request) {
		var from uint64
		var count int
		if _, err := fmt.Sscan(r.FormValue("from")+" "+r.FormValue("count"), &from, &count); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if loaded, err = load(r.Context(), js, s.stream, from, count); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /publish", func(w http.ResponseWriter, r *http.Request) {
		took, err := publishAll(r.Context(), js, s.stream, loaded, r.FormValue("atomic") == "true")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(took)
	})
	ready()
	<-ctx.Done()
	return nil
}

// load reads events as the flow has published them, but for what is between it
// and the server.
func load(ctx context.Context, js jetstream.JetStream, stream string, from uint64, count int) ([]*nats.Msg, error) {
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{stream + ".>"}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return nil, err
	}
	all := make([]*nats.Msg, 0, count)
	for len(all) < count {
		batch, err := consumer.Fetch(min(window, count-len(all)))
		if err != nil {
			return nil, err
		}
		for m := range batch.Messages() {
			header := nats.Header{}
			for name, values := range m.Headers() {
				if !strings.HasPrefix(name, "Nats-Expected-") && !strings.HasPrefix(name, "Nats-Batch-") {
					header[name] = values
				}
			}
			all = append(all, &nats.Msg{Subject: m.Subject(), Header: header, Data: m.Data()})
		}
		if err := batch.Error(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// publishAll publishes the messages to a stream that takes nothing else, and
// waits until all are durable.
func publishAll(ctx context.Context, js jetstream.JetStream, of string, messages []*nats.Msg, atomic bool) (_ time.Duration, err error) {
	name := fmt.Sprintf("%s-again-%t", of, atomic)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{name + ".>"}, AllowDirect: true, AllowAtomicPublish: true, Duplicates: 2 * time.Minute,
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, js.DeleteStream(ctx, name)) }()
	again := make([]*nats.Msg, len(messages))
	for i, m := range messages {
		again[i] = &nats.Msg{Subject: name + strings.TrimPrefix(m.Subject, of), Header: m.Header, Data: m.Data}
	}
	began := time.Now()
	for rest := again; len(rest) > 0; rest = rest[min(window, len(rest)):] {
		if err := publishWindow(ctx, js, rest[:min(window, len(rest))], atomic); err != nil {
			return 0, err
		}
	}
	if !atomic {
		select {
		case <-js.PublishAsyncComplete():
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	took := time.Since(began)
	s, err := js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	if got := s.CachedInfo().State.Msgs; got != uint64(len(messages)) {
		return 0, fmt.Errorf("stream %s has %d messages, want %d", name, got, len(messages))
	}
	return took, nil
}

func publishWindow(ctx context.Context, js jetstream.JetStream, messages []*nats.Msg, atomic bool) error {
	if atomic {
		_, err := jetstreamext.PublishMsgBatch(ctx, js, messages, jetstreamext.BatchFlowControl{})
		return err
	}
	for _, m := range messages {
		if _, err := js.PublishMsgAsync(m); err != nil {
			return err
		}
	}
	return nil
}

// publishSame measures how fast the events of a drain can be published by who
// has them already.
func (b *bench) publishSame(ctx context.Context, round, turn int, stream string, d drained) (err error) {
	m, err := b.child(ctx, "publish", fmt.Sprintf("publish-%d-%d", round, turn), settings{stream: stream})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx)) }()
	n := b.objects.count
	if _, err := get(ctx, fmt.Sprintf("%s/load?from=%d&count=%d", m.server, d.from+1, n)); err != nil {
		return err
	}
	for _, atomic := range []bool{false, true} {
		before, err := m.cpu()
		if err != nil {
			return err
		}
		body, err := get(ctx, fmt.Sprintf("%s/publish?atomic=%t", m.server, atomic))
		if err != nil {
			return err
		}
		var took time.Duration
		if err := json.Unmarshal(body, &took); err != nil {
			return err
		}
		after, err := m.cpu()
		if err != nil {
			return err
		}
		rate, cpu := float64(n)/took.Seconds(), micros(after-before)/float64(n)
		way := "singly"
		if atomic {
			way = "in atomic batches"
			b.sheet.add(publishRate, 0, ofBridge, float64(n)/d.took.Seconds())
			b.sheet.add(publishRate, 0, ofLimit, rate)
			b.sheet.add(publishCPU, 0, ofBridge, micros(d.cpu)/float64(n))
			b.sheet.add(publishCPU, 0, ofLimit, cpu)
		} else {
			b.sheet.add(singlesRate, 0, ofBridge, float64(n)/d.took.Seconds())
			b.sheet.add(singlesRate, 0, ofLimit, rate)
		}
		b.say("  drain, round %d of %d, turn %d of %d, raw publish %s: %.0f events/s, %.1f µs of CPU an event",
			round+1, b.options.rounds, turn+1, drainsEach, way, rate, cpu)
	}
	return nil
}
