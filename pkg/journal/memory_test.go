package journal

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type nothing struct{ t *testing.T }

func (n nothing) Reset()      { n.t.Error("Reset") }
func (n nothing) Restore(Row) { n.t.Error("Restore") }
func (n nothing) Rebase()     { n.t.Error("Rebase") }

func TestMemoryKeepsTheStateOnly(t *testing.T) {
	m := &Memory{}
	state := State{CRD: "orders.shop.example.com", Position: 7}
	for _, step := range []struct {
		why  string
		do   func() error
		want Claim
	}{
		{"new", func() error { return nil }, Claim{}},
		{"claimed before", func() error { return nil }, Claim{Known: true}},
		{"recorded", func() error { return m.Record(t.Context(), rows(), state) }, Claim{Known: true, State: state}},
		{"rebased", func() error { return m.Rebase(t.Context(), State{Position: 1}) }, Claim{Known: true, State: State{Position: 1}}},
		{
			"a snapshot has no place", func() error { return m.Snapshot(t.Context(), state, slices.Values(rows())) },
			Claim{Known: true, State: State{Position: 1}},
		},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.why, err)
		}
		got, err := m.Claim(t.Context(), nothing{t})
		if diff := cmp.Diff(step.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, claim (-want +got):\n%s", step.why, err, diff)
		}
	}
	if m.SnapshotDue(1<<30) || m.Exact() || m.Fenced() {
		t.Error("memory promises what it does not keep")
	}
}
