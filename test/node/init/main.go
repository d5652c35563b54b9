//go:build linux

// Init is process 1 of the node's namespaces, and, without arguments, the pause
// container of its pods. It waits for the processes that are left to it, and
// ends on SIGTERM or SIGINT.
//
// With a folder as its argument it first makes the mounts that keep the node to
// itself, and then the file "ready" in that folder.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM, unix.SIGINT)
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	if len(args) > 0 {
		if err := separate(); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(args[0], "ready"), nil, 0o600); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ended:
			return nil
		case <-orphans:
			reap()
		}
	}
}

// reap waits for all that have ended: signals of several are told as one.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if pid <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// tunables are what kubelet sets in the kernel of its machine, and the values
// that it wants. It finds files here that have them, and leaves the kernel be.
var tunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// separate makes the mounts: none is seen outside of the namespace, and they are
// gone with it. Containerd, kubelet and the CNI library write to places below
// these folders that cannot be set.
func separate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, place := range []string{"/run", "/var/log", "/var/lib"} {
		if err := unix.Mount("tmpfs", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
			return fmt.Errorf("mount a tmpfs at %s: %w", place, err)
		}
	}
	for name, value := range tunables {
		file := "/run/" + strings.ReplaceAll(name, "/", ".")
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s at /proc/sys/%s: %w", file, name, err)
		}
	}
	return nil
}
