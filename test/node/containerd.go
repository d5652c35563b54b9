//go:build linux

package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/crbridge/crbridge/test/process"
	"github.com/crbridge/crbridge/test/servers"
)

// pauseImage is what holds the namespaces of each pod: the program that is
// process 1 of the node.
const pauseImage = "crbridge.test/pause:1"

// containerdNamespace is that of all images and containers of Kubernetes.
const containerdNamespace = "k8s.io"

func (n *Node) containerdSocket() string { return n.folder.path("containerd.sock") }

// startContainerd starts process 1 of the node's namespaces, containerd below
// it, and gives it the pause image.
func (n *Node) startContainerd(ctx context.Context) error {
	program := n.folder.path("init")
	if err := servers.BuildProgram(ctx, program, "node/init", nil); err != nil {
		return err
	}
	n.init = process.New(process.Command{
		Name: "init", Path: program, Args: []string{n.folder.dir}, Isolated: true,
		LogFile: n.log("init.log"),
		Ready: func(context.Context) error {
			_, err := os.Stat(n.folder.path("ready"))
			return err
		},
	})
	if err := n.init.Start(ctx); err != nil {
		return err
	}
	if err := writeJSON(n.folder.path("cni", "10-crbridge.conflist"), n.cniConfig()); err != nil {
		return err
	}
	snapshotter, err := snapshotter(n.folder.dir)
	if err != nil {
		return err
	}
	config := n.folder.path("containerd.toml")
	if err := os.WriteFile(config, n.containerdConfig(snapshotter), 0o600); err != nil {
		return err
	}
	n.Containerd = process.New(process.Command{
		Name: "containerd", Path: n.files.containerd, Args: []string{"--config", config}, Inside: n.init,
		Env:     []string{"PATH=" + systemPath},
		LogFile: n.log("containerd.log"),
		Ready: func(ctx context.Context) error {
			_, err := n.ctr(ctx, "version")
			return err
		},
	})
	if err := n.Containerd.Start(ctx); err != nil {
		return err
	}
	archive := n.folder.path("pause.tar")
	if err := ProgramImage(archive, program); err != nil {
		return err
	}
	return n.Import(ctx, archive, pauseImage)
}

// RestartContainerd stops containerd and starts it again. Pods run on meanwhile.
func (n *Node) RestartContainerd(ctx context.Context) error { return n.Containerd.Restart(ctx) }

// Import gives the node an image from an OCI archive, as one of that name. Pods
// take it with imagePullPolicy Never or IfNotPresent.
func (n *Node) Import(ctx context.Context, archive, name string) error {
	if _, err := n.ctr(ctx, "--namespace", containerdNamespace, "images", "import", "--index-name", name, archive); err != nil {
		return fmt.Errorf("import %s as %s: %w", archive, name, err)
	}
	return nil
}

func (n *Node) ctr(ctx context.Context, args ...string) ([]byte, error) {
	return output(ctx, n.files.ctr, append([]string{"--address", n.containerdSocket()}, args...)...)
}

func (n *Node) log(name string) string { return filepath.Join(n.opts.LogDir, name) }

func (n *Node) containerdConfig(snapshotter string) []byte {
	return fmt.Appendf(nil, `version = 2
root = %q
state = %q

[grpc]
  address = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  # Without CAP_SYS_RESOURCE nobody may lower it.
  restrict_oom_score_adj = true
  disable_tcp_service = true
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`, n.folder.path("containerd"), n.folder.path("state"), n.containerdSocket(), pauseImage,
		cniPlugins, n.folder.path("cni"), snapshotter)
}

// cniConfig puts pods on the bridge. The bridge plugin would give the bridge an
// address and have the machine forward packets; it has one, and shall not.
func (n *Node) cniConfig() any {
	return map[string]any{
		"cniVersion": "0.4.0",
		"name":       n.network.link,
		"plugins": []any{map[string]any{
			"type":   "bridge",
			"bridge": n.network.link,
			"ipam": map[string]any{
				"type": "host-local",
				"ranges": []any{[]any{map[string]any{
					"subnet":     n.network.bridge.Masked().String(),
					"rangeStart": n.network.pods[0].String(),
					"rangeEnd":   n.network.pods[1].String(),
				}}},
			},
		}},
	}
}

// snapshotter returns how containerd is to stack layers in dir: where that is
// itself on an overlay, as in a container, another cannot be put on top.
func snapshotter(dir string) (string, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return "", fmt.Errorf("statfs %s: %w", dir, err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native", nil
	}
	return "overlayfs", nil
}
