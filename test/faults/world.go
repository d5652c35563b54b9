//go:build unix

// Package faults breaks a real bridge, and everything around it, at random, and
// has the oracle judge what came through. Each choice comes from a seed: a
// seed that found something makes the same choices again, though not at the
// same instants.
package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/oracle"
	"github.com/crbridge/crbridge/test/proxy"
)

const (
	cluster = "faults"
	stream  = "K8S"
	subject = "k8s.{cluster}.{route}.{group}.{resource}.{namespace}.{name}"
)

// Options say what is to be broken, and how often.
type Options struct {
	// Bridge is the binary, built with the tag failpoints.
	Bridge string
	// Env is added to the environment of the bridges.
	Env    []string
	Faults int
	Seed   uint64
	// Nodes are how many NATS servers there are: more than one are a cluster,
	// and each has all of the stream. Default: one.
	Nodes int
	// Kinds are the names of the faults to choose from; empty: all that there
	// can be.
	Kinds []string
	// Dir gets the logs. It must exist.
	Dir string
	// Progress is told what happens.
	Progress io.Writer
	// Impatient gives the bridge less time to deliver again, for where it is
	// expected not to.
	Impatient bool
}

// world is all that a run needs: servers, proxies, bridges, and those who
// watch them.
type world struct {
	opts   Options
	random *rand.Rand // of the schedule only, so that it does not depend on the load

	control  *controlplane.ControlPlane
	nats     *brokers
	apiLine  *proxy.Proxy // from the bridges to the API server
	etcdLine *proxy.Proxy // from the second API server to etcd
	second   *controlplane.APIServer

	history *oracle.History
	tap     *oracle.Tap
	js      jetstream.JetStream

	kinds   []*kind
	bridges []*bridge
	load    *load
	maxAge  time.Duration

	mu       sync.Mutex
	routes   routes
	windows  []oracle.Window
	caughtUp int64     // the revision up to which everything had been delivered once
	lossy    bool      // since then something happened that loses versions
	losing   time.Time // until then it may go on
	started  int64     // before the routes were active
	listed   int64     // when every flow had made its first list; 0: not yet

	closers []func() error
}

// newWorld starts everything but the load.
func newWorld(ctx context.Context, opts Options) (_ *world, err error) {
	w := &world{opts: opts, maxAge: 168 * time.Hour, random: rand.New(rand.NewPCG(opts.Seed, 1))}
	defer func() { //nolint:contextcheck // it ends all, whatever ended the start
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	w.control, err = controlplane.Start(ctx, controlplane.Options{
		APIServerFlags: []string{"--etcd-compaction-interval=0"}, // compaction is a fault of its own
		LogDir:         opts.Dir, Progress: opts.Progress,
	})
	if err != nil {
		return nil, err
	}
	w.defers(w.control.Close)
	if w.nats, err = startBrokers(ctx, max(1, opts.Nodes), controlplane.NATSOptions{LogDir: opts.Dir, Progress: opts.Progress}); err != nil {
		return nil, err
	}
	w.defers(w.nats.close)
	if err := w.startLines(ctx); err != nil {
		return nil, err
	}
	if err := w.startWatchers(ctx); err != nil {
		return nil, err
	}
	if err := w.startKinds(ctx); err != nil {
		return nil, err
	}
	if w.started, err = w.history.Sync(ctx); err != nil {
		return nil, err
	}
	w.caughtUp = w.started
	w.load = newLoad(w.kinds, opts.Seed)                      //nolint:contextcheck // until it is stopped
	w.bridges = []*bridge{w.newBridge("a"), w.newBridge("b")} //nolint:contextcheck // until they are closed
	return w, nil
}

func (w *world) startLines(ctx context.Context) (err error) {
	if w.apiLine, err = proxy.Start(ctx, w.control.Address()); err != nil {
		return err
	}
	w.defers(w.apiLine.Close)
	if w.needs("api server lags") {
		if err := w.startSecond(ctx); err != nil {
			return err
		}
	}
	kubeconfig, err := clientcmd.LoadFromFile(w.control.AdminKubeconfig())
	if err != nil {
		return err
	}
	for _, c := range kubeconfig.Clusters {
		c.Server = "https://" + w.apiLine.Addr()
	}
	return clientcmd.WriteToFile(*kubeconfig, w.kubeconfig())
}

// needs tells whether the fault of that name may be chosen.
func (w *world) needs(name string) bool {
	return len(w.opts.Kinds) == 0 || slices.Contains(w.opts.Kinds, name)
}

// startSecond starts another API server, which reaches etcd through a line of
// its own.
func (w *world) startSecond(ctx context.Context) error {
	relay, err := startRelay(ctx, w.control.EtcdEndpoint())
	if err != nil {
		return err
	}
	w.defers(relay.close)
	if w.etcdLine, err = proxy.Start(ctx, relay.listener.Addr().String()); err != nil {
		return err
	}
	w.defers(w.etcdLine.Close)
	w.second, err = w.control.StartAPIServer(ctx, "http://"+w.etcdLine.Addr(), filepath.Join(w.opts.Dir, "second-apiserver.log"))
	if err != nil {
		return err
	}
	w.defers(w.second.Close)
	return nil
}

func (w *world) kubeconfig() string { return filepath.Join(w.opts.Dir, "kubeconfig") }

// startWatchers begins to record, before anything can happen.
func (w *world) startWatchers(ctx context.Context) (err error) {
	prefixes := []string{"/registry/" + definitions.Group + "/" + definitions.Plural + "/"} // for the report
	for _, r := range resources {
		prefixes = append(prefixes, "/registry/"+r.group+"/"+r.plural+"/")
	}
	if w.history, err = oracle.Record(context.WithoutCancel(ctx), w.control.EtcdEndpoint(), prefixes...); err != nil {
		return err
	}
	w.defers(w.history.Close)
	if w.tap, err = oracle.Listen(context.WithoutCancel(ctx), w.nats.url(), stream, oracle.TapOptions{KeepData: 4096}); err != nil {
		return err
	}
	w.defers(func() error { w.tap.Close(); return nil })
	nc, err := nats.Connect(w.nats.url(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	w.defers(func() error { nc.Close(); return nil })
	w.js, err = jetstream.New(nc)
	return err
}

func (w *world) defers(f func() error) { w.closers = append(w.closers, f) }

func (w *world) close() error {
	var err error
	if w.load != nil {
		w.load.stop()
	}
	for _, b := range w.bridges {
		b.close()
	}
	for _, closer := range slices.Backward(w.closers) {
		err = errors.Join(err, closer())
	}
	w.closers = nil
	return err
}

// say tells the progress of the run.
func (w *world) say(format string, args ...any) {
	if w.opts.Progress != nil {
		fmt.Fprintf(w.opts.Progress, format+"\n", args...)
	}
}

// loses says that versions may be lost that nobody had delivered by now, until
// everything is delivered again.
func (w *world) loses() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lossy = true
}

// goesOnLosing says that this may go on for a while behind the scenes.
func (w *world) goesOnLosing(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lossy, w.losing = true, time.Now().Add(d)
}

// config writes a bridge's configuration, and returns where.
func (w *world) config(name string) (string, error) {
	path := filepath.Join(w.opts.Dir, name+".yaml")
	w.mu.Lock()
	content := w.routes.yaml() + fmt.Sprintf(`
sinks:
  main:
    nats:
      url: %s
      subject: %q
      jetstream: {stream: %s, replicas: %d, maxAge: %s, duplicateWindow: 100ms}
`, w.nats.lines.urls(), subject, stream, len(w.nats.nodes), w.maxAge)
	w.mu.Unlock()
	return path, os.WriteFile(path, []byte(content), 0o600)
}
