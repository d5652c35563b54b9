//go:build !failpoints

package failpoint

// Here does nothing, and costs nothing.
func Here(Point) {}

// Bound is n, from which on something is much.
func Bound(n int) int { return n }
