package journal

import (
	"context"
	"iter"
)

// Memory is a Journal that forgets everything when the process ends. It is for
// sinks that keep nothing, where no other place was named.
type Memory struct {
	state State
	known bool
}

// Claim implements Journal. There is nothing to take over.
func (m *Memory) Claim(context.Context, Restorer) (Claim, error) {
	c := Claim{State: m.state, Known: m.known}
	m.known = true
	return c, nil
}

// Record implements Journal.
func (m *Memory) Record(_ context.Context, _ []Row, state State) error {
	m.state = state
	return nil
}

// Rebase implements Journal.
func (m *Memory) Rebase(_ context.Context, state State) error {
	m.state = state
	return nil
}

// SnapshotDue implements Journal; it never is.
func (*Memory) SnapshotDue(int) bool { return false }

// OnDue implements Journal.
func (*Memory) OnDue(func()) {}

// Snapshot implements Journal; there is nowhere to write one.
func (*Memory) Snapshot(context.Context, State, iter.Seq[Row]) error { return nil }

// Exact implements Journal.
func (*Memory) Exact() bool { return false }

// Fenced implements Journal.
func (*Memory) Fenced() bool { return false }
