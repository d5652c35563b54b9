//go:build unix

package main

import (
	"os"
	"syscall"
	"time"
)

// cpuTime is the time that all threads of the process have run, in user and kernel,
// those that have ended among them; getrusage(2) counts it in microseconds.
func cpuTime() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
