package oracle_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/test/oracle"
)

var orders = oracle.Resource{Group: "shop.example.com", Plural: "orders"}

const controlSubject = "crbridge.K8S.demo.all.shop_example_com.orders"

// script is a history and a stream that are made by hand, step by step.
type script struct {
	t          *testing.T
	past       oracle.Past
	recording  oracle.Recording
	expected   oracle.Expectations
	objects    map[string]string // name by uid
	generation int
	sequence   uint64
}

// newScript has one route, which sends everything of a resource.
func newScript(t *testing.T) *script {
	return &script{
		t:         t,
		objects:   map[string]string{},
		recording: oracle.Recording{Generations: []oracle.Generation{{Reason: "first"}}},
		expected: oracle.Expectations{
			Cluster: "demo", Stream: "K8S", Quiet: true,
			Routes: []oracle.Route{{Name: "all", Resources: []oracle.Resource{orders}, Data: true}},
		},
	}
}

func (s *script) route() *oracle.Route { return &s.expected.Routes[0] }

// only sets what the route sends.
func (s *script) only(kinds ...string) { s.route().Events = kinds }

func (s *script) lossy(from, to int64) {
	s.expected.Lossy = append(s.expected.Lossy, oracle.Window{From: from, To: to})
}

// object is what etcd has of the object at a revision.
func (s *script) object(uid string, revision int64) map[string]any {
	return map[string]any{
		"apiVersion": "shop.example.com/v1", "kind": "Order",
		"metadata": map[string]any{"namespace": "default", "name": s.objects[uid], "uid": uid},
		"spec":     map[string]any{"n": revision},
	}
}

// put writes versions of the object into etcd.
func (s *script) put(name, uid string, revisions ...int64) {
	s.t.Helper()
	s.objects[uid] = name
	for _, revision := range revisions {
		content, err := oracle.ReadContent(text(s.t, s.object(uid, revision)))
		if err != nil {
			s.t.Fatal(err)
		}
		s.add(oracle.Version{UID: uid, Revision: revision, Content: content})
	}
}

func (s *script) remove(uid string, revision int64) {
	s.add(oracle.Version{UID: uid, Revision: revision, Deleted: true})
}

func (s *script) add(v oracle.Version) {
	v.Resource, v.Namespace, v.Name = orders, "default", s.objects[v.UID]
	s.past.Versions = append(s.past.Versions, v)
	s.past.Revision = max(s.past.Revision, v.Revision)
}

// tell stores an event in the stream, as a faultless bridge would write it, and
// lets the changes spoil it.
func (s *script) tell(kind, uid string, revision int64, changes ...func(*nats.Msg)) {
	s.t.Helper()
	stored := revision
	if kind == oracle.Deleted {
		for _, v := range s.past.Versions {
			if v.UID == uid && !v.Deleted {
				stored = v.Revision // its last
			}
		}
	}
	object := s.object(uid, stored)
	object["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(revision)
	id := fmt.Sprintf("%s.%d.all", uid, revision)
	if kind == oracle.Deleted {
		id = uid + ".deleted.all"
	}
	name := s.objects[uid]
	m := &nats.Msg{Subject: "k8s.demo.shop_example_com.orders.default." + name, Header: nats.Header{}, Data: text(s.t, object)}
	m.Header.Set("Nats-Msg-Id", id)
	for attribute, value := range map[string]string{
		"specversion": "1.0", "type": "dev.crbridge.resource." + kind + ".v1", "id": id,
		"source": "/clusters/demo/apis/shop.example.com/orders", "subject": "default/" + name,
		"time": "2026-11-23T01:02:03.004Z", "datacontenttype": "application/json",
		"apiversion": "shop.example.com/v1", "kind": "Order", "namespace": "default", "name": name, "uid": uid,
		"resourceversion": fmt.Sprint(revision), "route": "all", "partitionkey": "default/" + name,
		"sequence": fmt.Sprintf("%020d", revision),
	} {
		m.Header["ce-"+attribute] = []string{url.PathEscape(value)}
	}
	for _, change := range changes {
		change(m)
	}
	s.store(m)
}

func (s *script) store(m *nats.Msg) {
	s.sequence++
	s.recording.Messages = append(s.recording.Messages, oracle.NewMessage(s.generation, s.sequence, m.Subject, m.Header, m.Data))
}

// control stores a control message.
func (s *script) control(body string, changes ...func(*nats.Msg)) uint64 {
	m := &nats.Msg{Subject: controlSubject, Header: nats.Header{}, Data: []byte(body)}
	for _, change := range changes {
		change(m)
	}
	s.store(m)
	return s.sequence
}

// purge deletes all that is stored.
func (s *script) purge() {
	g := &s.recording.Generations[s.generation]
	g.Purged = append(g.Purged, s.sequence)
}

// recreate makes the stream anew.
func (s *script) recreate() {
	s.recording.Generations = append(s.recording.Generations, oracle.Generation{Reason: "recreated"})
	s.generation++
	s.sequence = 0
}

// vanish leaves sequences out, as if the tap had come too late.
func (s *script) vanish(count uint64) {
	s.recording.Gaps = append(s.recording.Gaps, oracle.Gap{Generation: s.generation, From: s.sequence + 1, To: s.sequence + count})
	s.sequence += count
}

// The changes that rows make to an event.

func attribute(name, value string) func(*nats.Msg) {
	return func(m *nats.Msg) { m.Header["ce-"+name] = []string{value} }
}

func without(name string) func(*nats.Msg) {
	return func(m *nats.Msg) { delete(m.Header, "ce-"+name) }
}

func header(name, value string) func(*nats.Msg) {
	return func(m *nats.Msg) { m.Header.Set(name, value) }
}

// under says that the event was written under a control message.
func under(sequence uint64) func(*nats.Msg) {
	return func(m *nats.Msg) {
		m.Header.Set("Nats-Expected-Last-Subject-Sequence", fmt.Sprint(sequence))
		m.Header.Set("Nats-Expected-Last-Subject-Sequence-Subject", controlSubject)
	}
}

func data(object string) func(*nats.Msg) {
	return func(m *nats.Msg) { m.Data = []byte(object) }
}

func id(value string) func(*nats.Msg) {
	return func(m *nats.Msg) {
		m.Header["ce-id"] = []string{value}
		m.Header.Set("Nats-Msg-Id", value)
	}
}

func resync(n int) func(*nats.Msg) {
	return func(m *nats.Msg) { id(fmt.Sprintf("%s.r%d", m.Header["ce-id"][0], n))(m) }
}

var (
	inferred  = attribute("inferred", "true")
	coalesced = attribute("coalesced", "true")
)

// inStructuredMode rewrites the event as one JSON text.
func inStructuredMode(m *nats.Msg) {
	event := map[string]any{}
	for name, values := range m.Header {
		if attribute, ok := strings.CutPrefix(name, "ce-"); ok {
			event[attribute], _ = url.PathUnescape(values[0])
			delete(m.Header, name)
		}
	}
	if event["inferred"] == "true" {
		event["inferred"] = true // JSON has booleans
	}
	event["data"] = json.RawMessage(m.Data)
	m.Data, _ = json.Marshal(event)
	m.Header.Set("Content-Type", "application/cloudevents+json; charset=UTF-8")
}

func text(t *testing.T, object map[string]any) []byte {
	t.Helper()
	content, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
