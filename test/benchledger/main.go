//go:build unix

// Command benchledger measures what a ledger costs that outlives the process:
// to put it down, to keep it in NATS, and to take it up again; and how many
// flows are taken up in one reading of a stream.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/nats"
	"github.com/crbridge/crbridge/pkg/sources"
	"github.com/crbridge/crbridge/test/controlplane"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchledger:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	objects := flag.Int("objects", 1_000_000, "objects in the large ledger; the small one has a tenth")
	flows := flag.Int("flows", 1000, "flows on one stream")
	flag.Parse()
	small, err := ledger(ctx, *objects/10)
	if err != nil {
		return err
	}
	large, err := ledger(ctx, *objects)
	if err != nil {
		return err
	}
	fmt.Printf("\n%-34s %12d %12d %8s\n", "objects", small.objects, large.objects, "ratio")
	row := func(what string, a, b float64, unit string) {
		fmt.Printf("%-34s %12.1f %12.1f %8.1f  %s\n", what, a, b, b/a, unit)
	}
	row("put down", small.save.Seconds()*1000, large.save.Seconds()*1000, "ms")
	row("taken up", small.load.Seconds()*1000, large.load.Seconds()*1000, "ms")
	row("allocated to put it down", float64(small.saveAlloc)/(1<<20), float64(large.saveAlloc)/(1<<20), "MiB")
	row("allocated to take it up", float64(small.loadAlloc)/(1<<20), float64(large.loadAlloc)/(1<<20), "MiB")
	row("in NATS", float64(small.bytes)/(1<<20), float64(large.bytes)/(1<<20), "MiB")
	row("heap of the ledger", float64(small.heap)/(1<<20), float64(large.heap)/(1<<20), "MiB")
	row("heap while it is put down, more", float64(small.extra)/(1<<20), float64(large.extra)/(1<<20), "MiB")
	row("in NATS for each object", each(small.bytes, small), each(large.bytes, large), "B")
	row("heap for each object", each(small.heap, small), each(large.heap, large), "B")
	fmt.Println()
	// Not by time: the machine may be busy with something else.
	for what, grew := range map[string]float64{
		"memory that is allocated to put it down": float64(large.saveAlloc) / float64(small.saveAlloc),
		"memory that is allocated to take it up":  float64(large.loadAlloc) / float64(small.loadAlloc),
		"size in NATS":                            float64(large.bytes) / float64(small.bytes),
		"heap of the ledger":                      float64(large.heap) / float64(small.heap),
	} {
		if grew > mostGrowth {
			return fmt.Errorf("ten times the objects, and %.1f times the %s: something grows faster than they do", grew, what)
		}
	}
	for _, f := range []figures{small, large} {
		if most := uint64(f.objects)*mostHeap + flowHeap; f.heap > most {
			return fmt.Errorf("a ledger of %d objects takes %d bytes of heap, %.0f for each, and may take %d for each", f.objects, f.heap, each(f.heap, f), mostHeap)
		}
	}
	return many(ctx, *flows)
}

const (
	// mostGrowth is what ten times the objects may cost.
	mostGrowth = 12
	// mostHeap is how many bytes of heap each object of a ledger may take, and
	// flowHeap what a flow takes that has no objects.
	mostHeap = 120
	flowHeap = 256 << 10
)

func each(bytes uint64, of figures) float64 { return float64(bytes) / float64(of.objects) }

// figures are what one ledger costs.
type figures struct {
	objects              int
	save, load           time.Duration
	saveAlloc, loadAlloc uint64
	bytes                uint64 // in NATS
	heap, extra          uint64
}

const crd = "orders.shop.example.com"

func ledger(ctx context.Context, objects int) (f figures, err error) {
	f.objects = objects
	fmt.Printf("a ledger of %d objects\n", objects)
	server, err := controlplane.StartNATS(ctx, controlplane.NATSOptions{Progress: os.Stdout})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	err = with(ctx, server, slog.New(slog.DiscardHandler), func(sink *nats.Sink) error {
		kept := sink.Publisher(sinks.Flow{Route: "r", CRD: crd}).(journal.Journal) //nolint:forcetypeassert // a stream's is one
		if err := claim(ctx, kept, nothing{}); err != nil {
			return err
		}
		state := journal.State{CRD: crd, Route: "r", Sink: "main", Phase: journal.Following, Incarnation: "crd", Position: 1 << 40, Kind: "Order", Version: "v1", Namespaced: true}
		if err := kept.Snapshot(ctx, state, rows(objects)); err != nil {
			return err
		}
		return kept.Record(ctx, nil, state)
	})
	if err != nil {
		return f, err
	}
	return f, with(ctx, server, slog.New(slog.DiscardHandler), func(sink *nats.Sink) error {
		before := heap()
		publisher := sink.Publisher(sinks.Flow{Route: "r", CRD: crd})
		kept := publisher.(journal.Journal) //nolint:forcetypeassert // a stream's is one
		fl := flow.New(flow.ID{CRD: crd, Route: "r", Sink: "main"}, environment(), publisher, kept, nil)
		allocated := allocations()
		began := time.Now()
		run := fl.Start(ctx, target(crd))
		if err := until(ctx, func() bool { return fl.Status().Objects == objects && fl.Status().State != flow.Starting }); err != nil {
			return err
		}
		f.load, f.loadAlloc = time.Since(began), allocations()-allocated
		f.heap = heap() - before

		peak, stopPeak := watchHeap()
		allocated, began = allocations(), time.Now()
		run.End(time.Minute)
		<-run.Done()
		f.save, f.saveAlloc = time.Since(began), allocations()-allocated
		if err := run.Err(); err != nil {
			return err
		}
		stopPeak()
		f.extra = *peak - min(*peak, before+f.heap)
		f.bytes, err = stored(ctx, server)
		runtime.KeepAlive(fl)
		return err
	})
}

// rows are made up. Their keys are as long as those of real objects.
func rows(n int) iter.Seq[journal.Row] {
	return func(yield func(journal.Row) bool) {
		for i := range n {
			var uid uuid.UUID
			binary.BigEndian.PutUint64(uid[:], uint64(i)*0x9E3779B97F4A7C15)
			binary.BigEndian.PutUint64(uid[8:], uint64(i)*0xC2B2AE3D27D4EB4F)
			if !yield(journal.Row{Key: fmt.Sprintf("namespace-%d/order-%08d", i%100, i), UID: uid, Version: uint64(1_000_000 + i), Sent: true}) {
				return
			}
		}
	}
}

type nothing struct{}

func (nothing) Reset()              {}
func (nothing) Restore(journal.Row) {}
func (nothing) Rebase()             {}

// many takes up a stream's flows all at once.
func many(ctx context.Context, n int) (err error) {
	const each = 20
	fmt.Printf("%d flows with %d events each on one stream\n", n, each)
	server, err := controlplane.StartNATS(ctx, controlplane.NATSOptions{Progress: os.Stdout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	name := func(i int) string { return fmt.Sprintf("kind%d.shop.example.com", i) }
	err = with(ctx, server, slog.New(slog.DiscardHandler), func(sink *nats.Sink) error {
		return parallel(n, func(i int) error {
			publisher := sink.Publisher(sinks.Flow{Route: "r", CRD: name(i)})
			if err := claim(ctx, publisher.(journal.Journal), nothing{}); err != nil { //nolint:forcetypeassert // a stream's is one
				return err
			}
			var batch []events.Event
			for object := range each {
				e, err := events.New(events.Origin{Cluster: "bench", Group: "shop.example.com", Version: "v1", Kind: "Kind", Resource: fmt.Sprintf("kind%d", i), Namespaced: true, Route: "r"}, nil,
					events.Change{Type: events.Created, Namespace: "n", Name: fmt.Sprint("o", object), UID: uuid.NewString(), ResourceVersion: uint64(object + 1), Observed: time.Now()})
				if err != nil {
					return err
				}
				batch = append(batch, e)
			}
			_, err := publisher.Publish(ctx, batch)
			return err
		})
	})
	if err != nil {
		return err
	}
	var log strings.Builder
	err = with(ctx, server, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), func(sink *nats.Sink) error {
		env := environment()
		began := time.Now()
		flows := make([]*flow.Flow, n)
		runs := make([]*flow.Run, n)
		for i := range flows {
			publisher := sink.Publisher(sinks.Flow{Route: "r", CRD: name(i)})
			flows[i] = flow.New(flow.ID{CRD: name(i), Route: "r", Sink: "main"}, env, publisher, publisher.(journal.Journal), nil) //nolint:forcetypeassert // a stream's is one
			runs[i] = flows[i].Start(ctx, target(name(i)))
		}
		err := until(ctx, func() bool {
			for _, f := range flows {
				if f.Status().Objects != each {
					return false
				}
			}
			return true
		})
		fmt.Printf("taken up after %v\n", time.Since(began).Round(time.Millisecond))
		for _, r := range runs {
			r.Stop(0)
		}
		for _, r := range runs {
			<-r.Done()
		}
		return err
	})
	passes := strings.Count(log.String(), "stream read")
	fmt.Printf("readings of the stream: %d\n", passes)
	if err == nil && passes != 1 {
		err = fmt.Errorf("the stream was read %d times, not once", passes)
	}
	return err
}

// with opens a sink for a while.
func with(ctx context.Context, server *controlplane.NATSServer, log *slog.Logger, do func(*nats.Sink) error) error {
	subject, err := events.ParseSubject("k8s.{cluster}.{group}.{resource}.{namespace}.{name}")
	if err != nil {
		return err
	}
	sink, err := nats.Open(nats.Options{ //nolint:contextcheck // a sink lives until it is closed
		Name: "main", Cluster: "bench", URLs: []string{server.URL()}, Subject: subject,
		JetStream: &nats.JetStream{Stream: "K8S", Create: true}, Logger: log,
	})
	if err != nil {
		return err
	}
	err = until(ctx, func() bool { return sink.Status().Connected })
	if err == nil {
		err = do(sink)
	}
	return errors.Join(err, sink.Close(ctx))
}

func claim(ctx context.Context, j journal.Journal, into journal.Restorer) error {
	_, err := j.Claim(ctx, into)
	return err
}

// environment is that of flows whose API server does not answer: they have
// their ledgers, and nothing to follow.
func environment() flow.Environment {
	return flow.Environment{
		Cluster: "bench", Memory: flow.NewMemory(64 << 20), Metrics: flow.NewMetrics(prometheus.NewRegistry()),
		Log: slog.New(slog.DiscardHandler), API: sources.Cluster{Config: &rest.Config{Host: "http://127.0.0.1:1"}, HTTP: http.DefaultClient},
	}
}

func target(crd string) flow.Target {
	plural, group, _ := strings.Cut(crd, ".")
	return flow.Target{
		Resource: sources.Resource{Kind: schema.GroupVersionKind{Group: group, Version: "v1", Kind: "Kind"}, Plural: plural, Namespaced: true},
		CRD:      "crd", Rules: flow.Everything(),
	}
}

func parallel(n int, do func(int) error) error {
	var work sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		work.Go(func() { errs[i] = do(i) })
	}
	work.Wait()
	return errors.Join(errs...)
}

func until(ctx context.Context, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("it did not come about: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// allocations are the bytes that were ever allocated.
func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watchHeap finds the most that the heap is until it is stopped.
func watchHeap() (peak *uint64, stop func()) {
	peak = new(uint64)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			*peak = max(*peak, m.HeapAlloc)
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return peak, func() {
		close(done)
		watching.Wait()
	}
}

// stored is how large the object store's newest snapshot is in NATS.
func stored(ctx context.Context, server *controlplane.NATSServer) (uint64, error) {
	nc, err := natsgo.Connect(server.URL())
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	store, err := js.ObjectStore(ctx, "crbridge")
	if err != nil {
		return 0, err
	}
	objects, err := store.List(ctx)
	if err != nil {
		return 0, err
	}
	largest := uint64(0)
	for _, o := range objects {
		largest = max(largest, o.Size)
	}
	return largest, nil
}
