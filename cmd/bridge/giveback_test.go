package main

import (
	"testing"
	"time"

	"github.com/crbridge/crbridge/pkg/flow"
)

func TestLastChange(t *testing.T) {
	began := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	for _, row := range []struct {
		why     string
		flows   []flow.Status
		last    time.Time
		settled bool
	}{
		{"no flow at all", nil, began, true},
		{"a standby's flows never change", []flow.Status{{State: flow.Standby}}, began, true},
		{"the newest counts", []flow.Status{{State: flow.Running, Since: at(5)}, {State: flow.Blocked, Since: at(9)}, {State: flow.Waiting, Since: at(1)}}, at(9), true},
		{"one that starts is in the middle of it", []flow.Status{{State: flow.Running, Since: at(5)}, {State: flow.Starting, Since: at(1)}}, time.Time{}, false},
	} {
		last, settled := lastChange(row.flows, began)
		if !last.Equal(row.last) || settled != row.settled {
			t.Errorf("%s: last change %v, settled %t; want %v, %t", row.why, last, settled, row.last, row.settled)
		}
	}
}

// TestStarted shows of which flows it is known that their start is over: where there
// is none, what the next start needs is given back without a wait.
func TestStarted(t *testing.T) {
	for _, row := range []struct {
		why   string
		flows []flow.Status
		want  bool
	}{
		{"no flow at all", nil, false},
		{"a standby, which may take over", []flow.Status{{State: flow.Standby}}, false},
		{"a CRD that may come", []flow.Status{{State: flow.Waiting}}, false},
		{"one runs", []flow.Status{{State: flow.Waiting}, {State: flow.Running}}, true},
		{"one has started, and its sink is down", []flow.Status{{State: flow.Blocked}}, true},
	} {
		if got := started(row.flows); got != row.want {
			t.Errorf("%s: %t", row.why, got)
		}
	}
}
