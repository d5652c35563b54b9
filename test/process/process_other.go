//go:build unix && !linux

package process

import "syscall"

// childAttributes puts the child into a process group of its own, so that
// Ctrl-C reaches the parent only, which then stops its children in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// isStopped cannot be answered without taking the child's status away from
// whoever waits for its end. SIGSTOP cannot be caught, so it is as good as done.
func isStopped(int) (bool, error) { return true, nil }
