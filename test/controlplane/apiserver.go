//go:build unix

package controlplane

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/crbridge/crbridge/test/process"
	"github.com/crbridge/crbridge/test/servers"
)

// probeTimeout bounds one question whether a server is ready: a paused server
// accepts connections and answers nothing.
const probeTimeout = 5 * time.Second

// APIServer is one more kube-apiserver of a control plane. It takes the same
// credentials, at an address of its own.
type APIServer struct {
	*process.Process
	port int
}

// Address is where it listens, host:port.
func (s *APIServer) Address() string { return loopback(s.port) }

// Close kills the server.
func (s *APIServer) Close() error {
	s.Kill()
	return nil
}

// StartAPIServer starts one more kube-apiserver, which reaches etcd at that
// endpoint: a proxy's that delays it, for example. It logs to logFile. Ctx
// bounds the start only.
func (cp *ControlPlane) StartAPIServer(ctx context.Context, etcd, logFile string) (s *APIServer, err error) {
	path, err := servers.Path(ctx, servers.KubeAPIServer, nil)
	if err != nil {
		return nil, err
	}
	err = onFreePort(ctx, func(port int) error {
		config := cp.Admin()
		config.Host = "https://" + loopback(port)
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		s = &APIServer{port: port}
		s.Process = apiServerProcess(path, cp.dir, loopback(port), client, etcd, logFile, cp.flags)
		return s.Start(ctx)
	})
	return s, err
}

func newAPIServer(path, dir, address string, client *kubernetes.Clientset, opts Options) *process.Process {
	return apiServerProcess(path, dir, address, client, etcdEndpoint(dir), filepath.Join(opts.LogDir, "kube-apiserver.log"), opts.APIServerFlags)
}

func apiServerProcess(path, dir, address string, client *kubernetes.Clientset, etcd, logFile string, flags []string) *process.Process {
	file := func(name string) string { return filepath.Join(dir, name) }
	host, port, _ := net.SplitHostPort(address) // which is made of the two
	args := []string{
		"--etcd-servers=" + etcd,
		"--bind-address=" + host,
		"--secure-port=" + port,
		"--advertise-address=" + host,
		// The Service kubernetes cannot have endpoints on loopback.
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.0.0.0/24",
		// Without it SIGTERM waits a minute for watches that nobody ends.
		"--shutdown-watch-termination-grace-period=5s",
		"--tls-cert-file=" + file(serverCertFile),
		"--tls-private-key-file=" + file(serverKeyFile),
		"--client-ca-file=" + file(authorityFile),
		"--kubelet-client-certificate=" + file(kubeletClientCertFile),
		"--kubelet-client-key=" + file(kubeletClientKeyFile),
		"--kubelet-certificate-authority=" + file(authorityFile),
		"--authorization-mode=Node,RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + file(serviceAccountKeyFile),
		"--service-account-key-file=" + file(serviceAccountPublicFile),
	}
	return process.New(process.Command{
		Name:    "kube-apiserver",
		Path:    path,
		Args:    append(args, flags...),
		LogFile: logFile,
		Ready:   func(ctx context.Context) error { return apiServerReady(ctx, client) },
	})
}

// apiServerReady returns nil once the API server is ready and has the namespace
// default, which it makes a moment later.
func apiServerReady(ctx context.Context, client *kubernetes.Clientset) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if body, err := client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		return fmt.Errorf("/readyz: %w %s", err, body)
	}
	_, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
	return err
}
