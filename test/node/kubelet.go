//go:build linux

package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/crbridge/crbridge/test/process"
)

// The ports are those that the servers have everywhere; the bridge's address is
// the node's alone.
const (
	kubeletPort           = 10250
	kubeletHealthPort     = 10248
	controllerManagerPort = 10257
	schedulerPort         = 10259
)

func (n *Node) startControllers(ctx context.Context) error {
	manager, err := n.Kubeconfig("system:kube-controller-manager")
	if err != nil {
		return err
	}
	scheduler, err := n.Kubeconfig("system:kube-scheduler")
	if err != nil {
		return err
	}
	n.ControllerManager = n.controller("kube-controller-manager", n.files.controllerManager, controllerManagerPort,
		"--kubeconfig="+manager,
		"--service-account-private-key-file="+n.ServiceAccountKeyFile(),
		"--root-ca-file="+n.AuthorityFile(),
		"--use-service-account-credentials",
	)
	n.Scheduler = n.controller("kube-scheduler", n.files.scheduler, schedulerPort, "--kubeconfig="+scheduler)
	for _, p := range []*process.Process{n.ControllerManager, n.Scheduler} {
		if err := p.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) controller(name, path string, port int, flags ...string) *process.Process {
	return process.New(process.Command{
		Name: name, Path: path, LogFile: n.log(name + ".log"),
		Args: append([]string{
			"--bind-address=" + n.Host(),
			fmt.Sprintf("--secure-port=%d", port),
			"--cert-dir=" + n.folder.path(name),
			"--leader-elect=false",
		}, flags...),
		Ready: func(ctx context.Context) error { return n.healthy(ctx, "https://"+n.network.at(port)+"/healthz") },
	})
}

func (n *Node) startKubelet(ctx context.Context) error {
	kubeconfig, err := n.Kubeconfig("system:node:"+Name, "system:nodes")
	if err != nil {
		return err
	}
	serving, err := n.Authority().Server("system:node:"+Name, n.Host())
	if err != nil {
		return err
	}
	certFile, keyFile := n.folder.path("kubelet.crt"), n.folder.path("kubelet.key")
	for path, content := range map[string][]byte{certFile: serving.Cert, keyFile: serving.Key, n.folder.path("resolv.conf"): nil} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	config := n.folder.path("kubelet.json")
	if err := writeJSON(config, n.kubeletConfig(certFile, keyFile)); err != nil {
		return err
	}
	n.Kubelet = process.New(process.Command{
		Name: "kubelet", Path: n.files.kubelet, Inside: n.init, LogFile: n.log("kubelet.log"),
		Env: []string{"PATH=" + systemPath},
		Args: []string{
			"--config=" + config,
			"--kubeconfig=" + kubeconfig,
			"--root-dir=" + n.folder.path("kubelet"),
			"--cert-dir=" + n.folder.path("kubelet", "pki"),
			"--hostname-override=" + Name,
			"--node-ip=" + n.Host(),
		},
		Ready: func(ctx context.Context) error {
			return n.healthy(ctx, "http://"+n.network.at(kubeletHealthPort)+"/healthz")
		},
	})
	return n.Kubelet.Start(ctx)
}

func (n *Node) kubeletConfig(certFile, keyFile string) any {
	return map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"address":                  n.Host(),
		"port":                     kubeletPort,
		"healthzBindAddress":       n.Host(),
		"healthzPort":              kubeletHealthPort,
		"tlsCertFile":              certFile,
		"tlsPrivateKeyFile":        keyFile,
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": false}, "x509": map[string]any{"clientCAFile": n.AuthorityFile()}},
		"containerRuntimeEndpoint": "unix://" + n.containerdSocket(),
		"podLogsDir":               n.log("pods"),
		"volumePluginDir":          n.folder.path("volume-plugins"),
		"resolvConf":               n.folder.path("resolv.conf"),
		"clusterDNS":               []string{n.Host()},
		"clusterDomain":            clusterDomain,

		// Cgroups of either version, without systemd, and none besides those of
		// the containers.
		"failCgroupV1":           false,
		"cgroupDriver":           "cgroupfs",
		"cgroupsPerQOS":          false,
		"enforceNodeAllocatable": []string{},

		// The machine is not the node's: nothing is set in its kernel or in its
		// packet filter, and how full its disk is hardly matters. With isolation the
		// node has local storage that pods can ask for.
		"protectKernelDefaults":            true,
		"makeIPTablesUtilChains":           false,
		"failSwapOn":                       false,
		"localStorageCapacityIsolation":    true,
		"imageGCHighThresholdPercent":      100,
		"evictionHard":                     map[string]string{"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		"evictionPressureTransitionPeriod": "10s",

		// Tests wait for it.
		"configMapAndSecretChangeDetectionStrategy": "Watch",
		"syncFrequency": "2s",
	}
}

// healthy returns nil if url answers with status 200. Whose certificate it has
// is not looked at: some make their own.
func (n *Node) healthy(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
