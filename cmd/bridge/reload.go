package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/lifecycle"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/status"
)

// reloader brings changes of the configuration file into force, and tells sinks
// when their files of secrets have changed.
type reloader struct {
	path       string
	environ    []string
	log        *slog.Logger
	loggers    *loggers
	supervisor *lifecycle.Supervisor
	sinks      *sinks.Set
	metrics    *sinks.Metrics
	recorder   *recorder
	state      sinks.Sink // that keeps the ledgers of others; nil where none does
	reloads    *prometheus.CounterVec
	successful prometheus.Gauge
	loaded     prometheus.Gauge

	// These belong to run.
	inForce *config.Config
	secrets map[string]*contents // by sink
	closing sync.WaitGroup

	mu     sync.Mutex
	status status.Configuration
}

func newReloader(path string, environ []string, c *config.Config, registry prometheus.Registerer) *reloader {
	r := &reloader{
		path: path, environ: environ, inForce: c, secrets: map[string]*contents{},
		status: status.Configuration{LoadedAt: time.Now().UTC(), Warnings: c.Warnings()},
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bridge_config_reloads_total",
			Help: "Changes of the configuration file, by result: ok (in force), bad (the one before stays in force).",
		}, []string{"result"}),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bridge_config_last_reload_successful",
			Help: "Whether the configuration file as it is now is in force: 1 if it is, 0 if it is bad.",
		}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bridge_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration that is in force was loaded.",
		}),
	}
	registry.MustRegister(r.reloads, r.successful, r.loaded)
	r.reloads.WithLabelValues("ok")
	r.reloads.WithLabelValues("bad")
	r.successful.Set(1)
	r.loaded.SetToCurrentTime()
	return r
}

// Configuration is how the configuration is, for the status.
func (r *reloader) Configuration() status.Configuration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// run looks at the files until ctx is done, and returns when the sinks that it
// has replaced are closed.
func (r *reloader) run(ctx context.Context, loaded *contents) {
	defer r.closing.Wait()
	r.watchSecrets()
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if loaded.changed(r.path) {
			r.reload(ctx)
		}
		for name, sink := range r.inForce.Sinks {
			if files := sink.Secrets(); r.secrets[name].changed(files...) {
				r.log.Info("files of a sink have changed; it connects anew", "sink", name, "files", strings.Join(files, ", "))
				r.sinks.All()[name].Reconnect()
			}
		}
	}
}

// watchSecrets begins to watch the files of sinks that are new.
func (r *reloader) watchSecrets() {
	secrets := map[string]*contents{}
	for name, sink := range r.inForce.Sinks {
		if secrets[name] = r.secrets[name]; secrets[name] == nil {
			secrets[name] = newContents(sink.Secrets()...)
		}
	}
	r.secrets = secrets
}

// reload brings the file as it is now into force, or leaves what is.
func (r *reloader) reload(ctx context.Context) {
	c, err := r.read()
	if err == nil {
		err = r.apply(ctx, c)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.reloads.WithLabelValues("bad").Inc()
		r.successful.Set(0)
		r.mu.Lock()
		r.status.Error = err.Error()
		r.mu.Unlock()
		r.log.Error("the configuration file has changed and is bad; the one before stays in force", "error", err)
		r.recorder.rejected(err)
	default:
		r.reloads.WithLabelValues("ok").Inc()
		r.successful.Set(1)
		r.loaded.SetToCurrentTime()
	}
}

func (r *reloader) read() (*config.Config, error) {
	content, err := os.ReadFile(r.path)
	if err != nil {
		return nil, err
	}
	return config.Parse(r.path, content, r.environ)
}

// apply brings a configuration into force.
func (r *reloader) apply(ctx context.Context, c *config.Config) error {
	restart := c.Restart(r.inForce)
	before := r.sinks.All()
	next, opened, err := r.openChanged(c, before) //nolint:contextcheck // a sink lives until it is closed
	if err != nil {
		return err
	}
	released, err := r.supervisor.Reconfigure(ctx, lifecycle.Desired{Routes: c.Routes, Sinks: next})
	if err != nil {
		return errors.Join(err, closeAll(ctx, opened))
	}
	r.sinks.Store(next)
	r.loggers.set(c.Log)
	for _, warning := range c.Warnings() {
		r.log.Warn("configuration", "warning", warning)
	}
	for _, key := range restart {
		r.log.Warn("configuration: a key has changed that needs a restart; its value from before stays in force", "key", key)
	}
	r.log.Info("the configuration has changed and is in force", "configuration", r.path)
	r.inForce = c
	r.watchSecrets()
	r.mu.Lock()
	r.status = status.Configuration{LoadedAt: time.Now().UTC(), RestartNeeded: restart, Warnings: c.Warnings()}
	r.mu.Unlock()
	r.recorder.loaded(restart)
	r.closeReplaced(ctx, before, next, released)
	return nil
}

// openChanged are the sinks that there should be: those that are as they were,
// and new ones for those that are not.
func (r *reloader) openChanged(c *config.Config, before map[string]sinks.Sink) (next, opened map[string]sinks.Sink, err error) {
	next, opened = map[string]sinks.Sink{}, map[string]sinks.Sink{}
	for name, s := range c.Sinks {
		if old, there := before[name]; there && reflect.DeepEqual(s, r.inForce.Sinks[name]) {
			next[name] = old
			continue
		}
		sink, err := openSink(c, name, s, sinks.Environment{Metrics: r.metrics, Logger: r.log})
		if err != nil {
			return nil, nil, errors.Join(err, closeAll(context.Background(), opened))
		}
		next[name], opened[name] = sink, sink
	}
	return next, opened, nil
}

// closeReplaced closes the sinks that are not used any more, when no flow uses
// them any more. That which keeps the ledgers of others is used until the end.
func (r *reloader) closeReplaced(ctx context.Context, before, next map[string]sinks.Sink, released <-chan struct{}) {
	for name, sink := range before {
		if next[name] == sink {
			continue
		}
		r.closing.Go(func() {
			select {
			case <-released:
			case <-ctx.Done():
			}
			if sink == r.state {
				<-ctx.Done()
			}
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
			defer cancel()
			if err := sink.Close(closing); err != nil {
				r.log.Warn("a sink that is no longer configured did not close in time", "sink", name, "error", err)
			}
		})
	}
}
