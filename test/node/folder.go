//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/crbridge/crbridge/test/flock"
	"github.com/crbridge/crbridge/test/poll"
)

// folder is where a node has its files. It is enough to find what else the node
// has on the machine: a bridge, which bears the folder's number, and the cgroups
// of containers, whose ids containerd keeps in it.
type folder struct {
	dir    string
	unlock func() // held as long as the node is somebody's
}

const prefix = "crbridge-node-"

// hidden are the folders that process 1 of a node puts empty ones over.
var hidden = []string{"/run", "/var/log", "/var/lib"}

func (f *folder) path(elements ...string) string {
	return filepath.Join(append([]string{f.dir}, elements...)...)
}

func (f *folder) number() string { return strings.TrimPrefix(filepath.Base(f.dir), prefix) }

// bridge returns the bridge's name; a link's has 15 bytes at most.
func (f *folder) bridge() string { return "crb" + f.number() }

// lockAll keeps other processes from making and removing nodes, for a moment.
func lockAll(ctx context.Context) (unlock func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "crbridge")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return flock.Lock(ctx, filepath.Join(dir, "node.lock"), func() {})
}

func newFolder() (*folder, error) {
	temp, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		return nil, err
	}
	for _, place := range hidden {
		if temp == place || strings.HasPrefix(temp, place+"/") {
			return nil, fmt.Errorf("node: TMPDIR=%s: it must not be below %s, which the node has an empty one of", os.TempDir(), place)
		}
	}
	dir, err := os.MkdirTemp(temp, prefix)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir}
	if f.unlock, err = flock.Try(f.path("lock")); err != nil {
		return nil, err
	}
	return f, nil
}

// containers returns the ids of the containers that containerd has not removed.
func (f *folder) containers() (ids []string, err error) {
	entries, err := os.ReadDir(f.path("state", "io.containerd.runtime.v2.task", containerdNamespace))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, entry := range entries {
		ids = append(ids, entry.Name())
	}
	return ids, err
}

// remove removes the folder and what is found by it. No process of the node may
// run any more.
func (f *folder) remove(ctx context.Context) error {
	defer f.unlock()
	ids, err := f.containers()
	err = errors.Join(err, removeLink(ctx, f.bridge()), removeCgroups(ctx, ids))
	if err != nil {
		return err // the folder stays, and with it what is known
	}
	return os.RemoveAll(f.dir)
}

// removeLeftovers removes what nodes have left behind whose process was killed:
// nobody has the lock of their folder. Call it under lockAll.
func removeLeftovers(ctx context.Context, progress io.Writer) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		unlock, err := flock.Try(filepath.Join(dir, "lock"))
		if err != nil {
			return err
		}
		if unlock == nil {
			continue // it is in use
		}
		fmt.Fprintf(progress, "node: removing %s, which a process that was killed has left\n", dir)
		f := &folder{dir: dir, unlock: unlock}
		if err := f.remove(ctx); err != nil {
			return fmt.Errorf("node: left by a process that was killed: %w", err)
		}
	}
	return nil
}

// removeCgroups removes the cgroups of containers, in each hierarchy, once the
// processes are out of them. Kubelet names no parent for them here, so they are
// in the one that containerd gives them.
func removeCgroups(ctx context.Context, ids []string) error {
	return poll.Until(ctx, patience, "cgroups are left", func(context.Context) error {
		for _, hierarchy := range []string{"", "*/"} { // of version 2, and of version 1
			parent := "/sys/fs/cgroup/" + hierarchy + containerdNamespace
			for _, id := range ids {
				if err := removeDirs(filepath.Join(parent, id, "*")); err != nil {
					return err
				}
				if err := removeDirs(filepath.Join(parent, id)); err != nil {
					return err
				}
			}
			_ = removeDirs(parent) // another containerd may have some in it
		}
		return nil
	})
}

// removeDirs removes the folders that match, and no files: a cgroup's go with it.
func removeDirs(pattern string) error {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, path := range paths {
		err := unix.Rmdir(path)
		if err != nil && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
