package oracle_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/test/oracle"
)

const (
	existing = oracle.Existing
	created  = oracle.Created
	updated  = oracle.Updated
	deleted  = oracle.Deleted
)

// life is what most rows begin with: one object, told of up to its third
// version, of a flow that follows.
func life(s *script) {
	s.put("one", "A", 10, 11, 12)
	s.tell(created, "A", 10)
	s.tell(updated, "A", 11)
	s.tell(updated, "A", 12)
}

// TestAttributes spoils one attribute after the other.
func TestAttributes(t *testing.T) {
	for _, name := range []string{
		"specversion", "type", "id", "source", "subject", "time", "datacontenttype", "apiversion", "kind",
		"namespace", "name", "uid", "resourceversion", "route", "partitionkey", "sequence", "inferred", "coalesced",
	} {
		for how, change := range map[string]func(*nats.Msg){"wrong": attribute(name, "x"), "empty": attribute(name, ""), "absent": without(name)} {
			if how == "absent" && (name == "inferred" || name == "coalesced") {
				continue // as it should be
			}
			t.Run(name+"/"+how, func(t *testing.T) {
				s := newScript(t)
				s.expected.Quiet = false // an event without an object is missing, too
				s.put("one", "A", 10)
				s.tell(created, "A", 10, change)
				violations := oracle.Check(s.past, s.recording, s.expected)
				found := false
				for _, v := range violations {
					found = found || v.Property == oracle.Attributes
				}
				if !found {
					t.Errorf("not noticed: %v", violations)
				}
			})
		}
	}
	for name, change := range map[string]func(*nats.Msg){
		"Nats-Msg-Id":      header("Nats-Msg-Id", "x"),
		"the NATS subject": func(m *nats.Msg) { m.Subject = "k8s.demo.shop_example_com.orders.default.two" },
		"a header twice":   func(m *nats.Msg) { m.Header["ce-kind"] = []string{"Order", "Order"} },
		"a short sequence": attribute("sequence", "10"),
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			s.put("one", "A", 10)
			s.tell(created, "A", 10, change)
			breaks(t, s, oracle.Attributes)
		})
	}
}

// TestSize shows that a long run is judged in seconds.
func TestSize(t *testing.T) {
	s := newScript(t)
	revision := int64(0)
	for object := range 10_000 {
		uid := fmt.Sprint("uid-", object)
		s.put(fmt.Sprint("object-", object), uid, revision+1)
		s.tell(created, uid, revision+1)
		for range 8 {
			revision++
			s.put(s.objects[uid], uid, revision+1)
			s.tell(updated, uid, revision+1)
		}
		revision += 2
	}
	begin := time.Now()
	violations := oracle.Check(s.past, s.recording, s.expected)
	took := time.Since(begin)
	t.Logf("%d versions and %d messages took %v", len(s.past.Versions), len(s.recording.Messages), took)
	if len(violations) > 0 {
		t.Errorf("%d violations, the first: %v", len(violations), violations[0])
	}
	if took > 30*time.Second { // a machine with other work, and the race detector
		t.Errorf("it took %v", took)
	}
}
