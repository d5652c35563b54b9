package process

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes puts the child into a process group of its own, so that
// Ctrl-C reaches the parent only, which then stops its children in order, and
// has the kernel kill it when the parent dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// isStopped reports whether all threads of the child are stopped. It leaves the
// child's status for whoever waits for its end.
func isStopped(pid int) (bool, error) {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT, nil)
	switch {
	case errors.Is(err, unix.ECHILD), errors.Is(err, unix.EINTR):
		return false, nil // it has just ended, which the caller sees elsewhere
	case err != nil:
		return false, err
	}
	return info.Signo != 0, nil
}
