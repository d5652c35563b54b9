package flow

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/nats"
	"github.com/crbridge/crbridge/pkg/sinks/natstest"
	"github.com/crbridge/crbridge/pkg/sources"
)

// BenchmarkDelivery measures how many updates of objects of 2 KiB a flow that is
// fed from memory makes durable in a stream in a second, beside a loop that
// publishes the very same messages with nats.go and does nothing else, by turns
// on the same server. "flow/bare" is the ratio of the two, and 1 where the flow
// is as fast. Both have 512 messages on their way at most, as single messages or
// as an atomic batch.
func BenchmarkDelivery(b *testing.B) {
	for _, atomic := range []bool{false, true} {
		name := "pipelined"
		if atomic {
			name = "atomic"
		}
		b.Run(name, func(b *testing.B) {
			const each = 5000
			d := newDelivery(b, atomic)
			var flow, bare time.Duration
			count := 0
			for b.Loop() {
				flow += d.byFlow(b, each)
				bare += d.byLoop(b, each)
				count += each
			}
			b.ReportMetric(bare.Seconds()/flow.Seconds(), "flow/bare")
			b.ReportMetric(float64(count)/flow.Seconds(), "events/s")
			b.ReportMetric(float64(count)/bare.Seconds(), "bare-events/s")
		})
	}
}

// window is how many messages are on their way at once.
const window = 512

// delivery is a flow to a stream, and a stream beside it.
type delivery struct {
	js      jetstream.JetStream
	atomic  bool
	run     *Run
	counted *counting
	objects []versions
	version int
	beside  int // messages that were published to the other stream
	from    uint64
}

// counting tells how many events are durable.
type counting struct {
	sinks.Publisher
	durable chan int
}

func (c *counting) Publish(ctx context.Context, batch []events.Event) (int, error) {
	n, err := c.Publisher.Publish(ctx, batch)
	if n > 0 {
		c.durable <- n
	}
	return n, err
}

func newDelivery(b *testing.B, atomic bool) *delivery {
	b.Helper()
	server := natstest.Start(b, "")
	nc, err := natsgo.Connect(server.URL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	d := &delivery{atomic: atomic, counted: &counting{durable: make(chan int, 1<<20)}, objects: make([]versions, 1000)}
	if d.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window)); err != nil {
		b.Fatal(err)
	}
	for name, subjects := range map[string][]string{"K8S": {"k8s.>", "crbridge.K8S.>"}, "BESIDE": {"beside.>"}} {
		config := jetstream.StreamConfig{Name: name, Subjects: subjects, AllowAtomicPublish: atomic}
		if _, err := d.js.CreateStream(b.Context(), config); err != nil {
			b.Fatal(err)
		}
	}
	template, err := events.ParseSubject("k8s.{cluster}.{group}.{resource}.{namespace}.{name}")
	if err != nil {
		b.Fatal(err)
	}
	sink, err := nats.Open(nats.Options{Name: "s", Cluster: "bench", URLs: []string{server.URL()}, Subject: template, JetStream: &nats.JetStream{Stream: "K8S"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sink.Close(context.WithoutCancel(b.Context())) })
	id := ID{CRD: "widgets.example.com", Route: "r", Sink: "s"}
	d.counted.Publisher = sink.Publisher(sinks.Flow{Route: id.Route, CRD: id.CRD})
	rules, err := NewRules(RuleOptions{Events: events.Types()})
	if err != nil {
		b.Fatal(err)
	}
	env := Environment{Cluster: "bench", Memory: NewMemory(64 << 20), Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)}
	f := New(id, env, d.counted, d.counted.Publisher.(journal.Journal), nil)
	d.run = f.newRun(b.Context(), Target{
		Resource: sources.Resource{Kind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}, Plural: "widgets", Namespaced: true},
		CRD:      "crd", Rules: rules,
	})
	follows := make(chan struct{})
	d.run.source = func(ctx context.Context, _ *watcher, _ sources.Start) error {
		close(follows)
		<-ctx.Done()
		return nil
	}
	go d.run.run(true)
	b.Cleanup(func() {
		d.run.Stop(0)
		<-d.run.Done()
	})
	<-follows
	for i := range d.objects {
		d.objects[i] = large(fmt.Sprint("o", i))
	}
	d.version = len(d.objects) + 1
	tellAll(b, d.run, d.objects)
	d.wait(len(d.objects))
	return d
}

// wait waits until that many events are durable.
func (d *delivery) wait(count int) {
	for count > 0 {
		count -= <-d.counted.durable
	}
}

// byFlow has updates told to the flow, and waits until they are durable.
func (d *delivery) byFlow(b *testing.B, count int) time.Duration {
	b.Helper()
	s, err := d.js.Stream(b.Context(), "K8S")
	if err != nil {
		b.Fatal(err)
	}
	d.from = s.CachedInfo().State.LastSeq + 1
	began := time.Now()
	for range count {
		d.version++
		d.run.watchers[0].Changed(b.Context(), d.objects[d.version%len(d.objects)].at(d.version))
	}
	d.wait(count)
	return time.Since(began)
}

// byLoop publishes what the flow has published last to the other stream.
func (d *delivery) byLoop(b *testing.B, count int) time.Duration {
	b.Helper()
	messages := d.last(b, count)
	began := time.Now()
	for len(messages) > 0 {
		n := min(window, len(messages))
		if d.atomic {
			if _, err := jetstreamext.PublishMsgBatch(b.Context(), d.js, messages[:n]); err != nil {
				b.Fatal(err)
			}
		} else {
			for _, m := range messages[:n] {
				if _, err := d.js.PublishMsgAsync(m); err != nil {
					b.Fatal(err)
				}
			}
		}
		messages = messages[n:]
	}
	<-d.js.PublishAsyncComplete()
	took := time.Since(began)
	d.beside += count
	s, err := d.js.Stream(b.Context(), "BESIDE")
	if err != nil {
		b.Fatal(err)
	}
	if got := int(s.CachedInfo().State.Msgs); got != d.beside {
		b.Fatalf("the loop has stored %d messages of %d", got, d.beside)
	}
	return took
}

// last are the flow's last messages, for the other stream.
func (d *delivery) last(b *testing.B, count int) []*natsgo.Msg {
	b.Helper()
	consumer, err := d.js.OrderedConsumer(b.Context(), "K8S", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"k8s.>"}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: d.from,
	})
	if err != nil {
		b.Fatal(err)
	}
	all := make([]*natsgo.Msg, 0, count)
	for len(all) < count {
		batch, err := consumer.Fetch(min(window, count-len(all)))
		if err != nil {
			b.Fatal(err)
		}
		for m := range batch.Messages() {
			header := natsgo.Header{}
			for name, values := range m.Headers() {
				// What is between the flow and the server, and the fence.
				if !strings.HasPrefix(name, "Nats-Expected-") && !strings.HasPrefix(name, "Nats-Batch-") {
					header[name] = values
				}
			}
			all = append(all, &natsgo.Msg{Subject: "beside." + m.Subject(), Header: header, Data: m.Data()})
		}
		if err := batch.Error(); err != nil {
			b.Fatal(err)
		}
	}
	return all
}
