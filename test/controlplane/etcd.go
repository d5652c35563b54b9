//go:build unix

package controlplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/crbridge/crbridge/test/process"
)

// etcd listens on Unix sockets in the control plane's directory: no port to
// lose while it is down, and nobody else on the machine gets in.
func etcdEndpoint(dir string) string { return "unix://" + etcdSocket(dir) }
func etcdSocket(dir string) string   { return filepath.Join(dir, "etcd.sock") }

func newEtcd(path, dir string, opts Options) *process.Process {
	peer := "unix://" + filepath.Join(dir, "etcd-peer.sock")
	args := []string{
		"--name=crbridge",
		"--data-dir=" + etcdDir(dir),
		"--listen-client-urls=" + etcdEndpoint(dir),
		"--advertise-client-urls=" + etcdEndpoint(dir),
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=crbridge=" + peer,
		"--unsafe-no-fsync",
		"--log-level=warn",
	}
	return process.New(process.Command{
		Name:    "etcd",
		Path:    path,
		Args:    append(args, opts.EtcdFlags...),
		LogFile: filepath.Join(opts.LogDir, "etcd.log"),
		Ready:   etcdHealth(etcdSocket(dir)),
	})
}

// etcdHealth returns a check that etcd has a leader and takes writes.
func etcdHealth(socket string) func(context.Context) error {
	client := &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, "unix", socket)
			},
		},
	}
	return func(ctx context.Context) error { return getOK(ctx, client, "http://etcd/health") }
}

// getOK returns nil if url answers with status 200.
func getOK(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	_ = resp.Body.Close()
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return nil
}
