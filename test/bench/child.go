//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/nats"
)

// childArg makes the program one of the processes that are measured.
const childArg = "child"

// reading is what a child tells of itself, at two moments.
type reading struct {
	HeapBytes    uint64        `json:"heapBytes"`
	CPU          time.Duration `json:"cpu"`
	PeakRSSBytes int64         `json:"peakRSSBytes"`
}

// result is one child's.
type result struct {
	heapPerObject float64 // bytes
	cpuPerEvent   float64 // microseconds
	peakMiB       float64
}

// measureOnce runs one child: it lets it list, stops it, updates all objects,
// and lets it catch up.
func measureOnce(ctx context.Context, v variant, stream string, o *objects, kubeconfig, url string) (_ result, err error) {
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	child := exec.CommandContext(ctx, self, childArg)
	child.Env = append(os.Environ(), "BENCH_VARIANT="+string(v), "BENCH_STREAM="+stream, "BENCH_KUBECONFIG="+kubeconfig,
		"BENCH_NATS="+url, "BENCH_OBJECTS="+strconv.Itoa(o.options.objects))
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	if err := child.Start(); err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, child.Wait()) }()
	readings := json.NewDecoder(output)
	var listed, drained reading
	if err := readings.Decode(&listed); err != nil {
		return result{}, fmt.Errorf("after the list: %w", err)
	}
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		return result{}, err
	}
	updated := o.update(ctx)
	if err := child.Process.Signal(syscall.SIGCONT); err != nil {
		return result{}, err
	}
	if updated != nil {
		return result{}, fmt.Errorf("updating the objects: %w", updated)
	}
	if err := readings.Decode(&drained); err != nil {
		return result{}, fmt.Errorf("after the updates: %w", err)
	}
	n := float64(o.options.objects)
	return result{
		heapPerObject: float64(listed.HeapBytes) / n,
		cpuPerEvent:   float64((drained.CPU - listed.CPU).Microseconds()) / n,
		peakMiB:       float64(drained.PeakRSSBytes) / (1 << 20),
	}, nil
}

// runChild runs one variant and tells of it when all objects are delivered,
// and again when all have been updated once.
func runChild(ctx context.Context, stdout io.Writer) error {
	count, err := strconv.Atoi(os.Getenv("BENCH_OBJECTS"))
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("BENCH_KUBECONFIG"))
	if err != nil {
		return err
	}
	config.QPS = -1
	sink, err := openSink(os.Getenv("BENCH_STREAM"), os.Getenv("BENCH_NATS")) //nolint:contextcheck // a sink lives until it is closed
	if err != nil {
		return err
	}
	defer func() { _ = sink.Close(ctx) }() // what was measured is told already
	before := heap()
	p, err := start(ctx, variant(os.Getenv("BENCH_VARIANT")), config, sink.Publisher(sinks.Flow{Route: "bench", CRD: crdName}))
	if err != nil {
		return err
	}
	defer p.stop()
	out := json.NewEncoder(stdout)
	if err := await(ctx, func() bool { return p.delivered() >= count }); err != nil {
		return err
	}
	listed := reading{HeapBytes: heap() - before}
	if err := listed.usage(); err != nil { // after the collection, which the events do not pay for
		return err
	}
	if err := out.Encode(listed); err != nil {
		return err
	}
	if err := await(ctx, func() bool { return p.delivered() >= 2*count }); err != nil {
		return err
	}
	var drained reading
	if err := drained.usage(); err != nil {
		return err
	}
	return out.Encode(drained)
}

func openSink(stream, url string) (sinks.Sink, error) {
	subject, err := events.ParseSubject(stream + ".{namespace}.{name}")
	if err != nil {
		return nil, err
	}
	return nats.Open(nats.Options{
		Name: "bench", URLs: []string{url}, Subject: subject,
		JetStream: &nats.JetStream{Stream: stream, Create: true, Subjects: []string{stream + ".>", "crbridge." + stream + ".>"}, DuplicateWindow: time.Minute},
		Logger:    slog.New(slog.DiscardHandler),
	})
}

// await looks a hundred times a second whether it is so; what that costs is
// far below what is measured.
func await(ctx context.Context, so func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// usage notes what the process has used so far.
func (r *reading) usage() error {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return err
	}
	r.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	r.PeakRSSBytes = u.Maxrss << 10 // Linux counts it in KiB
	return nil
}

// pipeline is a variant at work.
type pipeline struct {
	delivered func() int
	stop      func()
}

// variant is a way from the API server to the sink.
type variant string

const (
	flowVariant  variant = "flow"
	stockVariant variant = "stock"
)

var variants = []variant{flowVariant, stockVariant}

func start(ctx context.Context, v variant, config *rest.Config, publisher sinks.Publisher) (*pipeline, error) {
	switch v {
	case flowVariant:
		return startFlow(ctx, config, publisher)
	case stockVariant:
		return startStock(ctx, config, publisher)
	}
	return nil, fmt.Errorf("there is no variant %q", v)
}
