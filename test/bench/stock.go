//go:build linux

package main

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/object"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/nats"
)

// stockWork is the usual way to do what the bridge does: client-go's shared
// informers of unstructured objects, whose handlers make the same events; they
// are published in batches of the same size through the same sink.
func stockWork(ctx context.Context, s settings, _ *http.ServeMux, ready func()) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	sink, err := openSink(s) //nolint:contextcheck // a sink lives until it is closed
	if err != nil {
		return err
	}
	defer func() { _ = sink.Close(context.WithoutCancel(ctx)) }() // there is nothing more to be delivered
	publisher := sink.Publisher(sinks.Flow{Route: route(0), CRD: crdName})
	if err := claim(ctx, publisher); err != nil {
		return err
	}
	queue := make(chan events.Event, 4096)
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	for _, r := range s.resources() {
		handler := handler{queue: queue, done: ctx.Done(), origin: events.Origin{
			Cluster: cluster, Group: r.Group, Version: r.Version, Kind: kind.Kind, Resource: r.Resource, Namespaced: true, Route: route(0),
		}}
		if _, err := factory.ForResource(r).Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { handler.handle(events.Existing, o) },
			UpdateFunc: func(_, o any) { handler.handle(events.Updated, o) },
		}); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done()) // what is not synced then has been told to end
	ready()
	publish(ctx, queue, publisher)
	return nil
}

func (s settings) resources() []schema.GroupVersionResource {
	switch {
	case s.empty:
		return []schema.GroupVersionResource{emptyResource}
	case s.crds == 0:
		return []schema.GroupVersionResource{resource}
	}
	all := make([]schema.GroupVersionResource, max(0, s.crds))
	for i := range all {
		all[i] = kind.GroupVersion().WithResource(numbered(i))
	}
	return all
}

func openSink(s settings) (sinks.Sink, error) {
	subject, err := events.ParseSubject(subjects(s.stream))
	if err != nil {
		return nil, err
	}
	return nats.Open(nats.Options{
		Name: "main", Cluster: cluster, URLs: []string{s.nats}, Subject: subject,
		JetStream: &nats.JetStream{Stream: s.stream, Create: true, DuplicateWindow: 2 * time.Minute},
		Logger:    slog.New(slog.DiscardHandler),
	})
}

// handler makes events of what an informer tells.
type handler struct {
	queue  chan<- events.Event
	done   <-chan struct{}
	origin events.Origin
}

func (h handler) handle(t events.Type, of any) {
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
	event, err := events.New(h.origin, nil, events.Change{
		Type: t, Namespace: u.GetNamespace(), Name: u.GetName(), UID: string(u.GetUID()),
		ResourceVersion: version, Object: o, Observed: time.Now(),
	})
	if err != nil {
		return
	}
	select {
	case h.queue <- event:
	case <-h.done:
	}
}

// publish takes batches from the queue, each as large as what waits, and hands
// them to the sink until it has them.
func publish(ctx context.Context, queue <-chan events.Event, publisher sinks.Publisher) {
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
			batch = batch[durable:]
		}
	}
}

// claim takes over the flow that the publisher carries, as soon as the sink is
// connected. What was delivered before does not matter here.
func claim(ctx context.Context, publisher sinks.Publisher) error {
	kept := publisher.(journal.Journal) //nolint:forcetypeassert // a stream's publisher is one
	return until(ctx, 50*time.Millisecond, func() (bool, error) {
		_, err := kept.Claim(ctx, forgetful{})
		return err == nil, nil // tried again until ctx ends
	})
}

type forgetful struct{}

func (forgetful) Reset()              {}
func (forgetful) Restore(journal.Row) {}
func (forgetful) Rebase()             {}
