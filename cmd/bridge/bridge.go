package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/config"
)

const (
	// grace is how long flows may go on delivering when the bridge is told to
	// end. With closeGrace, and the 10 s that giving the Lease back may take
	// when the API server does not answer, it stays below the 30 s that
	// Kubernetes gives a pod.
	grace = 15 * time.Second
	// closeGrace is how long sinks and servers may take to close after that.
	closeGrace = 3 * time.Second
)

// bridge runs the daemon until ctx is done or it cannot go on; where it ends for
// an error, whichever that is, it says so on its pod.
func bridge(ctx context.Context, path, kubeconfig string, environ []string, stderr io.Writer) error {
	err := daemon(ctx, path, kubeconfig, environ, stderr)
	if err != nil {
		tellEnd(ctx, kubeconfig, environ, err)
	}
	return err
}

func daemon(ctx context.Context, path, kubeconfig string, environ []string, stderr io.Writer) error {
	file := newContents(path) // before it is read, lest a change go unnoticed
	c, err := loadConfig(path, environ)
	if err != nil {
		return err
	}
	loggers := newLoggers(c.Log, stderr)
	defer loggers.repeats.Flush()
	log := loggers.logger
	// What the libraries log goes the same way as what we log.
	slog.SetDefault(slog.New(quietStop{log.Handler()})) //nolint:forbidigo // nobody here uses it; a library may
	libraries := logr.FromSlogHandler(quietStop{log.Handler()})
	ctrl.SetLogger(libraries)
	klog.SetLogger(libraries)
	tellResources(log, environ, limitMemory(environ, memlimit.FromCgroup))
	for _, warning := range c.Warnings() {
		log.Warn("configuration", "warning", warning)
	}
	if err := checkElection(c.LeaderElection, path); err != nil {
		return err
	}
	cluster, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	log.Info("starting", "version", thisBuild().version, "cluster", c.Cluster, "apiServer", cluster.Config.Host, "configuration", path)

	b, err := wire(ctx, wiring{path: path, environ: environ, config: c, cluster: cluster, loggers: loggers, libraries: libraries})
	if err != nil {
		return err
	}
	servers, err := listen(ctx, c, b.status.Health(), b.status.Server())
	if err != nil {
		return errors.Join(err, b.close(ctx))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(servers))
	for _, s := range servers {
		go func() {
			if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", s.key, err)
				cancel()
			}
		}()
	}
	var beside sync.WaitGroup
	beside.Go(func() { b.crds.probe(ctx) })
	beside.Go(func() { b.reloader.run(ctx, file) })
	beside.Go(func() { b.recorder.follow(ctx, b.status.Flows, b.sinks.All) })
	beside.Go(func() { b.status.Run(ctx) })
	beside.Go(func() { giveBack(ctx, b.status.Flows, log) })
	beside.Go(func() { governProcessors(ctx, environ, log) })
	if b.lease != nil {
		beside.Go(func() { b.lease.follow(ctx) })
	}
	if err := runManager(ctx, b); err != nil {
		// The lease is lost, or something cannot go on. Another bridge may
		// lead by now: what flows are still sending is not waited for.
		failpoint.Here(failpoint.AfterLostLease)
		return err
	}
	select {
	case err = <-failed:
	default:
	}
	cancel()
	beside.Wait()
	b.status.EndStreams()
	for _, s := range servers {
		err = errors.Join(err, s.close(ctx))
	}
	err = errors.Join(err, b.close(ctx))
	if err == nil {
		log.Info("ended")
	}
	return err
}

// runManager runs the manager until ctx is done and all that it started has
// ended. While it waits for its cache it hears of no end
// (controller-runtime's runnableGroup.Start goes on waiting), and nothing that
// would have to be waited for has begun.
func runManager(ctx context.Context, b *parts) error {
	ended := make(chan error, 1)
	go func() { ended <- b.manager.Start(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if b.crds.synced() {
		return <-ended
	}
	return nil
}

// podNamespace is the file in which a pod finds the name of its namespace.
const podNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// checkElection finds out early that nobody says where the Lease is. In a pod
// it is in the pod's namespace.
func checkElection(c config.LeaderElection, path string) error {
	if !c.Enabled || c.Namespace != "" {
		return nil
	}
	if _, err := os.Stat(podNamespace); err != nil {
		return usageError{fmt.Errorf("%s: leaderElection.namespace: \"\": outside of a cluster it has to be set to the namespace of the Lease", path)}
	}
	return nil
}

// server is an HTTP server that has its address already.
type server struct {
	key      string // of the address in the configuration
	listener net.Listener
	http     *http.Server
}

// listen takes the addresses, so that one that is in use is known at once. One
// address for both is one server, unless it leaves the port open.
func listen(ctx context.Context, c *config.Config, health, all http.Handler) ([]*server, error) {
	open := func(key, address string, handler http.Handler) (*server, error) {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", key, address, err)
		}
		// Neither a read nor a write timeout: a profile takes as long as its
		// reader asks for.
		return &server{key: key, listener: listener, http: &http.Server{
			Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		}}, nil
	}
	main, err := open("server.address", c.Server.Address, all)
	if err != nil {
		return nil, err
	}
	if c.Health.Address == c.Server.Address && !strings.HasSuffix(c.Server.Address, ":0") {
		return []*server{main}, nil
	}
	probes, err := open("health.address", c.Health.Address, health)
	if err != nil {
		return nil, errors.Join(err, main.listener.Close())
	}
	return []*server{main, probes}, nil
}

// close lets requests that are under way finish, whether or not ctx is done.
func (s *server) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close() // a reader that does not finish is cut off
	}
	return nil
}
