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

// Dir returns the node's folder, whose name is in all that it leaves.
func (n *Node) Dir() string { return n.folder.dir }
