package flow

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sources"
)

// restorer gives what the journal has kept to the ledger.
type restorer struct {
	*ledger
	fresh bool // all of it
}

func (r *restorer) Reset() {
	r.fresh = true
	r.ledger.Reset()
}

func (r *restorer) Restore(row journal.Row) {
	r.ledger.Restore(row)
	failpoint.Here(failpoint.InTail)
}

// claim makes the flow this bridge's, and its ledger what is durable. It tries
// until the sink lets it, and tells whether it did before the run was stopped.
func (r *Run) claim() bool {
	f := r.flow
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		into := restorer{ledger: f.ledger}
		claim, err := f.journal.Claim(r.following, &into)
		if err == nil {
			failpoint.Here(failpoint.AfterClaim)
			f.condition.setSink(nil)
			r.restored(claim, into.fresh)
			return true
		}
		if r.following.Err() != nil {
			return false
		}
		if _, fenced := errors.AsType[*journal.FencedError](err); fenced {
			r.fail(err)
			return false
		}
		f.condition.setSink(err)
		if !sleep(r.following, retry) {
			return false
		}
	}
}

// restored takes note of what the journal said.
func (r *Run) restored(c journal.Claim, fresh bool) {
	f := r.flow
	f.ledger.restored(c.State, fresh, f.journal.Exact())
	again := f.isClaimed()
	// A claim of which nothing more was recorded is one that was not finished.
	known := c.Known && (c.State.CRD != "" || f.ledger.objects() > 0)
	if fresh {
		r.saver.take(nil) // the versions that it has are of what is no more
	}
	if fresh || !again {
		f.state, f.begun = c.State, known
	}
	if f.active = f.state.Active; f.active == 0 {
		f.active = time.Now().Unix()
	}
	switch {
	case !again:
		f.known = known
		close(f.claimed)
	case fresh && !known:
		// The place is new, while the route has been active: what is there now
		// is existing in it.
		r.anew = true
	}
	if !known { // what has been requested by now is to be told for the first time
		f.ledger.skipResync(max(f.requested.Load(), c.Requested))
	}
	if c.Gap != "" {
		r.series.ledgerLost()
		f.condition.setGap(c.Gap)
		f.ledger.relist()
	}
}

// begin brings the ledger and its record to where the run sets out from. It
// tells whether that could be recorded before the run was stopped.
func (r *Run) begin(follow bool) bool {
	f := r.flow
	if r.target.Resource.Kind.Kind == "" { // of a CRD that was gone before this process began
		r.mu.Lock()
		r.target.Resource = resourceOf(f.state)
		r.mu.Unlock()
	}
	kind := r.target.Resource.Kind
	r.origin = events.Origin{
		Cluster: f.env.Cluster, Group: kind.Group, Version: kind.Version, Kind: kind.Kind,
		Resource: r.target.Resource.Plural, Namespaced: r.target.Resource.Namespaced, Route: f.id.Route,
		History: f.ledger.state().History,
	}
	if !follow {
		if f.ledger.holds(r.gone()) {
			f.condition.setGoing(gone)
		}
		return r.record()
	}
	existing := (r.target.Existing || r.anew) && !f.begun
	if existing && !r.anew && f.pattern != nil {
		select {
		case <-f.pattern.claimed:
			// One that the route found when it became active, and that had no
			// flow yet when a bridge ended, still exists.
			existing = !f.pattern.known || r.target.Created != 0 && r.target.Created <= f.pattern.active
		case <-r.following.Done():
			return false
		}
	}
	if f.ledger.begin(r.target.CRD, existing) {
		r.series.resyncs[resyncRecreated].Add(1)
	}
	f.begun = true
	if f.ledger.selects(r.target.Rules.selection()) {
		r.reselected = true
		r.series.resyncs[resyncSelection].Add(1)
	}
	r.told = f.ledger.newestTold() // before the positions of what is no longer selected are forgotten
	f.ledger.watch(r.target.Rules.namespaces(), r.reselected, r.target.Rules.digestsStay())
	if n := f.requested.Load(); n > 0 {
		if !r.resume(n) {
			return false
		}
	}
	for _, w := range r.watchers {
		w.resync, w.reselected = r.resync, r.reselected
	}
	if f.ledger.state().Phase == journal.Following {
		f.condition.setListed()
	}
	if state := f.ledger.state(); state.Rewound != 0 {
		f.condition.setRewound(r.rewoundWords(nil))
	}
	return r.record()
}

// resume begins the requested resync, if it is not done.
func (r *Run) resume(number uint64) bool {
	f := r.flow
	if !f.ledger.startResync(number) {
		return true
	}
	r.resync = number
	r.series.resyncs[resyncRequested].Add(1)
	f.log.Info("tells of all objects again, as requested", "request", number)
	if f.ledger.state().Rewound == 0 && f.state.Rewound == 0 { // the latter until it is recorded that it is not
		return true
	}
	// The API server counts from an earlier number than it once did.
	f.ledger.goOn(number)
	r.told = 0 // of another history
	r.origin.History = number
	return r.persist(r.following, func() error { return f.journal.Rebase(r.following, r.stateNow()) })
}

// record makes durable that the run begins, if that is not known already.
func (r *Run) record() bool {
	if r.stateNow().Equal(r.flow.state) {
		return true
	}
	return r.save(r.following)
}

// resourceOf is what the journal knows of a CRD that is no more.
func resourceOf(s journal.State) sources.Resource {
	plural, group, _ := strings.Cut(s.CRD, ".")
	return sources.Resource{
		Kind:   schema.GroupVersionKind{Group: group, Version: s.Version, Kind: s.Kind},
		Plural: plural, Namespaced: s.Namespaced,
	}
}

// rewoundWords say what has happened and what to do.
func (r *Run) rewoundWords(err *sources.RewoundError) string {
	what := "the API server has an earlier state than what was delivered"
	if err != nil {
		what = err.Error()
	}
	return fmt.Sprintf("%s: etcd was restored from a backup; nothing more is delivered, as it cannot be told what is new; "+
		"`bridge resync --route %s` goes on from what is there now and tells of all objects again", what, r.flow.id.Route)
}
