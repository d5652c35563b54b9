//go:build unix

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/test/process"
	"github.com/crbridge/crbridge/test/proxy"
)

// fault breaks something, and mends it again. It says what it chose.
type fault struct {
	name   string
	weight int
	do     func(context.Context, *world) (string, error)
}

// ofClusters are those of a NATS cluster only.
var ofClusters = []fault{
	{"nats leader down", 5, leaderDown},
	{"nats leader paused", 4, leaderPaused},
	{"nats node down", 3, nodeDown},
	{"nats majority down", 2, majorityDown},
	{"nats rolling restart", 1, rollingRestart},
}

var faults = []fault{
	{"bridge killed", 3, killBridge},
	{"bridge stopped", 2, stopBridge},
	{"bridge paused", 2, pauseBridge},
	{"bridge replaced", 2, replaceBridge},
	{"bridge replaced while paused", 2, replacePaused},
	{"failpoint", 6, failAt},
	{"nats killed", 3, killNATS},
	{"nats line", 5, natsLine},
	{"nats late bytes", 3, lateBytes},
	{"nats full", 1, fullStream},
	{"stream purged", 1, purgeStream},
	{"stream recreated", 1, recreateStream},
	{"api line", 3, apiLine},
	{"api server killed", 1, killAPIServer},
	{"api server lags", 2, lagging},
	{"resync requested", 1, requestResync},
	{"etcd killed", 1, killEtcd},
	{"history compacted", 2, compact},
	{"crd recreated", 2, recreateCRD},
	{"crd recreated unseen", 2, recreateCRDUnseen},
	{"crd gone unseen", 1, loseCRDUnseen},
	{"version changed", 1, changeVersion},
	{"reload", 4, reload},
}

// wait lets that part of the longest time pass which the schedule chooses.
func (w *world) wait(ctx context.Context, longest time.Duration) (time.Duration, error) {
	d := time.Duration(w.random.Int64N(int64(longest)))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return d.Round(10 * time.Millisecond), nil
	case <-ctx.Done():
		return d, ctx.Err()
	}
}

func (w *world) active() *bridge { return w.bridges[0] }

func killBridge(ctx context.Context, w *world) (string, error) {
	if err := w.active().halt(ctx, true); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 2*time.Second)
	if err != nil {
		return "", err
	}
	return "for " + d.String(), w.active().start(ctx)
}

func stopBridge(ctx context.Context, w *world) (string, error) {
	if err := w.active().halt(ctx, false); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 2*time.Second)
	if err != nil {
		return "", err
	}
	return "for " + d.String(), w.active().start(ctx)
}

func pauseBridge(ctx context.Context, w *world) (string, error) {
	p := w.active().running()
	if p == nil {
		return "not running", nil
	}
	if err := p.Pause(ctx); err != nil {
		return "it had ended", nil //nolint:nilerr // which is another fault's
	}
	d, err := w.wait(ctx, 4*time.Second)
	if err != nil {
		return "", err
	}
	_ = p.Resume(ctx)
	return "for " + d.String(), nil
}

// replaceBridge starts another bridge, without leader election: the first has
// to end by itself, and to say so by its status.
func replaceBridge(ctx context.Context, w *world) (string, error) {
	old := w.bridges[0].abandon()
	w.bridges[0], w.bridges[1] = w.bridges[1], w.bridges[0]
	if err := w.bridges[0].start(ctx); err != nil {
		return "", err
	}
	return "", w.mustEnd(ctx, old)
}

// replacePaused does so while the first is paused, and lets it go on later.
func replacePaused(ctx context.Context, w *world) (string, error) {
	old := w.bridges[0].abandon()
	if old != nil {
		if err := old.Pause(ctx); err != nil {
			old = nil // it had ended
		}
	}
	w.bridges[0], w.bridges[1] = w.bridges[1], w.bridges[0]
	if err := w.bridges[0].start(ctx); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 4*time.Second)
	if err != nil {
		return "", err
	}
	if old != nil {
		_ = old.Resume(ctx)
	}
	return "for " + d.String(), w.mustEnd(ctx, old)
}

// mustEnd waits for a bridge that was taken over from; nil is none.
func (w *world) mustEnd(ctx context.Context, old *process.Process) error {
	if old == nil {
		return nil
	}
	select {
	case <-old.Exited():
	case <-time.After(recovery):
		return fmt.Errorf("a bridge that was taken over from is still there after %v", recovery)
	case <-ctx.Done():
		return ctx.Err()
	}
	if code := old.ExitCode(); code != 1 && code != -1 {
		return fmt.Errorf("a bridge that was taken over from ended with status %d", code)
	}
	return nil
}

// failAt has the bridge end, or be held up, at a point of its code.
func failAt(ctx context.Context, w *world) (string, error) {
	points := failpoint.All()
	point := points[w.random.IntN(len(points))]
	what := "kill"
	if w.random.IntN(3) == 0 {
		what = fmt.Sprintf("%dms", 500+w.random.IntN(4000))
	}
	spec := fmt.Sprintf("%s=%d:%s", point, 1+w.random.IntN(20), what)
	b := w.active()
	if err := b.halt(ctx, w.random.IntN(2) == 0); err != nil {
		return "", err
	}
	b.mu.Lock()
	b.failure = spec
	b.mu.Unlock()
	if err := b.start(ctx); err != nil {
		return "", err
	}
	if point == failpoint.WhileDraining || point == failpoint.AfterDrain {
		k := w.kinds[w.random.IntN(len(w.kinds))]
		w.loses()
		if err := k.remove(ctx); err != nil {
			return spec, err
		}
		if err := k.create(ctx); err != nil {
			return spec, err
		}
		return spec + " with " + k.crd() + " recreated", nil
	}
	_, err := w.wait(ctx, 3*time.Second)
	return spec, err
}

func killNATS(ctx context.Context, w *world) (string, error) {
	if w.random.IntN(2) == 0 {
		w.nats.kill()
	} else {
		for _, node := range w.nats.nodes {
			if err := node.Stop(ctx); err != nil {
				return "", err
			}
		}
	}
	d, err := w.wait(ctx, 6*time.Second)
	if err != nil {
		return "", err
	}
	return "for " + d.String(), w.nats.start(ctx)
}

func natsLine(ctx context.Context, w *world) (string, error) { return breakLine(ctx, w, w.natsLines()) }
func apiLine(ctx context.Context, w *world) (string, error) {
	return breakLine(ctx, w, lines{w.apiLine})
}

func breakLine(ctx context.Context, w *world, line lines) (string, error) {
	modes := []proxy.Mode{
		proxy.Stall, proxy.HalfOpen, proxy.Refuse, proxy.Delay(time.Duration(w.random.IntN(400)) * time.Millisecond),
	}
	n := w.random.IntN(len(modes) + 1)
	if n == len(modes) {
		times := 1 + w.random.IntN(5)
		for range times {
			line.cut()
			if _, err := w.wait(ctx, 500*time.Millisecond); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("cut %d times", times), nil
	}
	if err := line.set(modes[n]); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 5*time.Second)
	if err != nil {
		return "", err
	}
	what := fmt.Sprintf("%v for %v", modes[n], d)
	if w.random.IntN(2) == 0 {
		line.cut() // what was held is gone
		what += ", then cut"
	}
	return what, line.set(proxy.Pass)
}

// lateBytes lets what a connection had sent arrive long after its end.
func lateBytes(ctx context.Context, w *world) (string, error) {
	if err := w.nats.lines.set(proxy.Late); err != nil {
		return "", err
	}
	if _, err := w.wait(ctx, time.Second); err != nil {
		return "", err
	}
	for _, line := range w.nats.lines {
		line.LateCut()
	}
	d, err := w.wait(ctx, 3*time.Second)
	if err != nil {
		return "", err
	}
	bytes, err := w.nats.lines.release(ctx)
	what := fmt.Sprintf("%d bytes, %v late", bytes, d)
	if err != nil {
		what += ", of which the server did not take all" // it had ended the connection
	}
	return what, nil
}

// fullStream has the stream refuse what is new.
func fullStream(ctx context.Context, w *world) (string, error) {
	change := func(what func(*jetstream.StreamConfig)) error {
		return until(ctx, "the stream is changed", func() error {
			s, err := w.js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			config := s.CachedInfo().Config
			what(&config)
			_, err = w.js.UpdateStream(ctx, config)
			return err
		})
	}
	if err := change(func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardNew, 1 }); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 4*time.Second)
	if err != nil {
		return "", err
	}
	return "for " + d.String(), change(func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardOld, -1 })
}

// flows are those that follow something: three routes' of orders, and one each
// of regions and notes.
const flows = 5

// purgeStream empties the stream. The ledgers are whole again when snapshots of
// them are written; a crash before that is beyond what is promised.
func purgeStream(ctx context.Context, w *world) (string, error) {
	if err := w.active().halt(ctx, false); err != nil { // it may have a failpoint ahead of it
		return "", err
	}
	if err := w.active().start(ctx); err != nil {
		return "", err
	}
	if _, err := w.recovered(ctx); err != nil {
		return "", err
	}
	var last uint64
	var purged time.Time
	purge := func() error {
		if err := w.tap.Sync(ctx); err != nil {
			return err
		}
		s, err := w.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		last = s.CachedInfo().State.LastSeq
		if err := s.Purge(ctx, jetstream.WithPurgeSequence(last+1)); err != nil {
			return err
		}
		w.tap.Purged(last)
		purged = time.Now()
		return nil
	}
	if err := until(ctx, "the stream is purged", purge); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	return "", until(ctx, "the ledgers are put down", func() error {
		// A flow whose control message came between the question for the last
		// sequence and the purge still has it, and notices nothing.
		if time.Since(purged) > purgeAgain {
			if err := purge(); err != nil {
				return err
			}
		}
		put := map[string]bool{}
		messages := w.tap.Recording().Messages
		for i := len(messages) - 1; i >= 0 && messages[i].Sequence > last; i-- {
			var control struct {
				Snapshots []struct{ Sequence uint64 }
				State     struct{ Phase, Route string }
			}
			m := &messages[i]
			if m.Event != nil || json.Unmarshal(m.Data, &control) != nil || control.State.Phase != "following" || !isConstant(control.State.Route) {
				continue
			}
			if len(control.Snapshots) > 0 && control.Snapshots[0].Sequence >= last {
				put[m.Subject] = true
			}
		}
		if len(put) < flows {
			return fmt.Errorf("of %d flows only %v", flows, put)
		}
		return nil
	})
}

// purgeAgain is how long it may take until all flows that have noticed a purge
// have put down their ledgers.
const purgeAgain = 5 * time.Second

// recreateStream deletes the stream, with the bridge stopped so that the tap
// has seen all of it. What is new begins anew.
func recreateStream(ctx context.Context, w *world) (string, error) {
	if err := w.active().halt(ctx, w.random.IntN(2) == 0); err != nil {
		return "", err
	}
	for _, b := range w.bridges[1:] {
		if err := b.halt(ctx, true); err != nil {
			return "", err
		}
	}
	err := until(ctx, "the stream is deleted", func() error {
		if err := w.tap.Sync(ctx); err != nil {
			return err
		}
		return w.js.DeleteStream(ctx, stream)
	})
	if err != nil {
		return "", err
	}
	// Objects that are gone by now were in the old stream only.
	w.loses()
	w.mu.Lock()
	w.listed = 0
	w.mu.Unlock()
	return "", w.active().start(ctx)
}

func killAPIServer(ctx context.Context, w *world) (string, error) {
	w.loses() // a new API server has no history
	w.control.APIServer.Kill()
	d, err := w.wait(ctx, 4*time.Second)
	if err != nil {
		return "", err
	}
	return "for " + d.String(), w.control.APIServer.Start(ctx)
}

func killEtcd(ctx context.Context, w *world) (string, error) {
	w.loses()
	w.control.Etcd.Kill()
	d, err := w.wait(ctx, 3*time.Second)
	if err != nil {
		return "", err
	}
	if err := w.control.Etcd.Start(ctx); err != nil {
		return "", err
	}
	return "for " + d.String(), w.control.WaitReady(ctx)
}

// lagging sends the bridge to another API server, which hears of everything
// late, and back.
func lagging(ctx context.Context, w *world) (string, error) {
	delay := time.Duration(1+w.random.IntN(3000)) * time.Millisecond
	w.loses() // its history is not the other's
	if err := w.etcdLine.Set(proxy.Delay(delay)); err != nil {
		return "", err
	}
	// Until then it knows all that the first one does.
	if _, err := w.wait(ctx, delay); err != nil {
		return "", err
	}
	w.apiLine.SetTarget(w.second.Address())
	w.apiLine.Cut()
	what := fmt.Sprintf("by %v", delay)
	restarted, resynced := w.random.IntN(3) == 0, w.random.IntN(2) == 0
	if restarted {
		what += ", bridge killed"
		if err := w.active().halt(ctx, true); err != nil {
			return what, err
		}
		if err := w.active().start(ctx); err != nil {
			return what, err
		}
	}
	if resynced {
		requested, err := requestResync(ctx, w)
		if what += ", resync of " + requested; err != nil {
			return what, err
		}
	}
	d, err := w.wait(ctx, 6*time.Second)
	if err != nil {
		return "", err
	}
	if err := w.etcdLine.Set(proxy.Pass); err != nil {
		return "", err
	}
	w.apiLine.SetTarget(w.control.Address())
	w.apiLine.Cut()
	return fmt.Sprintf("%s, for %v", what, d), nil
}

// requestResync has the bridge tell of a route's objects again.
func requestResync(ctx context.Context, w *world) (string, error) {
	routes := []string{"all", "ends", "changes", "notes"}
	route := routes[w.random.IntN(len(routes))]
	path, err := w.config("resync")
	if err != nil {
		return route, err
	}
	command := exec.CommandContext(ctx, w.opts.Bridge, "resync", "--config", path, "--route", route)
	command.Env = append(os.Environ(), w.opts.Env...)
	if output, err := command.CombinedOutput(); err != nil {
		return route, fmt.Errorf("%w: %s", err, output)
	}
	return route, nil
}

// compact takes the history away that the bridge needs when it comes back. It
// may be killed while it lists what there is instead.
func compact(ctx context.Context, w *world) (string, error) {
	if err := w.active().halt(ctx, true); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 2*time.Second)
	if err != nil {
		return "", err
	}
	w.loses()
	if _, err := w.history.Compact(ctx); err != nil {
		return "", err
	}
	w.control.APIServer.Kill() // it has a history of its own
	if err := w.control.APIServer.Start(ctx); err != nil {
		return "", err
	}
	what := fmt.Sprintf("after %v", d)
	b := w.active()
	interrupted := w.random.IntN(2) == 0
	if interrupted {
		b.mu.Lock()
		b.failure = fmt.Sprintf("%s=%d:%dms", failpoint.InFirstList, 1+w.random.IntN(40), 5000)
		b.mu.Unlock()
	}
	if err := b.start(ctx); err != nil || !interrupted {
		return what, err
	}
	d, err = w.wait(ctx, 3*time.Second)
	if err != nil {
		return what, err
	}
	if err := b.halt(ctx, true); err != nil {
		return what, err
	}
	return fmt.Sprintf("%s, bridge killed in the list after %v", what, d), b.start(ctx)
}

func recreateCRD(ctx context.Context, w *world) (string, error) {
	k := w.kinds[w.random.IntN(len(w.kinds))]
	w.loses()
	if err := k.remove(ctx); err != nil {
		return "", err
	}
	d, err := w.wait(ctx, 3*time.Second)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s after %v", k.crd(), d), k.create(ctx)
}

func recreateCRDUnseen(ctx context.Context, w *world) (string, error) {
	k := w.kinds[w.random.IntN(len(w.kinds))]
	w.loses()
	if err := w.active().halt(ctx, w.random.IntN(2) == 0); err != nil {
		return "", err
	}
	if err := k.remove(ctx); err != nil {
		return "", err
	}
	if err := k.create(ctx); err != nil {
		return "", err
	}
	if _, err := w.wait(ctx, time.Second); err != nil {
		return "", err
	}
	return k.crd(), w.active().start(ctx)
}

// loseCRDUnseen has a CRD go while nobody looks, perhaps with the sink down
// when the bridge comes back, and perhaps killed while it drains.
func loseCRDUnseen(ctx context.Context, w *world) (string, error) {
	k := w.kinds[w.random.IntN(len(w.kinds))]
	what := k.crd()
	w.loses()
	b := w.active()
	if err := b.halt(ctx, true); err != nil {
		return "", err
	}
	if err := k.remove(ctx); err != nil {
		return "", err
	}
	down := w.random.IntN(2) == 0
	if down {
		what += ", nats down"
		w.nats.kill()
	}
	if w.random.IntN(2) == 0 {
		what += ", killed half-way"
		b.mu.Lock()
		b.failure = fmt.Sprintf("%s=%d:kill", failpoint.WhileDraining, 1+w.random.IntN(10))
		b.mu.Unlock()
	}
	if err := b.start(ctx); err != nil {
		return "", err
	}
	if _, err := w.wait(ctx, 2*time.Second); err != nil {
		return "", err
	}
	if down {
		if err := w.nats.start(ctx); err != nil {
			return "", err
		}
	}
	if _, err := w.wait(ctx, 2*time.Second); err != nil {
		return "", err
	}
	return what, k.create(ctx)
}

func changeVersion(ctx context.Context, w *world) (string, error) {
	k := w.kinds[2]
	version := k.versions[w.random.IntN(len(k.versions))]
	// The API server builds its storage anew when it hears of it, and a watch on
	// what was before ends later still.
	w.goesOnLosing(15 * time.Second)
	return "to " + version, k.serve(ctx, version)
}
