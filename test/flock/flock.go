//go:build unix

// Package flock takes locks on files, which the kernel gives back when the
// process ends, however it ends.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Try takes an exclusive lock on the file at path, which it makes if need be, and
// returns what gives it back, or nil if another has it.
func Try(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { _ = file.Close() }, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return nil, nil //nolint:nilnil // said above
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Lock does the same, and waits while another has the lock. It calls waiting
// once then.
func Lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	// A blocking flock would not end with ctx.
	for first := true; ; first = false {
		if unlock, err := Try(path); unlock != nil || err != nil {
			return unlock, err
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for lock %s: %w", path, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
