// Package node runs a real Kubernetes cluster of one node on this machine:
// etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubelet,
// built from their Go modules, with the containerd, runc and CNI plugins that
// the machine has, and a nats-server beside the cluster. It needs Linux, root
// and the packages that `make node-packages` installs, and no systemd.
//
//	var shared node.Shared
//
//	func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }
//
//	func TestX(t *testing.T) {
//		n := shared.Get(t)
//		err := n.Import(t.Context(), "bridge.tar", "crbridge.test/bridge:1")
//		…
//		err = n.Apply(t.Context(), manifests)
//	}
//
// Containerd, kubelet and all pods are in a PID namespace and a mount namespace
// of the node, below its process 1: when that ends, by Close or because the
// test was killed, the kernel ends them all and takes their mounts and their
// network links with them. What is left of a killed test then, its folder, its
// bridge and empty cgroups, the next Start removes.
//
// What there is not: kube-proxy, so that of all Services only `kubernetes` has a
// cluster IP that answers (it is the bridge's address), while the names of the
// others lead to the pods behind them, at the pods' ports; NetworkPolicy; a way
// out of the node's network; image registries.
package node
