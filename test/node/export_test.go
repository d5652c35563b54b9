//go:build linux && cluster

package node

import (
	"context"
	"io"
)

// RemoveLeftovers is what Start does first.
func RemoveLeftovers(ctx context.Context, progress io.Writer) error {
	unlock, err := lockAll(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return removeLeftovers(ctx, progress)
}
