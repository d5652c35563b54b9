//go:build unix

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/crbridge/crbridge/test/oracle"
)

const (
	// recovery is how long the bridge may take to deliver again after a fault.
	// A connection that is silently dead is noticed after 30 s.
	recovery = 90 * time.Second
	// probeEvery is how long a probe may take until there is another.
	probeEvery = 3 * time.Second
	// quiet is how long everything may take to arrive at the end.
	quiet = 60 * time.Second
)

// Run breaks things as the options say, and reports what came of it. Its error
// is why it could not do so to the end; violations are in the report.
func Run(ctx context.Context, opts Options) (_ *Report, err error) {
	chosen, err := choose(opts)
	if err != nil {
		return nil, err
	}
	report := newReport(opts)
	w, err := newWorld(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer func() { //nolint:contextcheck // it ends all, whatever ended the run
		if failed := w.close(); err == nil {
			err = failed
		}
	}()
	if err := w.bridges[0].start(ctx); err != nil {
		return nil, err
	}
	if _, err := w.recovered(ctx); err != nil {
		return nil, err
	}
	for n := range opts.Faults {
		f := pick(w, chosen)
		began := time.Now()
		what, err := f.do(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("fault %d, %s (%s): %w\n%s", n+1, f.name, what, err, w.logs())
		}
		report.Faults[f.name]++
		if w.random.IntN(4) == 0 { // the next one comes while this one is not over
			w.say("%4d %s %s, %.1f s; not waited for", n+1, f.name, what, time.Since(began).Seconds())
			continue
		}
		ended := time.Now()
		took, err := w.recovered(ctx)
		if err != nil {
			return nil, fmt.Errorf("fault %d, %s (%s): %w\n%s\n%s", n+1, f.name, what, err, w.bridges[0].status(ctx), w.logs())
		}
		report.Recovery = append(report.Recovery, took)
		if opts.Impatient && w.failed(report) {
			return report, nil
		}
		w.say("%4d %s %s, %.1f s; delivers again after %.2f s; %d changes", n+1, f.name, what, ended.Sub(began).Seconds(), took.Seconds(), w.load.changes.Load())
	}
	if err := w.judge(ctx, report); err != nil {
		return report, err
	}
	return report, w.races()
}

// races says what the race detector has found, in bridges that were built with it.
func (w *world) races() error {
	for _, b := range w.bridges {
		log, err := os.ReadFile(b.logFile())
		if errors.Is(err, os.ErrNotExist) {
			continue // it never ran
		}
		if err != nil {
			return err
		}
		if at := bytes.Index(log, []byte("WARNING: DATA RACE")); at >= 0 {
			return fmt.Errorf("bridge %s has a data race:\n%s", b.name, log[at:min(at+4096, len(log))])
		}
	}
	return nil
}

// pick chooses the next fault, by weight.
func pick(w *world, from []fault) fault {
	total := 0
	for _, f := range from {
		total += f.weight
	}
	n := w.random.IntN(total)
	for _, f := range from {
		if n -= f.weight; n < 0 {
			return f
		}
	}
	panic("unreachable")
}

func choose(opts Options) ([]fault, error) {
	all := faults
	if opts.Nodes > 1 {
		all = slices.Concat(faults, ofClusters)
	}
	if len(opts.Kinds) == 0 {
		return all, nil
	}
	var chosen []fault
	for _, name := range opts.Kinds {
		i := slices.IndexFunc(all, func(f fault) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no fault %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// recovered waits until something that is changed now is delivered on each
// route, and says how long that took. Everything before it is delivered then:
// a flow keeps the order.
func (w *world) recovered(ctx context.Context) (time.Duration, error) {
	patience := recovery
	if w.opts.Impatient {
		patience = recovery / 4
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	before, err := w.history.Sync(ctx)
	if err != nil {
		return 0, err
	}
	probes := map[string]string{} // the CRDs, by uid
	var asked time.Time
	err = until(ctx, "the probes arrive", func() error {
		if time.Since(asked) > probeEvery {
			// Again and again: a probe that a flow finds in its first list is
			// existing, which not all routes tell.
			asked = time.Now()
			for _, k := range w.kinds {
				uid, err := k.probe(ctx)
				if err != nil {
					return err
				}
				probes[uid] = k.crd()
			}
		}
		arrived := map[string]bool{}
		messages := w.tap.Recording().Messages
		for i := len(messages) - 1; i >= max(0, len(messages)-20_000); i-- {
			if e := messages[i].Event; e != nil && e.Kind != "deleted" && probes[e.Attributes["uid"]] != "" && isConstant(e.Attributes["route"]) {
				arrived[e.Attributes["route"]+" "+probes[e.Attributes["uid"]]] = true
			}
		}
		if len(arrived) < flows {
			return fmt.Errorf("only on %v", slices.Sorted(maps.Keys(arrived)))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.lossy && w.listed != 0 {
		w.caughtUp = before
		return time.Since(began), nil
	}
	// The lists that were made after a loss are older than the probes.
	now, err := w.history.Sync(ctx)
	if err != nil {
		return 0, err
	}
	if w.lossy {
		w.windows = append(w.windows, oracle.Window{From: w.caughtUp + 1, To: now})
	}
	if w.listed == 0 {
		w.listed = now
	}
	// Not now: of the last probe a flow may have told that it was created, and not
	// yet that it was changed.
	w.lossy, w.caughtUp = time.Now().Before(w.losing), before
	return time.Since(began), nil
}

// judge waits until everything has arrived, and has the oracle look at it.
func (w *world) judge(ctx context.Context, report *Report) error {
	if _, err := w.recovered(ctx); err != nil {
		return fmt.Errorf("at the end: %w\n%s\n%s", err, w.bridges[0].status(ctx), w.logs())
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	w.load.stop()
	if _, err := w.recovered(ctx); err != nil {
		return fmt.Errorf("at rest: %w\n%s\n%s", err, w.bridges[0].status(ctx), w.logs())
	}
	patience := quiet
	if w.opts.Impatient {
		patience = quiet / 10
	}
	for deadline := time.Now().Add(patience); ; {
		if err := w.tap.Sync(ctx); err != nil {
			return err
		}
		if _, err := w.history.Sync(ctx); err != nil {
			return err
		}
		past, recording := w.history.Past(), w.tap.Recording()
		violations := oracle.Check(past, recording, w.expected())
		report.take(w, past, recording, violations)
		if len(violations) == 0 || time.Now().After(deadline) || !slices.ContainsFunc(violations, mayPass) {
			if len(violations) > 0 {
				report.Logs = w.logs() + lives(past, recording, violations)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// failed tells whether there is a violation already that nothing that comes
// later can make right, nor that the recordings go on. All is delivered that
// was lost on the way.
func (w *world) failed(report *Report) bool {
	past, recording := w.history.Past(), w.tap.Recording()
	expected := w.expected()
	expected.Quiet = false
	violations := oracle.Check(past, recording, expected)
	certain := slices.ContainsFunc(violations, func(v oracle.Violation) bool {
		return v.Property == oracle.Unique || v.Property == oracle.Order || v.Property == oracle.Fencing || v.Property == oracle.NoGap
	})
	if certain {
		report.take(w, past, recording, violations)
	}
	return certain
}

// mayPass tells whether it may be only a matter of time.
func mayPass(v oracle.Violation) bool {
	return v.Property == oracle.Convergence || v.Property == oracle.DeleteComplete
}

func (w *world) expected() oracle.Expectations {
	w.mu.Lock()
	defer w.mu.Unlock()
	route := func(name string, events []string, of ...int) oracle.Route {
		r := oracle.Route{Name: name, Events: events, Subject: subject, Data: true, Began: w.started, Listed: w.listed}
		for _, i := range of {
			r.Resources = append(r.Resources, oracle.Resource{Group: resources[i].group, Plural: resources[i].plural})
		}
		return r
	}
	notes := route("notes", nil, 2)
	notes.Data = false // which version of the CRD wrote it is not in etcd's history
	varied := route("varied", nil, 0)
	varied.Data, varied.Partial, varied.Changing = false, true, w.routes.varied == everything
	return oracle.Expectations{
		Cluster: cluster, Stream: stream, Quiet: true, Lossy: slices.Clone(w.windows),
		Routes: []oracle.Route{
			route("all", nil, 0, 1), route("ends", []string{"created", "deleted"}, 0), route("changes", []string{"updated", "deleted"}, 0), notes, varied,
		},
	}
}
