package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/pkg/sinks"
)

// usualObject is how large an object of the API server may be by default: etcd
// takes requests of 1.5 MiB (its --max-request-bytes), and its JSON is about as
// long.
const usualObject = 1536 << 10

// Check looks at what a sink with these options would meet, and changes
// nothing: neither is a stream created, nor anything published. It fails only
// for options that cannot work however often they are tried.
func Check(ctx context.Context, o Options) ([]sinks.Finding, error) {
	o.Logger = slog.New(slog.DiscardHandler)
	if err := check(&o); err != nil {
		return nil, err
	}
	s := &Sink{
		name: o.Name, cluster: o.Cluster, subject: o.Subject, mode: o.Mode, jetstream: o.JetStream, log: o.Logger,
		dialer: newDialer(&o), problems: newProblems(o.Logger),
	}
	ses, err := s.dialer.dial(ctx, s.problems)
	if err != nil {
		return []sinks.Finding{{What: "connection", Result: err.Error(), Bad: true}}, nil
	}
	defer ses.close()
	findings := []sinks.Finding{{What: "connection", Result: "connected to " + ses.nc.ConnectedAddr()}, largest(ses.nc.MaxPayload())}
	if s.jetstream == nil {
		return append(findings, sinks.Finding{
			What: "stream", Result: "none is configured: events reach whoever listens at that moment, at most once", Warn: true,
		}), nil
	}
	if ses.js, err = jetstream.NewWithAPIPrefix(ses.nc, ses.api); err != nil {
		return nil, err
	}
	return append(findings, s.checkStream(ctx, ses)...), nil
}

func largest(maxPayload int64) sinks.Finding {
	f := sinks.Finding{What: "max_payload", Result: fmt.Sprintf("%d bytes", maxPayload)}
	if maxPayload < usualObject {
		f.Warn = true
		f.Result += ": an object may be larger, and its event then has the metadata alone; raise max_payload of the server above " + fmt.Sprint(usualObject)
	}
	return f
}

func (s *Sink) checkStream(ctx context.Context, ses *session) []sinks.Finding {
	ctx, done := ses.patience(ctx, ses.isAPI)
	defer done()
	what := "stream " + s.jetstream.Stream
	bad := func(err error) []sinks.Finding {
		return []sinks.Finding{{What: what, Result: because(ctx, err).Error(), Bad: true}}
	}
	found, err := ses.js.Stream(ctx, s.jetstream.Stream)
	switch {
	case err == nil:
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return bad(apiWords(err))
	case !s.jetstream.Create:
		return bad(errMissing)
	default:
		if err := s.taken(ctx, ses.js, s.streamConfig().Subjects); err != nil {
			return bad(err)
		}
		return []sinks.Finding{{What: what, Result: "does not exist yet; the bridge creates it"}}
	}
	config := &found.CachedInfo().Config
	if reasons := s.unfit(config); len(reasons) > 0 {
		return []sinks.Finding{{What: what, Result: "does not fit: " + strings.Join(reasons, "; "), Bad: true}}
	}
	findings := []sinks.Finding{{What: what, Result: "fits"}}
	for _, note := range s.differences(config) {
		findings = append(findings, sinks.Finding{What: what, Result: note, Warn: true})
	}
	return findings
}
