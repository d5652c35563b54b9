//go:build unix

package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/proxy"
)

// brokers are the NATS servers, and the lines on which the bridges reach them:
// one server, or a cluster in which each node has all of the stream.
type brokers struct {
	nodes   []*controlplane.NATSServer
	cluster *controlplane.NATSCluster // nil for one server
	lines   lines                     // by node
}

// startBrokers starts n servers.
func startBrokers(ctx context.Context, n int, o controlplane.NATSOptions) (_ *brokers, err error) {
	b := &brokers{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if n == 1 {
		server, err := controlplane.StartNATS(ctx, o)
		if err != nil {
			return nil, err
		}
		b.nodes = []*controlplane.NATSServer{server}
	} else {
		o.Cluster = "no_advertise: true" // or the bridges would find ways past the lines
		if b.cluster, err = controlplane.StartNATSCluster(ctx, n, o); err != nil {
			return nil, err
		}
		b.nodes = b.cluster.Nodes()
	}
	for _, node := range b.nodes {
		line, err := proxy.Start(ctx, node.Address())
		if err != nil {
			return nil, err
		}
		b.lines = append(b.lines, line)
	}
	return b, nil
}

// kill ends all of them at once.
func (b *brokers) kill() {
	for _, node := range b.nodes {
		node.Kill()
	}
}

// start starts those that do not run.
func (b *brokers) start(ctx context.Context) error {
	if b.cluster != nil {
		return b.cluster.Start(ctx)
	}
	return b.nodes[0].Start(ctx)
}

// url is that of all of them, for who is not to be disturbed.
func (b *brokers) url() string {
	urls := make([]string, 0, len(b.nodes))
	for _, node := range b.nodes {
		urls = append(urls, node.URL())
	}
	return strings.Join(urls, ",")
}

func (b *brokers) close() error {
	var errs []error
	for _, line := range b.lines {
		errs = append(errs, line.Close())
	}
	if b.cluster != nil {
		return errors.Join(append(errs, b.cluster.Close())...)
	}
	for _, node := range b.nodes {
		errs = append(errs, node.Close())
	}
	return errors.Join(errs...)
}

// lines are broken together.
type lines []*proxy.Proxy

func (l lines) set(mode proxy.Mode) error {
	for _, line := range l {
		if err := line.Set(mode); err != nil {
			return err
		}
	}
	return nil
}

func (l lines) cut() {
	for _, line := range l {
		line.Cut()
	}
}

// release lets what is held for the servers go there.
func (l lines) release(ctx context.Context) (bytes int64, err error) {
	for _, line := range l {
		n, failed := line.Release(ctx)
		bytes, err = bytes+n, errors.Join(err, failed)
	}
	return bytes, err
}

// urls are where the bridges find the servers, in YAML.
func (l lines) urls() string {
	urls := make([]string, 0, len(l))
	for _, line := range l {
		urls = append(urls, "nats://"+line.Addr())
	}
	return "[" + strings.Join(urls, ", ") + "]"
}

// natsLines are those to all servers, or to one of several.
func (w *world) natsLines() lines {
	all := w.nats.lines
	if len(all) == 1 || w.random.IntN(2) == 0 {
		return all
	}
	i := w.random.IntN(len(all))
	return all[i : i+1]
}

// down has nodes of a cluster away for a while.
func down(ctx context.Context, w *world, nodes ...*controlplane.NATSServer) (string, error) {
	killed := w.random.IntN(2) == 0
	for _, node := range nodes {
		if killed {
			node.Kill()
		} else if err := node.Stop(ctx); err != nil {
			return "", err
		}
	}
	d, err := w.wait(ctx, 6*time.Second)
	if err != nil {
		return "", err
	}
	how := "stopped"
	if killed {
		how = "killed"
	}
	return fmt.Sprintf("%s %s for %v", w.nats.names(nodes), how, d), w.nats.start(ctx)
}

func (b *brokers) names(nodes []*controlplane.NATSServer) string {
	var all []string
	for _, node := range nodes {
		all = append(all, fmt.Sprintf("n%d", 1+slices.Index(b.nodes, node)))
	}
	return strings.Join(all, ", ")
}

func leaderDown(ctx context.Context, w *world) (string, error) {
	leader, err := w.nats.cluster.StreamLeader(ctx, w.js, stream)
	if err != nil {
		return "", err
	}
	return down(ctx, w, leader)
}

// leaderPaused lets another node be elected, and the first go on later as if
// nothing had been.
func leaderPaused(ctx context.Context, w *world) (string, error) {
	leader, err := w.nats.cluster.StreamLeader(ctx, w.js, stream)
	if err != nil {
		return "", err
	}
	if err := leader.Pause(ctx); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 12*time.Second) // another is elected after 4 to 9 s
	return fmt.Sprintf("%s for %v", w.nats.names([]*controlplane.NATSServer{leader}), d), errors.Join(err, leader.Resume(context.WithoutCancel(ctx)))
}

func nodeDown(ctx context.Context, w *world) (string, error) {
	return down(ctx, w, w.nats.nodes[w.random.IntN(len(w.nats.nodes))])
}

// majorityDown leaves a node that cannot decide anything by itself.
func majorityDown(ctx context.Context, w *world) (string, error) {
	left := w.random.IntN(len(w.nats.nodes))
	return down(ctx, w, slices.Delete(slices.Clone(w.nats.nodes), left, left+1)...)
}

func rollingRestart(ctx context.Context, w *world) (string, error) {
	for _, node := range w.nats.nodes {
		if err := node.Stop(ctx); err != nil {
			return "", err
		}
		if err := w.nats.start(ctx); err != nil {
			return "", err
		}
	}
	return "", nil
}
