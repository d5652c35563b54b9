//go:build unix

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestSharedStream shows a stream that others publish to as well, on subjects of
// their own and on those of the events, messages of all sorts, while the
// bridge is killed and started again: its events are each there once, in order,
// and its ledger is whole.
func TestSharedStream(t *testing.T) {
	slow(t)
	t.Parallel() // it waits, most of the time
	const objects = 20
	w := newWorld(t)
	k := w.kind
	k.create(t)
	k.fill(t, objects)
	_, err := w.stream.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>", "other.>"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- intrude(ctx, w, objects) }()
	t.Cleanup(cancel)

	b := w.bridge(t)
	b.waitState(t, k.name, "test", "running")
	changes, stop := k.shake(t, objects)
	for range 3 {
		at := changes.Load()
		eventually(t, func() error { return missing(int(changes.Load()-at), 100, k.name) })
		b.Kill()
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		f := b.waitState(t, k.name, "test", "running")
		if !f.Fenced || f.Reason != "" {
			t.Errorf("the flow says %+v", f)
		}
	}
	stop()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if strings.Contains(b.log(t), "ledger may be incomplete") {
		t.Error("a ledger may be incomplete")
	}
	want := objects + int(changes.Load())
	var messages []message
	eventually(t, func() error {
		messages = slices.DeleteFunc(w.stream.all(t, k.name), func(m message) bool { return m.attributes["foreign"] != "" })
		return missing(len(messages), want, k.name)
	})
	checkOrder(t, messages)
	if len(messages) != want {
		t.Errorf("%d events, not %d", len(messages), want)
	}
}

// intrude publishes what is none of the bridge's, until ctx is done.
func intrude(ctx context.Context, w *world, objects int) error {
	resource, group, _ := strings.Cut(w.kind.name, ".")
	prefix := fmt.Sprintf("k8s.test.%s.%s.default.", strings.ReplaceAll(group, ".", "_"), resource)
	source := "/clusters/test/apis/" + group + "/" + resource
	foreign := func(more ...string) nats.Header {
		h := nats.Header{"ce-foreign": {"true"}}
		for i := 0; i+1 < len(more); i += 2 {
			h[more[i]] = []string{more[i+1]}
		}
		return h
	}
	for n := 0; ; n++ {
		object := fmt.Sprintf("o%d", n%objects)
		m := [...]*nats.Msg{
			{Subject: "other.things", Data: []byte("{}")},
			{Subject: prefix + object, Header: foreign(), Data: []byte("{}")},
			{Subject: prefix + object, Header: foreign("ce-id", "x", "ce-source", "/elsewhere", "ce-route", "test", "ce-type", "dev.crbridge.resource.deleted.v1", "ce-subject", "default/"+object), Data: []byte("{}")},
			{Subject: prefix + object, Header: foreign("ce-source", source, "ce-route", "another", "ce-type", "dev.crbridge.resource.deleted.v1", "ce-subject", "default/"+object, "ce-uid", "u", "ce-resourceversion", "99999999"), Data: []byte("{}")},
			{Subject: prefix + object, Header: foreign("ce-source", source, "ce-route", "test", "ce-subject", "default/"+object, "ce-resourceversion", "many"), Data: []byte("{}")},
		}[n%5]
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := w.stream.js.PublishMsg(attempt, m)
		cancel()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is what ended it
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}
