package nats

import (
	"context"
	"sync"
	"time"
)

// patience bounds the wait for an answer to something that is sent to a
// subject for which sent is true: by ackTimeout, by the session, and by the
// server's word that it does not permit it. The cause of the context's end
// says which of them it was. done has to be called.
func (ses *session) patience(ctx context.Context, sent func(subject string) bool) (_ context.Context, done func()) {
	w := ses.denial.wait(1, sent)
	ctx, stop := ses.bound(ctx, ackTimeout, w.denied)
	return ctx, func() {
		ses.denial.done(w)
		stop()
	}
}

// bound bounds what is done by time, by the session and by a denial, which may
// be nil. The cause of the context's end says which of them it was. done has
// to be called.
func (ses *session) bound(ctx context.Context, most time.Duration, denied <-chan denial) (_ context.Context, done func()) {
	ctx, cancel := context.WithTimeoutCause(ctx, most, errNoAnswer)
	ctx, giveUp := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case denied := <-denied:
			giveUp(&deniedError{denied.words})
		case <-ses.ended:
			giveUp(errEnded)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		giveUp(nil)
		watching.Wait()
		cancel()
	}
}

// deniedError is the server's word that it does not permit something. Asking
// again is no use then.
type deniedError struct{ words string }

func (e *deniedError) Error() string { return e.words }
