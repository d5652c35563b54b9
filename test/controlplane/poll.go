//go:build unix

package controlplane

import (
	"context"
	"fmt"
	"time"
)

const (
	pollInterval = 20 * time.Millisecond

	// pollTimeout bounds a wait where the caller's context does not.
	pollTimeout = time.Minute
)

// poll calls check until it returns nil or ctx ends. Its error begins with what
// and ends with check's last one.
func poll(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(pollInterval):
		}
	}
}
