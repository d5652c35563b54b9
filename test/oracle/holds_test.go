package oracle_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/crbridge/crbridge/test/oracle"
)

// TestHolds has what may look wrong and is right.
func TestHolds(t *testing.T) {
	for _, row := range []struct {
		name string // says why it is right
		make func(*script)
	}{
		{"nothing at all", func(*script) {}},
		{"a whole life", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.tell(deleted, "A", 13)
		}},
		{"structured mode says the same", func(s *script) {
			s.put("one", "A", 10)
			s.tell(created, "A", 10, inStructuredMode)
			s.lossy(11, 12)
			s.remove("A", 11)
			s.put("two", "B", 12)
			s.tell(deleted, "A", 12, inferred, inStructuredMode)
			s.tell(created, "B", 12, inStructuredMode)
		}},
		{"existing stands for all versions before it", func(s *script) {
			s.put("one", "A", 10, 11, 12)
			s.tell(existing, "A", 12)
		}},
		{"an object that came and went before the flow began", func(s *script) {
			s.put("old", "Z", 5)
			s.remove("Z", 6)
			life(s)
		}},
		{"not quiet: the rest is on its way", func(s *script) {
			s.expected.Quiet = false
			s.put("one", "A", 10, 11)
			s.put("two", "B", 12)
			s.tell(created, "A", 10)
		}},
		{"versions were lost, and the update says so", func(s *script) {
			s.put("one", "A", 10, 11, 12, 13)
			s.lossy(11, 13)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 13, coalesced)
		}},
		{"an update after a loss cannot know whether there were others", func(s *script) {
			s.put("one", "A", 10, 13)
			s.lossy(11, 13)
			s.tell(created, "A", 10)
			s.tell(updated, "A", 13, coalesced)
		}},
		{"a loss of another resource excuses nothing, and need not", func(s *script) {
			s.expected.Lossy = []oracle.Window{{From: 1, To: 99, Resource: oracle.Resource{Group: "g", Plural: "p"}}}
			life(s)
		}},
		{"created and changed in a loss: the list has the last version", func(s *script) {
			life(s)
			s.put("two", "B", 20, 21)
			s.lossy(20, 22)
			s.tell(created, "B", 21)
		}},
		{"came and went in a loss: no trace", func(s *script) {
			life(s)
			s.put("two", "B", 20)
			s.remove("B", 21)
			s.lossy(20, 22)
		}},
		{"the deletion was lost", func(s *script) {
			life(s)
			s.lossy(13, 15)
			s.remove("A", 13)
			s.put("two", "B", 15)
			s.tell(deleted, "A", 15, inferred)
			s.tell(created, "B", 15)
		}},
		{"an inferred delete may know no more than who it was", func(s *script) {
			life(s)
			s.lossy(13, 13)
			s.remove("A", 13)
			s.tell(deleted, "A", 13, inferred, data(`{"apiVersion":"shop.example.com/v1","kind":"Order","metadata":{"namespace":"default","name":"one","uid":"A"}}`))
		}},
		{"an inferred delete may have an earlier state", func(s *script) {
			life(s)
			s.lossy(12, 13)
			s.recording.Messages = s.recording.Messages[:2]
			s.remove("A", 13)
			s.tell(deleted, "A", 13, inferred, data(string(text(s.t, s.object("A", 11)))))
		}},
		{"a namesake", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.put("one", "B", 14)
			s.tell(deleted, "A", 13)
			s.tell(created, "B", 14)
		}},
		{"a namesake after a loss: one less than what the list had", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.put("one", "B", 14, 20)
			s.lossy(13, 21)
			s.tell(deleted, "A", 19, inferred)
			s.tell(created, "B", 20)
		}},
		{"a namesake that came and went in a loss", func(s *script) {
			life(s)
			s.remove("A", 13)
			s.put("one", "B", 14)
			s.remove("B", 15)
			s.lossy(13, 16)
			s.put("two", "C", 16)
			s.tell(deleted, "A", 16, inferred)
			s.tell(created, "C", 16)
		}},
		{"a requested resync repeats the version", func(s *script) {
			life(s)
			s.tell(existing, "A", 12, resync(1))
			s.tell(existing, "A", 12, resync(2))
			s.put("one", "A", 13)
			s.tell(updated, "A", 13)
		}},
		{"a stream made anew begins anew, and knows nothing of what is gone", func(s *script) {
			life(s)
			s.put("two", "B", 13)
			s.tell(created, "B", 13)
			s.remove("A", 14)
			s.recreate()
			s.tell(existing, "B", 13)
		}},
		{"fenced", func(s *script) {
			first := s.control(`{"epoch":1}`)
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 10, under(first))
			second := s.control(`{"epoch":1,"w":"10"}`, under(first))
			third := s.control(`{"epoch":2}`, under(second))
			s.tell(updated, "A", 11, under(third))
		}},
		{"after a purge of all that a flow had written its epochs begin anew", func(s *script) {
			s.control(`{"epoch":13}`)
			s.purge()
			s.control(`{"epoch":1}`)
			s.control(`{"epoch":2}`)
		}},
		{"a control message on another flow's subject", func(s *script) {
			s.control(`{"epoch":2}`)
			s.control(`{"epoch":1}`, func(m *nats.Msg) { m.Subject = "crbridge.K8S.demo.other.shop_example_com.orders" })
		}},
		{"a control message that was replaced before the tap saw it", func(s *script) {
			s.control(`{"epoch":1}`)
			s.vanish(1)
			s.control(`{"epoch":2}`, under(2))
		}},
		{"a namespace that the route does not follow", func(s *script) {
			s.route().Namespaces = []string{"elsewhere"}
			s.put("one", "A", 10)
		}},
		{"a selector: objects come and go from sight", func(s *script) {
			s.route().Partial = true
			s.put("one", "A", 10, 11, 12, 13)
			s.put("two", "B", 14)
			s.tell(created, "A", 10)
			s.tell(oracle.Deselected, "A", 11)
			s.tell(created, "A", 13)
		}},
		{"without data the payload is anything", func(s *script) {
			s.route().Data = false
			s.put("one", "A", 10)
			s.tell(created, "A", 10, data(`{"patch":[]}`))
		}},
		{"a template of the route's own, and a name to escape", func(s *script) {
			s.route().Subject = "x.{kind}.{version}.{event}.{route}.{name}"
			s.put("a.b_c", "A", 10)
			s.tell(created, "A", 10, func(m *nats.Msg) { m.Subject = "x.Order.v1.created.all.a_b=5Fc" })
		}},

		// Routes that leave kinds out.
		{"only deleted: the deletions, of what was never told", func(s *script) {
			s.only(deleted)
			s.put("one", "A", 10, 11)
			s.put("two", "B", 12)
			s.remove("A", 13)
			s.tell(deleted, "A", 13)
		}},
		{"only deleted: a lost deletion of what was never told", func(s *script) {
			s.only(deleted)
			s.route().Listed = 1
			s.put("one", "A", 10)
			s.remove("A", 13)
			s.lossy(13, 14)
		}},
		{"without deleted, a namesake follows at once", func(s *script) {
			s.only(existing, created, updated)
			life(s)
			s.remove("A", 13)
			s.put("one", "B", 14)
			s.tell(created, "B", 14)
		}},
		{"only existing: the others came later", func(s *script) {
			s.only(existing)
			s.route().Began, s.route().Listed = 10, 12
			s.put("one", "A", 10, 11)
			s.put("two", "B", 13)
			s.tell(existing, "A", 11)
		}},
		{"only created: the others were there", func(s *script) {
			s.only(created)
			s.route().Listed = 12
			s.put("one", "A", 10, 11, 13)
			s.put("two", "B", 14, 15)
			s.tell(created, "B", 14)
		}},
		{"only updated: the first may be any", func(s *script) {
			s.only(updated)
			s.put("one", "A", 10, 11, 12)
			s.put("two", "B", 13)
			s.tell(updated, "A", 11)
			s.tell(updated, "A", 12)
		}},
		{"only updated: a version that a list found is no update", func(s *script) {
			s.only(updated)
			s.route().Listed = 1
			s.put("one", "A", 10, 11)
			s.lossy(10, 12)
		}},
		{"created and deleted: updates are not missed", func(s *script) {
			s.only(created, deleted)
			s.route().Listed = 1
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 10)
			s.remove("A", 12)
			s.tell(deleted, "A", 12)
		}},
		{"the first list of a late CRD has later versions", func(s *script) {
			s.put("one", "A", 10, 11)
			s.tell(created, "A", 11)
			s.put("one", "A", 12)
			s.tell(updated, "A", 12)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newScript(t)
			row.make(s)
			if report := oracle.Report(oracle.Check(s.past, s.recording, s.expected)); report != "" {
				t.Error(report)
			}
		})
	}
}
