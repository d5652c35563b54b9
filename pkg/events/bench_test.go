package events_test

import (
	"fmt"
	"testing"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/object"
)

// BenchmarkNew is the cost of one event, by the size of its object. Bytes per
// second are bytes of data.
func BenchmarkNew(b *testing.B) {
	for _, fields := range []int{1, 10, 100} {
		for _, managed := range []bool{false, true} {
			b.Run(fmt.Sprintf("fields=%d/managed=%t", fields, managed), func(b *testing.B) {
				c := events.Change{
					Type: events.Updated, Namespace: "eu", Name: "o-1", UID: "0b6a1b9e-4c0e-4f5c-9d5e-0a7b7e6f1c2d",
					ResourceVersion: 123456, Object: ordered(b, fields, managed), Observed: observed,
				}
				b.ReportAllocs()
				for b.Loop() {
					e, err := events.New(orders, nil, c)
					if err != nil {
						b.Fatal(err)
					}
					b.SetBytes(int64(len(e.Data)))
				}
			})
		}
	}
}

// BenchmarkExpand is the cost of one event's NATS subject.
func BenchmarkExpand(b *testing.B) {
	template, err := events.ParseSubject("k8s.{cluster}.{group}.{resource}.{namespace}.{name}")
	if err != nil {
		b.Fatal(err)
	}
	fields := events.Fields{Cluster: "demo", Group: "shop.example.com", Resource: "orders", Namespace: "eu", Name: "o-1"}
	b.ReportAllocs()
	for b.Loop() {
		template.Expand(fields)
	}
}

// ordered has as many fields in its spec as told, each a small object itself.
func ordered(b *testing.B, fields int, managed bool) *object.Object {
	b.Helper()
	spec := make(map[string]any, fields)
	owned := make(map[string]any, fields)
	for i := range fields {
		name := fmt.Sprintf("item%03d", i)
		spec[name] = map[string]any{"sku": "A-1234567", "quantity": int64(i), "price": 9.95, "gift": true}
		owned["f:"+name] = map[string]any{"f:sku": map[string]any{}, "f:quantity": map[string]any{}}
	}
	metadata := map[string]any{
		"name": "o-1", "namespace": "eu", "uid": "0b6a1b9e-4c0e-4f5c-9d5e-0a7b7e6f1c2d", "resourceVersion": "123456",
		"generation": int64(7), "labels": map[string]any{"app": "shop", "tier": "gold"},
	}
	if managed {
		metadata["managedFields"] = []any{map[string]any{
			"manager": "kubectl", "operation": "Apply", "fieldsV1": map[string]any{"f:spec": owned},
		}}
	}
	o, err := object.Of(map[string]any{"apiVersion": "shop.example.com/v1", "kind": "Order", "metadata": metadata, "spec": spec})
	if err != nil {
		b.Fatal(err)
	}
	var s object.Scanner // as it is what a watch is read with
	frame, _, err := s.Frame(fmt.Appendf(nil, `{"type":"MODIFIED","object":%s}`, o.JSON))
	if err != nil {
		b.Fatal(err)
	}
	return frame.Object
}
