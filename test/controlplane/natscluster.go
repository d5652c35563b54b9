//go:build unix

package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/crbridge/crbridge/test/poll"
)

// settleTime is how long the nodes have to be up before the cluster counts as
// current. A node that could not be reached is dialed again a second later; when
// it has connected by itself meanwhile, the second connection makes the leader
// forget for some tenths of a second what it knows of it, and refuse to create
// streams with replicas there.
const settleTime = 1500 * time.Millisecond

// NATSCluster is a cluster of nats-servers with JetStream on loopback. Each of
// its nodes keeps its ports and its streams when it is stopped, killed or
// paused, and started again.
//
// A node is ready when it is in touch with a leader of the cluster and has
// caught up with its streams, so the start of one node waits for as long as
// the majority is missing: Start starts all that are not running at once.
type NATSCluster struct {
	nodes []*NATSServer

	dir      string
	close    sync.Once
	closeErr error
}

// StartNATSCluster starts n nats-servers, n1 and so on, and returns when their
// leader is elected, every one is ready, and the leader holds every one for
// current, so that a stream may have n replicas. Ctx bounds the start only. The
// caller must Close what it gets.
//
// The options are those of each node. Each has a folder of its own, named after
// it, in StoreDir and in LogDir; Host and Port cannot be set.
func StartNATSCluster(ctx context.Context, n int, opts NATSOptions) (*NATSCluster, error) {
	if n < 2 || opts.Port != 0 || opts.Host != "" {
		return nil, errors.New("a NATS cluster has two nodes or more, on loopback, and chooses their ports")
	}
	var errs error
	for range 5 {
		c, err := startNATSCluster(ctx, n, opts)
		if err == nil {
			return c, nil
		}
		errs = errors.Join(errs, err)
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, errs
}

func startNATSCluster(ctx context.Context, n int, opts NATSOptions) (_ *NATSCluster, err error) {
	dir, err := os.MkdirTemp("", "crbridge-nats-cluster-")
	if err != nil {
		return nil, err
	}
	c := &NATSCluster{dir: dir, nodes: make([]*NATSServer, n)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if opts.StoreDir == "" {
		opts.StoreDir = dir
	}
	if opts.LogDir == "" {
		opts.LogDir = dir
	}
	ports, err := distinctPorts(ctx, 2*n)
	if err != nil {
		return nil, err
	}
	var routes strings.Builder
	for _, port := range ports[n:] {
		fmt.Fprintf(&routes, "    %q\n", "nats-route://"+loopback(port))
	}
	// If one cannot be started, the others would wait for it in vain.
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range n {
		name := natsNodeName(i)
		node := opts
		node.Port = ports[i]
		node.StoreDir = filepath.Join(opts.StoreDir, name, "store")
		node.LogDir = filepath.Join(opts.LogDir, name)
		node.Config = fmt.Sprintf("server_name: %s\ncluster {\n  name: crbridge\n  listen: %q\n  routes: [\n%s  ]\n  %s\n}\n%s",
			name, loopback(ports[n+i]), routes.String(), opts.Cluster, opts.Config)
		if err := os.MkdirAll(node.LogDir, 0o755); err != nil {
			return nil, errors.Join(err, group.Wait())
		}
		group.Go(func() (err error) {
			c.nodes[i], err = StartNATS(groupCtx, node)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return c, poll.Until(ctx, patience, "NATS cluster", c.allCurrent)
}

// Start starts the nodes that are not running, at the same time, and waits
// until all nodes are current again.
func (c *NATSCluster) Start(ctx context.Context) error {
	var group errgroup.Group
	for _, node := range c.nodes {
		if node.PID() == 0 {
			group.Go(func() error { return node.Start(ctx) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return c.WaitCurrent(ctx)
}

// WaitCurrent waits until the leader of the cluster holds all nodes for current
// and each node has caught up with its streams. All must be running.
func (c *NATSCluster) WaitCurrent(ctx context.Context) error {
	return poll.Until(ctx, patience, "NATS cluster", c.allCurrent)
}

// Nodes returns the nodes.
func (c *NATSCluster) Nodes() []*NATSServer { return append([]*NATSServer(nil), c.nodes...) }

// Node returns the node with a name, n1 and so on, or nil.
func (c *NATSCluster) Node(name string) *NATSServer {
	for i, node := range c.nodes {
		if natsNodeName(i) == name {
			return node
		}
	}
	return nil
}

// URLs returns the nodes' addresses for clients.
func (c *NATSCluster) URLs() []string {
	urls := make([]string, 0, len(c.nodes))
	for _, node := range c.nodes {
		urls = append(urls, node.URL())
	}
	return urls
}

// URL returns all addresses as nats.Connect takes them, with commas.
func (c *NATSCluster) URL() string { return strings.Join(c.URLs(), ",") }

// StreamLeader returns the node that leads a stream, and waits until one does.
// It is the leader itself that is asked, so js must be able to reach it.
func (c *NATSCluster) StreamLeader(ctx context.Context, js jetstream.JetStream, stream string) (*NATSServer, error) {
	var leader *NATSServer
	err := poll.Until(ctx, patience, "leader of stream "+stream, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		info := s.CachedInfo().Cluster
		if info == nil || info.Leader == "" {
			return errors.New("none")
		}
		if leader = c.Node(info.Leader); leader == nil {
			return fmt.Errorf("%s is not a node of this cluster", info.Leader)
		}
		return nil
	})
	return leader, err
}

// Close kills all nodes, waits until they are gone and removes what is not the
// caller's. It may be called more than once.
func (c *NATSCluster) Close() error {
	c.close.Do(func() {
		var errs []error
		for _, node := range c.nodes {
			if node != nil {
				errs = append(errs, node.Close())
			}
		}
		c.closeErr = errors.Join(append(errs, os.RemoveAll(c.dir))...)
	})
	return c.closeErr
}

// allCurrent returns nil when every node is ready and has settled, all name the
// same leader, and that leader holds all others for current.
func (c *NATSCluster) allCurrent(ctx context.Context) error {
	type peer struct {
		Name    string `json:"name"`
		Current bool   `json:"current"`
		Offline bool   `json:"offline"`
	}
	var leader string
	for i, node := range c.nodes {
		name := natsNodeName(i)
		if err := node.ready(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		var info struct {
			Start time.Time `json:"start"`
			Meta  struct {
				Leader   string `json:"leader"`
				Replicas []peer `json:"replicas"`
			} `json:"meta_cluster"`
		}
		if err := errors.Join(node.ask(ctx, "/varz", &info), node.ask(ctx, "/jsz", &info)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if up := time.Since(info.Start); up < settleTime {
			return fmt.Errorf("%s has been up for %s", name, up)
		}
		meta := info.Meta
		if i == 0 {
			leader = meta.Leader
		}
		if meta.Leader == "" || meta.Leader != leader {
			return fmt.Errorf("%s says that %q leads, %s says %q", natsNodeName(0), leader, name, meta.Leader)
		}
		if leader != name {
			continue
		}
		if len(meta.Replicas) != len(c.nodes)-1 {
			return fmt.Errorf("leader %s knows %d others", name, len(meta.Replicas))
		}
		for _, p := range meta.Replicas {
			if !p.Current || p.Offline {
				return fmt.Errorf("leader %s does not hold %s for current", name, p.Name)
			}
		}
	}
	return nil
}

// ask asks one of the server's HTTP endpoints. Its address is in a file that is
// named after the process.
func (s *NATSServer) ask(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	content, err := os.ReadFile(filepath.Join(s.dir, fmt.Sprintf("nats-server_%d.ports", s.PID())))
	if err != nil {
		return err
	}
	var ports struct {
		Monitoring []string `json:"monitoring"`
	}
	if err := json.Unmarshal(content, &ports); err != nil {
		return err
	}
	if len(ports.Monitoring) == 0 {
		return errors.New("no monitoring address")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(ports.Monitoring[0], "/")+path, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	err = json.NewDecoder(resp.Body).Decode(into)
	_ = resp.Body.Close()
	return err
}

func natsNodeName(i int) string { return fmt.Sprintf("n%d", i+1) }

// distinctPorts returns n free ports, no two of them the same.
func distinctPorts(ctx context.Context, n int) ([]int, error) {
	taken := map[int]bool{}
	ports := make([]int, 0, n)
	for len(ports) < n {
		port, err := FreePort(ctx)
		if err != nil {
			return nil, err
		}
		if !taken[port] {
			taken[port] = true
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// NATSClusterForTest starts a cluster of n nats-servers for one test and closes
// it when the test ends. If it cannot be started the test fails. The logs are
// the test's artifacts (go test -artifacts).
func NATSClusterForTest(t testing.TB, n int, opts NATSOptions) *NATSCluster {
	t.Helper()
	if opts.LogDir == "" {
		opts.LogDir = t.ArtifactDir()
	}
	if opts.Progress == nil {
		opts.Progress = os.Stderr
	}
	c, err := StartNATSCluster(t.Context(), n, opts)
	if err != nil {
		t.Fatalf("NATS cluster: %v", err)
	}
	closeWith(t, c.Close)
	return c
}
