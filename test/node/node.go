//go:build linux

package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/poll"
	"github.com/crbridge/crbridge/test/process"
)

// Name is the node's name in the cluster.
const Name = "node"

// natsPort is the one that NATS has everywhere.
const natsPort = 4222

// Options change how a node runs. The zero value is a good default.
type Options struct {
	// APIServerFlags are added to the API server's flags. A flag that is given
	// twice has its last value.
	APIServerFlags []string

	// NATS are the options of the nats-server. Its host is the node's, and its
	// port 4222 by default.
	NATS controlplane.NATSOptions

	// LogDir gets the logs of all servers and pods; it must exist, and Close
	// leaves it alone. Default: a directory that Close removes.
	LogDir string

	// Progress is told what takes time. Default: nothing is told.
	Progress io.Writer
}

// Node is a running cluster of one node.
type Node struct {
	// The processes, for tests that stop, kill, pause and start them. Pods go on
	// while containerd or kubelet is down.
	*controlplane.ControlPlane
	ControllerManager, Scheduler *process.Process
	Containerd, Kubelet          *process.Process

	// NATS is a server beside the cluster, at an address that the pods reach. They
	// have the Service nats in the namespace nats for it as well.
	NATS *controlplane.NATSServer

	opts      Options
	files     files
	network   network
	folder    *folder
	remove    func() error // of the folder, and what is found by it
	dns       *dns
	init      *process.Process // process 1 of the namespaces of containerd and kubelet
	clientset *kubernetes.Clientset
	dynamic   *dynamic.DynamicClient
	mapper    *restmapper.DeferredDiscoveryRESTMapper

	close    sync.Once
	closeErr error
}

// Start starts a node, having built its parts if need be, and returns when it
// is ready to run pods. First it removes what nodes of killed processes have
// left behind. Ctx bounds the start only. The caller must Close what it gets.
func Start(ctx context.Context, opts Options) (_ *Node, err error) {
	if opts.Progress == nil {
		opts.Progress = io.Discard
	}
	began := time.Now()
	n := &Node{opts: opts}
	if n.files, err = findFiles(ctx, opts.Progress); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := n.claim(ctx); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"etcd, kube-apiserver and nats-server", n.startServers},
		{"kube-controller-manager and kube-scheduler", n.startControllers},
		{"containerd", n.startContainerd},
		{"kubelet", n.startKubelet},
		{"the node to be ready", n.waitReady},
	} {
		stepBegan := time.Now()
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("node: %s: %w", step.name, err)
		}
		n.tell("%s: %v", step.name, time.Since(stepBegan).Round(10*time.Millisecond))
	}
	n.tell("ready after %v; its logs are in %s", time.Since(began).Round(10*time.Millisecond), n.opts.LogDir)
	return n, nil
}

// claim makes the node's folder, its bridge and its name, which no other has.
func (n *Node) claim(ctx context.Context) (err error) {
	unlock, err := lockAll(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeLeftovers(ctx, n.opts.Progress); err != nil {
		return err
	}
	if n.folder, err = newFolder(); err != nil {
		return err
	}
	afterwards := context.WithoutCancel(ctx) // which bounds the start
	n.remove = func() error { return n.folder.remove(afterwards) }
	if n.opts.LogDir == "" {
		n.opts.LogDir = n.folder.path("logs")
		if err := os.Mkdir(n.opts.LogDir, 0o755); err != nil {
			return err
		}
	}
	n.network, err = newNetwork(ctx, n.folder.bridge())
	return err
}

func (n *Node) startServers(ctx context.Context) (err error) {
	n.ControlPlane, err = controlplane.Start(ctx, controlplane.Options{
		// What the Service `kubernetes` says to pods: the first address of the
		// range, which is the bridge's, and the port of https.
		Address: n.network.at(443),
		APIServerFlags: append([]string{
			"--service-cluster-ip-range=" + n.network.services.String(),
			"--endpoint-reconciler-type=lease",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged", // as in most clusters: a namespace's policy says who may not
			"--kubelet-preferred-address-types=InternalIP",
		}, n.opts.APIServerFlags...),
		Dir: n.folder.dir, LogDir: n.opts.LogDir, Progress: n.opts.Progress,
	})
	if err != nil {
		return err
	}
	if n.clientset, err = kubernetes.NewForConfig(n.Admin()); err != nil {
		return err
	}
	if n.dynamic, err = dynamic.NewForConfig(n.Admin()); err != nil {
		return err
	}
	n.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(n.clientset.Discovery()))
	if n.dns, err = startDNS(ctx, n.network.at(dnsPort), n.clientset); err != nil {
		return err
	}
	nats := n.opts.NATS
	nats.Host, nats.LogDir, nats.Progress = n.Host(), n.opts.LogDir, n.opts.Progress
	nats.Port = cmp.Or(nats.Port, natsPort)
	if n.NATS, err = controlplane.StartNATS(ctx, nats); err != nil {
		return err
	}
	return n.Apply(ctx, fmt.Appendf(nil, natsService, n.Host(), nats.Port))
}

// natsService makes the server known in the cluster by the name that the
// examples and the manifests have.
const natsService = `
apiVersion: v1
kind: Namespace
metadata: {name: nats}
---
apiVersion: v1
kind: Service
metadata: {name: nats, namespace: nats}
spec:
  ports: [{name: client, port: %[2]d}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: nats
  namespace: nats
  labels: {kubernetes.io/service-name: nats, endpointslice.kubernetes.io/managed-by: crbridge-test}
addressType: IPv4
ports: [{name: client, port: %[2]d}]
endpoints: [{addresses: ["%[1]s"]}]
`

// waitReady waits until the node takes pods, and until a pod can be made: the
// controller manager makes the service account of a namespace.
func (n *Node) waitReady(ctx context.Context) error {
	return poll.Until(ctx, patience, "node not ready", func(ctx context.Context) error {
		node, err := n.clientset.CoreV1().Nodes().Get(ctx, Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return errors.New(condition.Message)
			}
		}
		if len(node.Spec.Taints) > 0 {
			return fmt.Errorf("tainted: %v", node.Spec.Taints)
		}
		_, err = n.clientset.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// Host returns the IP address of the machine that the pods reach.
func (n *Node) Host() string { return n.network.bridge.Addr().String() }

// Dir returns the node's folder, which Close removes. Its name is in all that the
// node has on the machine. Tests may put into it what pods use.
func (n *Node) Dir() string { return n.folder.dir }

// LogDir returns where the logs of the servers and, below pods, of the pods are.
func (n *Node) LogDir() string { return n.opts.LogDir }

// Clientset returns a client that may do everything.
func (n *Node) Clientset() *kubernetes.Clientset { return n.clientset }

// Dynamic returns a client that may do everything, with objects of any kind.
func (n *Node) Dynamic() *dynamic.DynamicClient { return n.dynamic }

// Close ends the cluster at once, with all that runs in it, and removes every
// trace. It may be called more than once.
func (n *Node) Close() error {
	n.close.Do(func() {
		var errs []error
		for _, p := range []*process.Process{n.Kubelet, n.Containerd, n.init, n.ControllerManager, n.Scheduler} {
			if p != nil {
				p.Kill()
			}
		}
		if n.dns != nil {
			errs = append(errs, n.dns.close())
		}
		if n.NATS != nil {
			errs = append(errs, n.NATS.Close())
		}
		if n.ControlPlane != nil {
			errs = append(errs, n.ControlPlane.Close())
		}
		if n.remove != nil {
			errs = append(errs, n.remove())
		}
		n.closeErr = errors.Join(errs...)
	})
	return n.closeErr
}

func (n *Node) tell(format string, args ...any) {
	fmt.Fprintf(n.opts.Progress, "node: "+format+"\n", args...)
}

// writeJSON writes what a server reads as its configuration.
func writeJSON(path string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// patience is how long a wait takes where the caller's context does not end it
// before.
const patience = 2 * time.Minute
