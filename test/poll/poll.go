// Package poll waits until a condition holds, for those who start servers and
// for tests that look at them from outside.
package poll

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// interval is how often a condition is looked at.
const interval = 20 * time.Millisecond

// Until calls check until it returns nil, ctx ends, or it has been called for as
// long as patience says. Its error begins with what and ends with check's last
// one.
func Until(ctx context.Context, patience time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(interval):
		}
	}
}

// Eventually waits until the condition holds, and fails the test with what it
// said last if it does not within that time, or the test ends before.
func Eventually(t testing.TB, patience time.Duration, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", patience, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(interval):
		}
	}
}
