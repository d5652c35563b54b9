package process

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes puts the child into a process group of its own, so that
// Ctrl-C reaches the parent only, which then stops its children in order, and
// has the kernel kill it when the parent dies.
//
// A child that is inside another's PID namespace dies with that one. To package
// syscall its parent looks dead from the beginning, as it has no number there,
// and it would end at once; one that is isolated is told so too, but process 1
// cannot kill itself.
func childAttributes(isolated, inside bool) *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setpgid: true}
	if !inside {
		attributes.Pdeathsig = syscall.SIGKILL
	}
	if isolated {
		attributes.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	}
	return attributes
}

// enterNamespaces moves the calling thread into the mount namespace of a
// process; what the thread starts from then on is in its PID namespace too.
func enterNamespaces(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// A thread that shares its root and working directory with others cannot
	// have mounts of its own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
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
