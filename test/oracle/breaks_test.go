package oracle_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/test/oracle"
)

// TestBreaks has one fault in each row, which breaks that property and no other.
func TestBreaks(t *testing.T) {
	for _, row := range []struct {
		property string
		name     string
		make     func(*script)
	}{
		{oracle.Invention, "no such object", func(s *script) {
			life(s)
			s.objects["X"] = "ghost"
			s.tell(created, "X", 12)
		}},
		{oracle.Invention, "no such version", func(s *script) {
			life(s)
			s.put("two", "B", 14)
			s.tell(created, "B", 14)
			s.tell(updated, "A", 13)
		}},
		{oracle.Invention, "newer than etcd", func(s *script) {
			life(s)
			s.tell(updated, "A", 13)
		}},
		{oracle.Invention, "the data of another version", func(s *script) {
			life(s)
			s.put("one", "A", 13)
			s.tell(updated, "A", 13, data(`{"apiVersion":"shop.example.com/v1","kind":"Order","metadata":{"namespace":"default","name":"one","uid":"A","resourceVersion":"13"},"spec":{"n":12}}`))
		}},
		{oracle.Invention, "the data says another version", func(s *script) {
			life(s)
			s.put("one", "A", 13)
			s.tell(updated, "A", 13, data(`{"apiVersion":"shop.example.com/v1","kind":"Order","metadata":{"namespace":"default","name":"one","uid":"A","resourceVersion":"12"},"spec":{"n":13}}`))
		}},
		{oracle.Invention, "the creation is called an update", func(s *script) {
			s.expected.Quiet = false
			s.put("one", "A", 10)
			s.tell(updated, "A", 10)
		}},
		{oracle.Invention, "under another name", func(s *script) {
			life(s)
			s.expected.Quiet = false
			s.put("two", "B", 13)
			s.objects["B"] = "three"
			s.tell(created, "B", 13)
		}},
		{oracle.Invention, "the deletion of what is there", func(s *script) {
			life(s)
			s.put("two", "B", 13)
			s.tell(created, "B", 13)
			s.tell(deleted, "A", 13)
		}},
		{oracle.Invention, "a deletion at another revision", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.put("two", "B", 14)
			s.tell(deleted, "A", 14)
			s.tell(created, "B", 14)
		}},
		{oracle.Invention, "an inferred deletion before it happened", func(s *script) {
			life(s)
			s.lossy(13, 20)
			s.put("two", "B", 13)
			s.tell(created, "B", 13)
			s.remove("A", 14)
			s.tell(deleted, "A", 13, inferred)
		}},
		{oracle.Invention, "an inferred deletion at a revision that has a namesake", func(s *script) {
			life(s)
			s.lossy(13, 20)
			s.remove("A", 13)
			s.put("one", "B", 14)
			s.put("two", "C", 16)
			s.tell(deleted, "A", 15, inferred)
			s.put("one", "B", 17)
			s.tell(created, "C", 16)
			s.tell(created, "B", 17)
		}},
		{oracle.Invention, "an inferred deletion with data that never was", func(s *script) {
			life(s)
			s.lossy(13, 20)
			s.remove("A", 13)
			s.tell(deleted, "A", 13, inferred, data(`{"apiVersion":"shop.example.com/v1","kind":"Order","metadata":{"namespace":"default","name":"one","uid":"A"},"spec":{"n":0}}`))
		}},
		{oracle.Invention, "a namespace that the route does not follow", func(s *script) {
			s.route().Namespaces = []string{"elsewhere"}
			life(s)
		}},

		{oracle.Attributes, "no event at all", func(s *script) {
			s.store(&nats.Msg{Subject: "k8s.demo.x", Data: []byte("hello")})
		}},
		{oracle.Attributes, "broken percent-encoding", func(s *script) {
			s.expected.Quiet = false
			s.put("one", "A", 10)
			s.tell(created, "A", 10, attribute("subject", "100%"))
		}},
		{oracle.Attributes, "a resync's suffix on an update", func(s *script) {
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 11, resync(1))
		}},
		{oracle.Attributes, "a deletion with an id of its own version", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.tell(deleted, "A", 13, id("A.13.all"))
		}},
		{oracle.Attributes, "a kind that the route does not send", func(s *script) {
			s.only(created, updated, existing)
			life(s)
			s.tell(oracle.Deselected, "A", 12, id("A.12.other"), attribute("route", "all"))
		}},
		{oracle.Attributes, "data about another object", func(s *script) {
			s.put("one", "A", 10)
			s.tell(created, "A", 10, func(m *nats.Msg) {
				m.Data = []byte(`{"apiVersion":"shop.example.com/v2","kind":"Order","metadata":{"namespace":"default","name":"one","uid":"A","resourceVersion":"10"},"spec":{"n":10}}`)
			})
		}},
		{oracle.Attributes, "data that is no object", func(s *script) {
			s.put("one", "A", 10)
			s.tell(created, "A", 10, data("[]"))
		}},

		{oracle.Convergence, "the last version is missing", func(s *script) {
			life(s)
			s.put("one", "A", 13)
		}},
		{oracle.Convergence, "an object is missing", func(s *script) {
			life(s)
			s.put("two", "B", 5)
		}},
		{oracle.Convergence, "an object is missing after a loss", func(s *script) {
			life(s)
			s.put("two", "B", 20)
			s.lossy(20, 20)
		}},
		{oracle.Convergence, "the new stream does not have what is there", func(s *script) {
			life(s)
			s.recreate()
		}},
		{oracle.Convergence, "existing and created: an object has neither", func(s *script) {
			s.only(existing, created)
			s.put("one", "A", 10)
		}},
		{oracle.Convergence, "only existing: one that was there is missing", func(s *script) {
			s.only(existing)
			s.route().Began = 10
			s.put("one", "A", 10)
		}},
		{oracle.Convergence, "only created: a new one is missing", func(s *script) {
			s.only(created)
			s.route().Listed = 9
			s.put("one", "A", 10)
		}},
		{oracle.Convergence, "only updated: the last is missing", func(s *script) {
			s.only(updated)
			s.put("one", "A", 10, 11, 12)
			s.tell(updated, "A", 11)
		}},
		{oracle.Convergence, "only updated: there is none", func(s *script) {
			s.only(updated)
			s.route().Listed = 10
			s.put("one", "A", 10, 11)
		}},
		{oracle.Convergence, "only updated: the list after a loss finds a change", func(s *script) {
			s.only(updated)
			s.route().Listed = 9
			s.put("one", "A", 10, 11)
			s.lossy(11, 12)
		}},

		{oracle.DeleteComplete, "the deletion is missing", func(s *script) {
			life(s)
			s.remove("A", 13)
		}},
		{oracle.DeleteComplete, "the route leaves deletions out", func(s *script) {
			s.only(existing, created, updated)
			life(s)
			s.remove("A", 13)
			s.tell(deleted, "A", 13)
		}},
		{oracle.DeleteComplete, "nothing was told before", func(s *script) {
			s.put("one", "A", 10)
			s.remove("A", 11)
			s.tell(deleted, "A", 11)
		}},
		{oracle.DeleteComplete, "only deleted: one is missing", func(s *script) {
			s.only(deleted)
			s.put("one", "A", 10)
			s.remove("A", 11)
			s.put("two", "B", 12)
			s.remove("B", 13)
			s.tell(deleted, "A", 11)
		}},

		{oracle.Order, "an older version follows", func(s *script) {
			s.put("one", "A", 10, 11, 12)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 12)
			s.tell(updated, "A", 11)
		}},
		{oracle.Order, "a resync may repeat a version, not go back", func(s *script) {
			life(s)
			s.tell(existing, "A", 11, resync(1))
		}},
		{oracle.Order, "an update after the end", func(s *script) {
			s.put("one", "A", 10, 11)
			s.remove("A", 12)
			s.tell(created, "A", 10)
			s.tell(deleted, "A", 12)
			s.tell(updated, "A", 11)
		}},
		{oracle.Order, "the namesake comes before the end", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.put("one", "B", 14)
			s.tell(created, "B", 14)
			s.tell(deleted, "A", 13)
		}},
		{oracle.Order, "created a second time", func(s *script) {
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 10)
			s.tell(created, "A", 11)
		}},
		{oracle.Order, "existing without a request", func(s *script) {
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 10)
			s.tell(existing, "A", 11)
		}},

		{oracle.Unique, "stored twice", func(s *script) {
			life(s)
			s.tell(updated, "A", 12)
		}},
		{oracle.Unique, "an end stored twice", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.tell(deleted, "A", 13)
			s.tell(deleted, "A", 13)
		}},

		{oracle.NoGap, "a version in the middle", func(s *script) {
			s.put("one", "A", 10, 11, 12)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 12)
		}},
		{oracle.NoGap, "it was lost, and the update does not say so", func(s *script) {
			s.put("one", "A", 10, 11, 12)
			s.lossy(11, 12)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 12)
		}},
		{oracle.NoGap, "one was lost, another not", func(s *script) {
			s.put("one", "A", 10, 11, 12, 13)
			s.lossy(12, 13)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 13, coalesced)
		}},
		{oracle.NoGap, "before the end", func(s *script) {
			s.put("one", "A", 10, 11)
			s.remove("A", 12)
			s.tell(created, "A", 10)
			s.tell(deleted, "A", 12)
		}},
		{oracle.NoGap, "before a lost end, and not lost itself", func(s *script) {
			s.put("one", "A", 10, 11)
			s.remove("A", 12)
			s.lossy(12, 12)
			s.tell(created, "A", 10)
			s.tell(deleted, "A", 12, inferred)
		}},
		{oracle.NoGap, "created at a later version", func(s *script) {
			life(s)
			s.put("two", "B", 20, 21)
			s.tell(created, "B", 21)
		}},
		{oracle.NoGap, "begins with an update", func(s *script) {
			s.put("one", "A", 10, 11)
			s.tell(updated, "A", 11)
		}},
		{oracle.NoGap, "a whole life", func(s *script) {
			life(s)
			s.put("two", "B", 20)
			s.remove("B", 21)
		}},
		{oracle.NoGap, "only updated: versions before the first", func(s *script) {
			s.only(updated)
			s.route().Listed = 1
			s.put("one", "A", 10, 11, 12)
			s.tell(updated, "A", 12)
		}},
		{oracle.NoGap, "a resync does not stand for a version that was not lost", func(s *script) {
			s.put("one", "A", 10, 11, 12)
			s.tell(created, "A", 10)
			s.tell(existing, "A", 12, resync(1))
		}},

		{oracle.CoalescedWithoutNeed, "nothing was lost", func(s *script) {
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 11, coalesced)
		}},
		{oracle.CoalescedWithoutNeed, "the loss was before", func(s *script) {
			life(s)
			s.put("one", "A", 13)
			s.lossy(11, 12)
			s.tell(updated, "A", 13, coalesced)
		}},
		{oracle.InferredWithoutNeed, "nothing was lost", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.tell(deleted, "A", 13, inferred)
		}},
		{oracle.InferredWithoutNeed, "the loss was after", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.lossy(14, 15)
			s.put("two", "B", 15)
			s.tell(deleted, "A", 15, inferred)
			s.tell(created, "B", 15)
		}},

		{oracle.Fencing, "a lower epoch", func(s *script) {
			s.control(`{"epoch":2}`)
			s.control(`{"epoch":1}`)
		}},
		{oracle.Fencing, "a lower epoch, after a purge that left the higher one", func(s *script) {
			s.control(`{"epoch":1}`)
			s.purge()
			s.control(`{"epoch":2}`)
			s.control(`{"epoch":1}`)
		}},
		{oracle.Fencing, "a lower epoch, before a purge", func(s *script) {
			s.control(`{"epoch":2}`)
			s.control(`{"epoch":1}`)
			s.purge()
		}},
		{oracle.Fencing, "no epoch", func(s *script) { s.control(`{}`) }},
		{oracle.Fencing, "an event of whoever was replaced", func(s *script) {
			first := s.control(`{"epoch":1}`)
			second := s.control(`{"epoch":2}`)
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 10, under(second))
			s.tell(updated, "A", 11, under(first))
		}},
		{oracle.Fencing, "under what comes later", func(s *script) {
			s.put("one", "A", 10)
			s.tell(created, "A", 10, under(2))
		}},
		{oracle.Fencing, "under another flow's message", func(s *script) {
			other := s.control(`{"epoch":1}`, func(m *nats.Msg) { m.Subject = "crbridge.K8S.demo.other.shop_example_com.orders" })
			s.put("one", "A", 10)
			s.tell(created, "A", 10, under(other))
		}},

		{oracle.Incomplete, "something vanished", func(s *script) {
			life(s)
			s.vanish(1)
		}},
		{oracle.Incomplete, "more vanished than a control message", func(s *script) {
			s.control(`{"epoch":1}`)
			s.vanish(2)
			s.control(`{"epoch":2}`, under(2))
		}},
	} {
		t.Run(row.property+"/"+row.name, func(t *testing.T) {
			s := newScript(t)
			row.make(s)
			breaks(t, s, row.property)
		})
	}
}

// breaks wants that property to be broken, and no other.
func breaks(t *testing.T, s *script, property string) {
	t.Helper()
	violations := oracle.Check(s.past, s.recording, s.expected)
	if len(violations) == 0 {
		t.Errorf("not noticed")
	}
	for _, v := range violations {
		if v.Property != property {
			t.Errorf("also broken: %v", v)
		}
	}
	t.Log(oracle.Report(violations))
}
