//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/crbridge/crbridge/test/servers"
)

// files are the executables that a node is made of.
type files struct {
	kubelet, controllerManager, scheduler, kubectl string
	containerd, ctr, ip                            string
}

// systemPath is where executables of the system's packages are, also where a
// user's PATH leaves them out.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cniPlugins is where Debian's containernetworking-plugins has them.
const cniPlugins = "/usr/lib/cni"

// findFiles finds what the machine must have, and builds the rest if need be.
func findFiles(ctx context.Context, progress io.Writer) (files, error) {
	var f files
	if os.Geteuid() != 0 {
		return f, errors.New("node: root is needed: containerd and kubelet make mounts, namespaces and network links")
	}
	var missing []string
	find := func(name string) string {
		for _, dir := range filepath.SplitList(systemPath) {
			path := filepath.Join(dir, name)
			if _, err := exec.LookPath(path); err == nil {
				return path
			}
		}
		missing = append(missing, name)
		return ""
	}
	f.containerd, f.ctr, f.ip = find("containerd"), find("ctr"), find("ip")
	for _, name := range []string{"containerd-shim-runc-v2", "runc", "mount", "umount"} {
		find(name)
	}
	for _, name := range []string{"bridge", "host-local", "loopback"} {
		path := filepath.Join(cniPlugins, name)
		if _, err := exec.LookPath(path); err != nil {
			missing = append(missing, path)
		}
	}
	if len(missing) > 0 {
		return f, fmt.Errorf("node: not on this machine: %s: `make node-packages` installs what is needed", strings.Join(missing, ", "))
	}
	built, err := servers.Paths(ctx, progress, servers.Kubelet, servers.KubeControllerManager, servers.KubeScheduler, servers.Kubectl)
	if err != nil {
		return f, err
	}
	f.kubelet, f.controllerManager, f.scheduler, f.kubectl = built[0], built[1], built[2], built[3]
	return f, nil
}
