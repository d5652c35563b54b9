package flow

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/crbridge/crbridge/internal/failpoint"
	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/journal"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// batchEvents and batchBytes bound a batch: large enough that a round trip
	// to the sink is shared by many events, small enough that a retry is cheap.
	batchEvents = 512
	batchBytes  = 1 << 20

	// A sink that does not take events is asked again after firstRetry, and
	// then at intervals that double up to lastRetry.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// deliver takes batches from the queue, one at a time, and hands each to the
// sink until it is durable. Only then does the ledger know of it. It returns
// when there is nothing to deliver and nothing to save, and tells whether that
// is the end: the queue has it called again otherwise, when there is something.
// So a flow that is idle has no goroutine for it.
func (r *Run) deliver() (over bool) {
	for {
		wake := r.saver.wake()
		if wake == nil && r.queue.rest() {
			return false
		}
		batch, open := r.queue.take(r.delivering, wake)
		if !open {
			return true
		}
		if len(batch) > 0 {
			if r.unanswered = r.deliverBatch(batch); len(r.unanswered) > 0 {
				return true
			}
		}
		if r.saver.due() && !r.save(r.delivering) {
			return true
		}
	}
}

// deliverBatch returns what of the batch had not become durable, as far as the
// sink said, when delivering ended.
func (r *Run) deliverBatch(batch []item) []item {
	toSend := make([]events.Event, 0, len(batch))
	for n := range batch {
		if batch[n].event != nil {
			toSend = append(toSend, *batch[n].event)
		}
	}
	for retry := firstRetry; len(toSend) > 0; {
		durable, err := r.flow.publisher.Publish(r.delivering, toSend)
		failpoint.Here(failpoint.AfterAck)
		batch = r.acknowledge(batch, durable)
		toSend = toSend[durable:]
		if durable > 0 {
			retry = firstRetry
		}
		if err == nil {
			break
		}
		if r.shrink(toSend, err) {
			continue
		}
		if r.delivering.Err() != nil || !r.again(r.delivering, err, retry) {
			return batch
		}
		retry = min(2*retry, lastRetry)
	}
	if len(batch) > 0 {
		r.acknowledge(batch, 0)
	}
	r.flow.condition.setSink(nil)
	return nil
}

// shrink makes the first event smaller where that is what the sink wants of it,
// and tells whether it could. So no event holds up those behind it for its
// size; its subscribers learn that the object changed, and can ask for it.
func (r *Run) shrink(toSend []events.Event, err error) bool {
	large, is := errors.AsType[*sinks.TooLargeError](err)
	if !is || large.ID != toSend[0].ID() {
		return false
	}
	again := toSend[0].Oversize()
	if !toSend[0].Shrink() {
		return false
	}
	if !again {
		r.series.oversize.add()
		r.flow.log.Warn("an event is too large for the sink: its data is the object's metadata alone, or less, and its attribute oversize says so",
			"object", large.Subject, "id", large.ID, "bytes", large.Size, "limit", large.Limit, "source", large.Source)
		r.flow.condition.setLarge(large.Error() + "; it was delivered with its object's metadata alone, or less: raise that limit, or leave fields out with the route's payload.drop")
	}
	return true
}

// again takes note that the sink refuses something, and waits before it is
// tried again. It tells whether there is any use in that.
func (r *Run) again(ctx context.Context, err error, retry time.Duration) bool {
	_, fenced := errors.AsType[*journal.FencedError](err)
	if fenced || errors.Is(err, journal.ErrReplaced) {
		r.fail(err)
		r.listenNot()
		r.deliverNot() // nor does a drain wait for room in a queue that nobody empties
		return false
	}
	r.flow.condition.setSink(err)
	r.retries.Inc()
	return sleep(ctx, retry)
}

// acknowledge notes that the first events of the batch are durable, and with
// them what came before and directly after; it returns the rest.
func (r *Run) acknowledge(batch []item, durable int) []item {
	now := time.Now()
	count := 0
	exact := r.flow.journal.Exact()
	watched := r.flow.env.Tap.Watched()
	for ; count < len(batch); count++ {
		i := &batch[count]
		if i.event != nil {
			if durable == 0 {
				break
			}
			durable--
			r.series.deliveredOne(events.Type(i.event.Fields.Event))
			lag := now.Sub(i.event.Time())
			r.series.lag.observe(lag)
			r.flow.waited.Add(int64(lag))
			r.flow.last.Store(now.UnixNano())
			r.flow.delivered.Add(1)
			if watched {
				r.flow.env.Tap.Show(deliveryOf(r.flow.id, i.event, now))
			}
		}
		r.saver.note(i, exact)
	}
	r.flow.ledger.ack(batch[:count])
	r.queue.release(batch[:count], batch[count:])
	r.pending()
	return batch[count:]
}

func (r *Run) pending() {
	count, _ := r.queue.waiting()
	r.series.pending.Store(int64(count))
}

// sleep waits for about that long (three quarters to five quarters, so that
// flows do not all come back at once) and tells whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	d = d*3/4 + rand.N(d/2)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
