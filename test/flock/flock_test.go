//go:build unix

package flock_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/crbridge/crbridge/test/flock"
)

func TestLockIsGivenUpWithTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := flock.Lock(t.Context(), path, func() { t.Error("waiting for a free lock") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	waited := 0
	if _, err := flock.Lock(ctx, path, func() { waited++ }); !errors.Is(err, context.DeadlineExceeded) || waited != 1 {
		t.Errorf("second lock: %v after %d notices", err, waited)
	}
	unlock()
	again, err := flock.Lock(t.Context(), path, func() { t.Error("waiting for a lock that was given back") })
	if err != nil {
		t.Fatal(err)
	}
	again()
}
