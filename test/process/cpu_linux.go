package process

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the time that all threads of the process have run, in user and kernel,
// those that have ended among them. It is the scheduler's own count in
// nanoseconds, where /proc counts in hundredths of a second.
func CPU(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED
	clock := int32(^pid)<<3 | scheduled
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
