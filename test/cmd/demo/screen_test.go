//go:build unix

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestEventLine(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	header := func(change, subject string, more ...string) nats.Header {
		h := nats.Header{
			"ce-type":            {"dev.crbridge.resource." + change + ".v1"},
			"ce-subject":         {subject},
			"ce-time":            {at.UTC().Format(time.RFC3339Nano)},
			"ce-resourceversion": {"42"},
		}
		for _, name := range more {
			h.Set("ce-"+name, "true")
		}
		return h
	}
	const order = `{"spec":{"customer":"Ada","items":[{"product":"tea","quantity":2},{"product":"rice","quantity":1}],"total":"7.50"},"status":{"phase":"Paid"}}`
	for _, test := range []struct {
		why    string
		header nats.Header
		data   string
		want   string
	}{
		{"an order", header("created", "default/order-1"), order,
			"03:04:05  created   default/order-1            42  Ada: 2 tea, 1 rice for 7.50, paid"},
		{"attributes are percent-encoded", header("updated", "default/%22a%22", "coalesced"), order,
			`03:04:05  updated   default/"a"                42  Ada: 2 tea, 1 rice for 7.50, paid (coalesced)`},
		{"an inferred delete may have no more than the identity", header("deleted", "default/order-1", "inferred"), `{"kind":"Order"}`,
			"03:04:05  deleted   default/order-1            42  the object's identity alone (inferred)"},
		{"something else is shown as it is", nats.Header{"ce-time": {"noon"}, "ce-subject": {"50%"}}, "x",
			"noon                50%                            not an order: invalid character 'x' looking for beginning of value"},
	} {
		var out strings.Builder
		newScreen(&out).event(parse(test.header, []byte(test.data)))
		if got := strings.TrimSuffix(out.String(), "\n"); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.why, got, test.want)
		}
	}
}

func TestColours(t *testing.T) {
	var out strings.Builder
	s := newScreen(&out)
	s.colour = true
	s.event(event{time: "03:04:05", change: "deleted", subject: "a/b", version: "1", data: "x"})
	if want := "03:04:05  \x1b[31mdeleted \x1b[0m  a/b                         1  x\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestAlarms(t *testing.T) {
	var out strings.Builder
	a := &alarms{screen: newScreen(&out)}
	for _, chunk := range []string{"time=1 level=IN", "FO msg=a\ntime=2 lev", "el=WARN msg=b\ntime=3 level=ERROR msg=c\ntime=4 level=WARN unfinished"} {
		if n, err := a.Write([]byte(chunk)); n != len(chunk) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := "bridge: time=2 level=WARN msg=b\nbridge: time=3 level=ERROR msg=c\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
