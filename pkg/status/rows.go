package status

import (
	"cmp"
	"strings"

	"github.com/crbridge/crbridge/pkg/flow"
)

// flowFields are what a flow's row shows.
func (b *Bridge) flowFields(f *Flow) fields {
	rate, lag := b.history.of(f.id())
	now := func(values []float32) float64 {
		if len(values) == 0 {
			return 0
		}
		return float64(values[len(values)-1])
	}
	v := fields{
		"crd": f.CRD, "route": f.Route, "sink": f.Sink, "version": f.Version,
		"state": string(f.State), "since": stamp(f.Since), "last": stamp(f.LastDelivered),
		"reason": f.Reason, "advice": "", "yaml": "",
		"objects": count(f.Objects), "pending": count(f.Pending), "delivered": count(f.Delivered),
		"rate": short(now(rate)), "lag": seconds(now(lag)),
		"rateChart": chart(rate, 1), "lagChart": chart(lag, 1),
		"rateWords": "Events per second in the last 5 minutes, " + short(float64(peak(rate))) + " at most",
		"lagWords":  "Lag in the last 5 minutes, " + seconds(float64(peak(lag))) + " at most",
		"unfenced":  "",
	}
	if f.State == flow.Running && !f.Fenced {
		v["unfenced"] = "without a fence"
	}
	if f.State == flow.Forbidden && f.missing != nil {
		v["yaml"] = grant(f.missing, f.Reason)
	}
	v["advice"] = advice(f)
	return v
}

// fields are what a sink's row shows.
func (s *Sink) fields() fields {
	v := fields{
		"name": s.Name, "type": s.Type, "state": "connected", "server": s.Server, "problem": s.LastError,
		"stream": "none: what is sent is not kept", "holds": "", "kept": "", "space": "", "looked": "",
		"notes": strings.Join(s.Notes, "\n"), "batches": s.Batches,
	}
	switch {
	case !s.Connected && s.LastError == "":
		v["state"] = "connecting"
	case !s.Connected:
		v["state"] = "not connected"
	case s.LastError != "":
		v["state"] = "in trouble"
	}
	switch {
	case s.Stream == nil && s.Type == "nats" && (s.Batches != "" || s.LastError != "" || !s.Connected):
		v["stream"] = "not known yet"
	case s.Stream != nil:
		v["stream"], v["looked"] = s.Stream.Name, stamp(s.Stream.LookedAt)
		v["holds"], v["kept"], v["space"] = s.Stream.words()
	}
	return v
}

// words say what the stream has, for how long it keeps it, and how much more
// there is room for.
func (s *Stream) words() (holds, kept, space string) {
	holds = counted(s.Messages, "message") + ", " + size(s.Bytes) + " in " + s.Storage
	if s.Replicas > 1 {
		holds += ", " + counted(s.Replicas, "replica")
	}
	var limits []string
	if a := s.all; a != nil {
		if a.MaxAge > 0 {
			limits = append(limits, "for "+span(a.MaxAge))
		}
		if a.MaxMessages > 0 {
			limits = append(limits, "the last "+counted(a.MaxMessages, "message"))
		}
		if a.MaxOfSubject > 0 {
			limits = append(limits, "the last "+count(a.MaxOfSubject)+" of each subject")
		}
		kept = cmp.Or(strings.Join(limits, ", "), "for ever")
		left, limited := a.Left()
		switch {
		case !limited:
			space = "no limit of its own"
		case a.DiscardsNew:
			space = size(left) + " of " + size(a.MaxBytes) + ", then it takes no more"
		default:
			space = size(left) + " of " + size(a.MaxBytes) + ", then the oldest go"
		}
	}
	return holds, kept, space
}
