//go:build !linux

package residue

func dropExecutable() (int, error) { return 0, nil }
