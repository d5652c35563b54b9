//go:build unix

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/crbridge/crbridge/test/poll"
	"github.com/crbridge/crbridge/test/process"
	"github.com/crbridge/crbridge/test/servers"
)

// patience bounds a wait where the caller's context does not.
const patience = time.Minute

// Options change how a control plane runs. The zero value is a good default.
type Options struct {
	// APIServerFlags and EtcdFlags are added to the servers' flags. A flag
	// that is given twice has its last value.
	APIServerFlags []string
	EtcdFlags      []string

	// Address is where the API server listens, IP and port. Default: a free port
	// of 127.0.0.1.
	Address string

	// Dir is where the control plane makes a directory of its own, which Close
	// removes. Default: where temporary files are.
	Dir string

	// LogDir gets the servers' logs, kube-apiserver.log and etcd.log; it must
	// exist, and Close leaves it alone. Default: a directory that Close removes.
	LogDir string

	// Progress is told of builds of the servers, which take minutes the first
	// time. Default: nothing is told.
	Progress io.Writer
}

// ControlPlane is a running kube-apiserver with its etcd.
type ControlPlane struct {
	// APIServer and Etcd are the processes, for tests that stop, kill, pause
	// and start them. Each keeps its address and its data, in all of that.
	APIServer, Etcd *process.Process

	dir        string
	creds      *credentials
	admin      *rest.Config
	kubeconfig string
	client     *kubernetes.Clientset // as admin
	flags      []string              // of API servers, besides the usual ones

	close    sync.Once
	closeErr error
}

// Start starts etcd and kube-apiserver, having built them if need be, and
// returns when the API server is ready and the namespace default exists. Ctx
// bounds the start only. The caller must Close what it gets.
//
// RBAC is on; service accounts and their tokens work. The servers' data is not
// synced to disk: it survives their restart and their being killed, not a crash
// of the machine.
func Start(ctx context.Context, opts Options) (_ *ControlPlane, err error) {
	etcd, err := servers.Path(ctx, servers.Etcd, opts.Progress)
	if err != nil {
		return nil, err
	}
	apiServer, err := servers.Path(ctx, servers.KubeAPIServer, opts.Progress)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opts.Dir, "crbridge-")
	if err != nil {
		return nil, err
	}
	cp := &ControlPlane{dir: dir, flags: opts.APIServerFlags}
	defer func() {
		if err != nil {
			err = errors.Join(err, cp.Close())
		}
	}()
	if opts.LogDir == "" {
		opts.LogDir = dir
	}
	host := "127.0.0.1"
	if opts.Address != "" {
		if host, _, err = net.SplitHostPort(opts.Address); err != nil {
			return nil, fmt.Errorf("address of the API server: %w", err)
		}
	}
	if cp.creds, err = newCredentials(dir, host); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}

	cp.Etcd = newEtcd(etcd, dir, opts)
	if err := cp.Etcd.Start(ctx); err != nil {
		return nil, err
	}
	start := func(address string) error {
		cp.admin = cp.creds.config(address, cp.creds.admin)
		if cp.client, err = kubernetes.NewForConfig(cp.admin); err != nil {
			return err
		}
		cp.APIServer = newAPIServer(apiServer, dir, address, cp.client, opts)
		return cp.APIServer.Start(ctx)
	}
	if opts.Address != "" {
		err = start(opts.Address)
	} else {
		err = onFreePort(ctx, func(port int) error { return start(loopback(port)) })
	}
	if err != nil {
		return nil, err
	}
	cp.kubeconfig = filepath.Join(dir, "admin.kubeconfig")
	return cp, writeKubeconfig(cp.kubeconfig, cp.admin)
}

// Admin returns a configuration for a client that may do everything and is not
// throttled. The caller may change it.
func (cp *ControlPlane) Admin() *rest.Config { return rest.CopyConfig(cp.admin) }

// AdminKubeconfig returns the path of a kubeconfig with the same rights.
func (cp *ControlPlane) AdminKubeconfig() string { return cp.kubeconfig }

// Address returns where the API server listens, host:port.
func (cp *ControlPlane) Address() string { return strings.TrimPrefix(cp.admin.Host, "https://") }

// EtcdEndpoint returns etcd's client endpoint, a Unix socket.
func (cp *ControlPlane) EtcdEndpoint() string { return etcdEndpoint(cp.dir) }

// WaitReady waits until the API server is ready, for a test that has started
// etcd again: the API server takes a while to notice.
func (cp *ControlPlane) WaitReady(ctx context.Context) error {
	return poll.Until(ctx, patience, "API server not ready", func(ctx context.Context) error {
		return apiServerReady(ctx, cp.client)
	})
}

// Close kills the servers, waits until they are gone and removes their data. It
// may be called more than once.
func (cp *ControlPlane) Close() error {
	cp.close.Do(func() {
		for _, p := range []*process.Process{cp.APIServer, cp.Etcd} {
			if p != nil {
				p.Kill()
			}
		}
		cp.closeErr = os.RemoveAll(cp.dir)
	})
	return cp.closeErr
}
