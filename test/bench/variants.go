//go:build unix

package main

import (
	"context"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sources"
)

// startFlow is the bridge's way.
func startFlow(ctx context.Context, config *rest.Config, publisher sinks.Publisher) (*pipeline, error) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	f := flow.New(flow.ID{CRD: crdName, Route: "bench", Sink: "bench"}, flow.Environment{
		Cluster: "bench", API: sources.Cluster{Config: config, HTTP: client}, Memory: flow.NewMemory(64 << 20),
		Metrics: flow.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler),
	}, publisher, publisher.(journal.Journal), nil) //nolint:forcetypeassert // a stream's publisher is one
	run := f.Start(ctx, flow.Target{
		Resource: sources.Resource{Kind: kind, Plural: resource.Resource, Namespaced: true}, CRD: "bench", Existing: true,
		Rules: flow.Everything(),
	})
	return &pipeline{
		delivered: func() int { return int(f.Status().Delivered) },
		stop: func() {
			run.Stop(0)
			<-run.Done()
		},
	}, nil
}

// startStock is the usual way: a shared informer of unstructured objects, whose
// handler makes the same events; they are published in batches of the same size.
func startStock(ctx context.Context, config *rest.Config, publisher sinks.Publisher) (*pipeline, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	queue := make(chan events.Event, 4096)
	origin := events.Origin{
		Cluster: "bench", Group: kind.Group, Version: kind.Version, Kind: kind.Kind,
		Resource: resource.Resource, Namespaced: true, Route: "bench",
	}
	handle := func(t events.Type, of any) {
		u, ok := of.(*unstructured.Unstructured)
		if !ok {
			return
		}
		version, err := strconv.ParseUint(u.GetResourceVersion(), 10, 64)
		if err != nil {
			return
		}
		o, err := object.Of(u.Object)
		if err != nil {
			return
		}
		event, err := events.New(origin, nil, events.Change{
			Type: t, Namespace: u.GetNamespace(), Name: u.GetName(), UID: string(u.GetUID()),
			ResourceVersion: version, Object: o, Observed: time.Now(),
		})
		if err != nil {
			return
		}
		select {
		case queue <- event:
		case <-ctx.Done():
		}
	}
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	informer := factory.ForResource(resource).Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { handle(events.Existing, o) },
		UpdateFunc: func(_, o any) { handle(events.Updated, o) },
	}); err != nil {
		cancel()
		return nil, err
	}
	var delivered atomic.Int64
	done := make(chan struct{})
	if err := claim(ctx, publisher); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(done)
		publish(ctx, queue, publisher, &delivered)
	}()
	factory.Start(ctx.Done())
	return &pipeline{
		delivered: func() int { return int(delivered.Load()) },
		stop: func() {
			cancel()
			factory.Shutdown()
			<-done
		},
	}, nil
}

// publish takes batches from the queue, each as large as what waits, and hands
// them to the sink until it has them.
func publish(ctx context.Context, queue <-chan events.Event, publisher sinks.Publisher, delivered *atomic.Int64) {
	const most = 512
	for {
		var batch []events.Event
		select {
		case e := <-queue:
			batch = append(batch, e)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(batch) < most; {
			select {
			case e := <-queue:
				batch = append(batch, e)
			default:
				more = false
			}
		}
		for len(batch) > 0 && ctx.Err() == nil {
			durable, _ := publisher.Publish(ctx, batch) // tried again until it is
			delivered.Add(int64(durable))
			batch = batch[durable:]
		}
	}
}

// claim takes over the flow that the publisher carries, as soon as the sink is
// connected. What was delivered before does not matter here.
func claim(ctx context.Context, publisher sinks.Publisher) error {
	kept := publisher.(journal.Journal) //nolint:forcetypeassert // a stream's publisher is one
	for {
		_, err := kept.Claim(ctx, forgetful{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

type forgetful struct{}

func (forgetful) Reset()              {}
func (forgetful) Restore(journal.Row) {}
func (forgetful) Rebase()             {}
