//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/status"
	"github.com/crbridge/crbridge/test/process"
)

const cluster = "bench"

// route is the name of a route.
func route(i int) string { return fmt.Sprintf("r%d", i) }

// subjects is the template of a stream's subjects. Routes differ in them, so
// that their events do.
func subjects(stream string) string { return stream + ".{route}.{resource}.{namespace}.{name}" }

// subject is that of one object's events.
func subject(stream string, r int, object string) string {
	return fmt.Sprintf("%s.%s.%s.%s.%s", stream, route(r), resource.Resource, namespace, object)
}

// setup is what a bridge is configured to do.
type setup struct {
	name   string // of its log
	stream string
	routes int
	crds   string // one, or a wildcard
}

// bridge is the real thing, as its users run it.
type bridge struct {
	*measured
	setup
}

// newBridge writes a configuration for a bridge, which is not started.
func (w *world) newBridge(ctx context.Context, s setup) (*bridge, error) {
	server, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	var config strings.Builder
	fmt.Fprintf(&config, "cluster: %s\nhealth: {address: %q}\nserver: {address: %q}\nroutes:\n", cluster, server, server)
	for i := range s.routes {
		fmt.Fprintf(&config, "  - {name: %s, crds: [%q], sinks: [main]}\n", route(i), s.crds)
	}
	fmt.Fprintf(&config, "sinks:\n  main:\n    nats:\n      url: %s\n      subject: %q\n      jetstream: {stream: %s}\n", w.nats.URL(), subjects(s.stream), s.stream)
	path := filepath.Join(w.dir, s.name+".yaml")
	if err := os.WriteFile(path, []byte(config.String()), 0o600); err != nil {
		return nil, err
	}
	b := &bridge{measured: &measured{server: "http://" + server}, setup: s}
	b.Process = process.New(process.Command{
		Name: "bridge", Path: w.executable,
		Args:    []string{"run", "--config", path, "--kubeconfig", w.cp.AdminKubeconfig()},
		LogFile: filepath.Join(w.dir, s.name+".log"),
		Ready: func(ctx context.Context) error {
			_, err := get(ctx, b.server+"/healthz")
			return err
		},
	})
	return b, nil
}

// startBridge starts a bridge, and returns when it has told of all that is there.
func (w *world) startBridge(ctx context.Context, s setup) (*bridge, error) {
	b, err := w.newBridge(ctx, s)
	if err != nil {
		return nil, err
	}
	b.began = time.Now()
	if err := b.Start(ctx); err != nil {
		return nil, err
	}
	return b, b.running(ctx, s.routes)
}

// running waits until that many flows run, and no other.
func (b *bridge) running(ctx context.Context, flows int) error {
	return b.await(ctx, flow.Running, flows)
}

// await waits until that many flows are in that state, and none in another.
func (b *bridge) await(ctx context.Context, state flow.State, flows int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var seen map[flow.State]int
	err := until(ctx, b.poll(flows), func() (bool, error) {
		if b.PID() == 0 {
			return false, fmt.Errorf("the bridge has ended\n%s", b.LogTail())
		}
		body, err := get(ctx, b.server+"/api/status")
		if err != nil {
			return false, nil //nolint:nilerr // it has not begun to answer
		}
		var document status.Document
		if err := json.Unmarshal(body, &document); err != nil {
			return false, err
		}
		seen = map[flow.State]int{}
		for _, f := range document.Flows {
			seen[f.State]++
		}
		return seen[state] == flows && len(seen) == 1, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %d flows that are %s: %w; there are %v", flows, state, err, seen)
	}
	return nil
}

// poll is how often it is asked how the flows are: so often that it does not
// matter for what is measured, and so rarely that the answers do not.
func (b *bridge) poll(flows int) time.Duration {
	return min(10*time.Millisecond+time.Duration(flows)*time.Millisecond/2, 500*time.Millisecond)
}
