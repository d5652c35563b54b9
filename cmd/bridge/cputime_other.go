//go:build !unix

package main

import (
	"errors"
	"time"
)

// cpuTime is for the systems that have getrusage(2). Elsewhere processors are Go's
// own matter.
func cpuTime() (time.Duration, error) { return 0, errors.ErrUnsupported }
