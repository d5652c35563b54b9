package nats

import (
	"regexp"
	"sync"
)

// denials brings to those who wait for an answer what the server tells only
// by the way and by subject: that they may not ask. Without it they would
// learn it by waiting in vain.
type denials struct {
	account
	mu      sync.Mutex
	waiting map[*waiter]struct{}
}

// waiter waits for answers to what it has sent to some subjects.
type waiter struct {
	sent   func(subject string) bool
	denied chan denial
}

type denial struct {
	subject string
	words   string
}

// violation finds the subject in what nats-server says; the words are from
// its client.go, pubPermissionViolation and subPermissionViolation.
var violation = regexp.MustCompile(`Permissions Violation for (Publish|Subscription) to "([^"]+)"`)

// wait registers a waiter for answers to at most n messages. It has to be done
// before anything is sent.
func (d *denials) wait(n int, sent func(subject string) bool) *waiter {
	w := &waiter{sent: sent, denied: make(chan denial, n)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[*waiter]struct{}{}
	}
	d.waiting[w] = struct{}{}
	return w
}

func (d *denials) done(w *waiter) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, w)
}

// tell hands a denial to all that it concerns. Without the inbox nobody gets
// an answer, so that concerns all.
func (d *denials) tell(x denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.waiting {
		if d.isInbox(x.subject) || w.sent(x.subject) {
			select {
			case w.denied <- x:
			default: // it knows of as many as it has sent
			}
		}
	}
}
