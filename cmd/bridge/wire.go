package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	controllermetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/lifecycle"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sources"
	"github.com/crbridge/crbridge/pkg/status"
)

// queued is about how many bytes of events wait in memory for all sinks together.
const queued = 64 << 20

// The Lease. A standby looks at it every leaseRetry, or up to 2.2 times as long
// (client-go's jitter), and so takes over within a second from a leader that
// has given it back; a leader renews it as often. A leader that cannot renew it
// for renewDeadline ends; its successor waits for leaseDuration.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	leaseRetry    = 300 * time.Millisecond
)

// parts is the bridge, put together.
type parts struct {
	manager manager.Manager
	crds    *crdCache
	status  *status.Bridge
	lease   *lease // nil without election
	// sinks are those that there are now; the reloader changes them.
	sinks    *sinks.Set
	reloader *reloader
	recorder *recorder // nil where there is no pod
}

// wiring is what the bridge is put together from.
type wiring struct {
	path      string // of the configuration file
	environ   []string
	config    *config.Config
	cluster   sources.Cluster
	loggers   *loggers
	libraries logr.Logger
}

// wire puts the bridge together from its configuration. It is the one place
// that knows all packages, and it fixes the order: sinks open first and close
// last; the CRD cache syncs before the election; the supervisor and the CRD
// controller run while this bridge leads. Nothing here waits for the cluster
// or for a sink.
func wire(ctx context.Context, w wiring) (*parts, error) {
	c, cluster, log := w.config, w.cluster, w.loggers.logger
	registry := prometheus.NewRegistry() // controller-runtime's has Go's and the process' metrics
	registry.MustRegister(thisBuild().metric())

	cluster.Feeds, cluster.Requests = &sources.Feeds{}, sources.NewRequests()
	registry.MustRegister(cluster.Requests)
	var err error
	if cluster.History, err = sources.NewHistory(cluster); err != nil {
		return nil, err
	}
	if cluster.Presence, err = sources.NewPresence(cluster); err != nil {
		return nil, err
	}
	metrics, err := sinks.NewMetrics(registry)
	if err != nil {
		return nil, fmt.Errorf("metrics of sinks: %w", err)
	}
	open, err := openSinks(ctx, c, sinks.Environment{Metrics: metrics, Logger: log})
	if err != nil {
		return nil, err
	}
	b := &parts{sinks: sinks.NewSet(open)}
	registry.MustRegister(b.sinks)
	if b.crds, err = newCRDCache(cluster, log); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	if b.manager, err = newManager(c, cluster, w.libraries, b.crds); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	memory, tap := flow.NewMemory(queued), &flow.Tap{}
	registry.MustRegister(memory)
	supervisor, err := lifecycle.NewSupervisor(lifecycle.Options{
		Desired: lifecycle.Desired{Routes: c.Routes, Sinks: open}, State: c.State.Sink, Elected: c.LeaderElection.Enabled, Grace: grace,
		Backoff: lifecycle.DefaultBackoff(), Log: log,
		Flows: flow.Environment{
			Cluster: c.Cluster, API: cluster, Memory: memory,
			Metrics: flow.NewMetrics(registry), Log: log, Tap: tap,
		},
	})
	if err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	registry.MustRegister(supervisor)
	if err := supervisor.SetupWithManager(b.manager); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	if err := b.crds.follow(ctx, b.manager.GetCache()); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	if b.recorder, err = newRecorder(cluster, w.environ, log); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	b.reloader = newReloader(w.path, w.environ, c, registry)
	b.reloader.log, b.reloader.loggers, b.reloader.supervisor = log, w.loggers, supervisor
	b.reloader.sinks, b.reloader.metrics, b.reloader.recorder = b.sinks, metrics, b.recorder
	b.reloader.state = open[c.State.Sink]
	b.status = &status.Bridge{
		Cluster: c.Cluster, Configuration: b.reloader.Configuration, Sinks: b.sinks.All,
		Metrics: prometheus.Gatherers{registry, controllermetrics.Registry},
		Flows:   supervisor.Status, Leading: supervisor.Leading, CRDs: b.crds.ready, Tap: tap,
	}
	if b.status.Access, err = newAccess(c, cluster, log); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	if c.LeaderElection.Enabled {
		if b.lease, err = newLease(c.LeaderElection, cluster, supervisor.Leading); err != nil {
			return nil, errors.Join(err, b.close(ctx))
		}
		b.status.Leader = b.lease.leader
	}
	return b, nil
}

func newManager(c *config.Config, cluster sources.Cluster, log logr.Logger, crds *crdCache) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	if err := apiextensions.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("scheme: %w", err)
	}
	m, err := ctrl.NewManager(cluster.Config, manager.Options{
		Scheme: scheme,
		// The one kind that the manager deals with, so that it starts without
		// having to ask an API server that may not be there yet.
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
			mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{apiextensions.SchemeGroupVersion})
			mapper.Add(apiextensions.SchemeGroupVersion.WithKind("CustomResourceDefinition"), meta.RESTScopeRoot)
			return mapper, nil
		},
		Logger: log,
		NewCache: func(config *rest.Config, o cache.Options) (cache.Cache, error) {
			o.HTTPClient = cluster.HTTP
			o.ReaderFailOnMissingInformer = true
			o.DefaultWatchErrorHandler = crds.failed
			o.ByObject = map[client.Object]cache.ByObject{
				&apiextensions.CustomResourceDefinition{}: {Transform: lifecycle.Strip},
			}
			return cache.New(config, o)
		},
		Metrics:                       metricsserver.Options{BindAddress: "0"}, // ours are served with the status
		HealthProbeBindAddress:        "0",
		LeaderElection:                c.LeaderElection.Enabled,
		LeaderElectionID:              c.LeaderElection.Name,
		LeaderElectionNamespace:       c.LeaderElection.Namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 new(leaseDuration),
		RenewDeadline:                 new(renewDeadline),
		RetryPeriod:                   new(leaseRetry),
		GracefulShutdownTimeout:       new(grace + closeGrace),
	})
	if err != nil {
		return nil, fmt.Errorf("controller manager: %w", err)
	}
	return m, nil
}

func openSinks(ctx context.Context, c *config.Config, env sinks.Environment) (map[string]sinks.Sink, error) {
	open := map[string]sinks.Sink{}
	for name, s := range c.Sinks {
		sink, err := openSink(c, name, s, env)
		if err != nil {
			return nil, errors.Join(err, closeAll(ctx, open))
		}
		open[name] = sink
	}
	return open, nil
}

func openSink(c *config.Config, name string, s config.Sink, env sinks.Environment) (sinks.Sink, error) {
	_, of := s.Kind()
	env.Name, env.Cluster = name, c.Cluster
	sink, err := of.Open(env)
	if err != nil {
		return nil, fmt.Errorf("sinks.%s: %w", name, err)
	}
	return sink, nil
}

// visiting is the environment of a sink for a command that is not the bridge.
func visiting(c *config.Config, sink string) sinks.Environment {
	return sinks.Environment{Name: sink, Cluster: c.Cluster, Guest: true}
}

// close lets go of what was opened, whether or not ctx is done.
func (b *parts) close(ctx context.Context) error { return closeAll(ctx, b.sinks.All()) }

// closeAll lets go of sinks, whether or not ctx is done.
func closeAll(ctx context.Context, all map[string]sinks.Sink) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	var err error
	for name, s := range all {
		if failed := s.Close(ctx); failed != nil {
			err = errors.Join(err, fmt.Errorf("sink %s: closing: %w", name, failed))
		}
	}
	return err
}
