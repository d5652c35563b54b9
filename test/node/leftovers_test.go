//go:build linux && cluster

package node_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/crbridge/crbridge/test/node"
)

// childEnv makes TestNothingIsLeft the child that it starts: one with a node and a
// pod, which prints the node's folder and waits to be ended.
const childEnv = "CRBRIDGE_TEST_NODE_CHILD"

func runChild(t *testing.T) {
	t.Helper()
	n := shared.Get(t)
	importVisitor(t, n)
	if err := n.Apply(t.Context(), visitor("child")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.WaitPods(t.Context(), "child", "app=visitor", 1); err != nil {
		t.Fatal(err)
	}
	fmt.Println("folder:", n.Dir())
	select {}
}

// TestNothingIsLeft: a process with a node is ended while a pod runs. What the
// node had on the machine is gone with it; where it could do nothing any more,
// the processes and their mounts are, and the next start removes the rest.
func TestNothingIsLeft(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		runChild(t)
	}
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		leaves bool
	}{
		{"interrupted, as by Ctrl-C", syscall.SIGINT, false},
		{"killed", syscall.SIGKILL, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			child := exec.Command(os.Args[0], "-test.run", "^TestNothingIsLeft$", "-test.v")
			child.Env = append(os.Environ(), childEnv+"=yes")
			child.Stderr = os.Stderr
			folder := startChild(t, child)
			mark := strings.TrimPrefix(filepath.Base(folder), "crbridge-node-")
			// Of the pod, one that holds its namespaces and the visitor.
			containers, err := filepath.Glob(folder + "/state/io.containerd.runtime.v2.task/k8s.io/*")
			if err != nil || len(containers) != 2 {
				t.Fatalf("containers %v, %v", containers, err)
			}
			marks := []string{mark, filepath.Base(containers[0]), filepath.Base(containers[1])}
			if found := traces(t, marks); len(found["processes"]) == 0 || len(found["links"]) == 0 || len(found["cgroups"]) == 0 {
				t.Fatalf("a node that runs leaves no trace: %v", found)
			}

			if err := child.Process.Signal(test.signal); err != nil {
				t.Fatal(err)
			}
			_ = child.Wait()
			if !test.leaves {
				if found := traces(t, marks); len(found) > 0 {
					t.Errorf("left: %v", found)
				}
				return
			}
			eventually(t, "processes or mounts are left", func() bool {
				found := traces(t, marks)
				return len(found["processes"])+len(found["mounts"]) == 0
			})
			var progress strings.Builder
			if err := node.RemoveLeftovers(t.Context(), &progress); err != nil {
				t.Fatal(err)
			}
			if found := traces(t, marks); len(found) > 0 || !strings.Contains(progress.String(), folder) {
				t.Errorf("left: %v; was told %q", found, progress.String())
			}
		})
	}
}

// startChild starts the child and returns its node's folder once its pod runs.
func startChild(t *testing.T, child *exec.Cmd) (folder string) {
	t.Helper()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() })
	var printed strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if folder, found := strings.CutPrefix(lines.Text(), "folder: "); found {
			return folder
		}
		fmt.Fprintln(&printed, lines.Text())
	}
	t.Fatalf("the child ended:\n%s", printed.String())
	return ""
}

// traces returns what there is of a node on this machine: marks are its number
// and the ids of its containers.
func traces(t *testing.T, marks []string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	look := func(kind, pattern string) {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) > 0 {
			found[kind] = append(found[kind], paths...)
		}
	}
	look("folders", filepath.Join(os.TempDir(), "crbridge-node-"+marks[0]))
	look("links", "/sys/class/net/crb"+marks[0])
	for _, id := range marks[1:] {
		look("cgroups", "/sys/fs/cgroup/*/k8s.io/"+id)
		look("cgroups", "/sys/fs/cgroup/k8s.io/"+id)
		look("networks", "/var/lib/cni/results/*"+id+"*")
		look("logs", "/var/log/containers/*"+id+"*")
		look("shims", "/run/containerd/*/k8s.io/"+id)
	}
	marked := func(content []byte) bool {
		return slices.ContainsFunc(marks, func(mark string) bool { return bytes.Contains(content, []byte(mark)) })
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(mounts) {
		if marked(line) {
			found["mounts"] = append(found["mounts"], string(line))
		}
	}
	// The servers' command lines have the folder's name, the pods' cgroups their
	// ids. A process may just have ended, and has neither then.
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		commandLine, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if marked(commandLine) || marked(cgroup) {
			found["processes"] = append(found["processes"], string(bytes.ReplaceAll(commandLine, []byte{0}, []byte{' '})))
		}
	}
	return found
}
