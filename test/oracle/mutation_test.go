package oracle_test

import (
	"slices"
	"testing"

	"github.com/crbridge/crbridge/test/oracle"
)

// TestEveryFaultIsNoticed takes a faultless stream and leaves out each message,
// stores each twice, exchanges each with the next of its object, and tells each
// with the revision of the one before: none of that may pass.
func TestEveryFaultIsNoticed(t *testing.T) {
	base := newScript(t)
	base.put("old", "O", 1, 2)
	base.put("one", "A", 10, 11)
	base.put("two", "B", 12)
	base.put("one", "A", 13)
	base.remove("A", 14)
	base.put("one", "A2", 15, 16)
	base.remove("B", 17)
	base.put("one", "A2", 18, 19, 20)
	base.remove("A2", 21)
	base.put("one", "A3", 23, 24)
	base.lossy(18, 24)
	base.tell(existing, "O", 2)
	base.tell(created, "A", 10)
	base.tell(updated, "A", 11)
	base.tell(created, "B", 12)
	base.tell(updated, "A", 13)
	base.tell(deleted, "A", 14)
	base.tell(created, "A2", 15)
	base.tell(updated, "A2", 16)
	base.tell(deleted, "B", 17)
	base.tell(updated, "A2", 20, coalesced)
	base.tell(deleted, "A2", 23, inferred)
	base.tell(created, "A3", 24)
	if report := oracle.Report(oracle.Check(base.past, base.recording, base.expected)); report != "" {
		t.Fatal("without a fault:\n", report)
	}

	messages := base.recording.Messages
	noticed := func(what string, i int, spoilt []oracle.Message) {
		t.Helper()
		recording := base.recording
		recording.Messages = slices.Clone(spoilt)
		for at := range recording.Messages {
			recording.Messages[at].Sequence = uint64(at + 1)
		}
		if len(oracle.Check(base.past, recording, base.expected)) == 0 {
			t.Errorf("message %d %s: not noticed", i+1, what)
		}
	}
	for i, m := range messages {
		// What was lost may be missing: without that update the end is as well
		// told, of an earlier state.
		if !m.Event.Coalesced {
			noticed("left out", i, slices.Delete(slices.Clone(messages), i, i+1))
		}
		noticed("stored twice", i, slices.Insert(slices.Clone(messages), i, m))
		sameName := func(other oracle.Message) bool { return other.Subject == m.Subject }
		if next := slices.IndexFunc(messages[i+1:], sameName); next >= 0 {
			spoilt := slices.Clone(messages)
			spoilt[i], spoilt[i+1+next] = spoilt[i+1+next], spoilt[i]
			noticed("exchanged with the next", i, spoilt)
		}
		if i > 0 {
			spoilt := slices.Clone(messages)
			event := *m.Event
			event.Revision = messages[i-1].Event.Revision
			spoilt[i].Event = &event
			noticed("with an earlier revision", i, spoilt)
		}
	}
}
