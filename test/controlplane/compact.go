//go:build unix

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Compact makes etcd forget what it had before its present revision. The API
// server still has it in its caches, until it is started again.
func (cp *ControlPlane) Compact(ctx context.Context) (err error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{cp.EtcdEndpoint()}, Logger: zap.NewNop(), Context: ctx})
	if err != nil {
		return fmt.Errorf("etcd client: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	now, err := client.Get(ctx, "revision") // any key's answer has it
	if err != nil {
		return fmt.Errorf("etcd's revision: %w", err)
	}
	_, err = client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact etcd at revision %d: %w", now.Header.Revision, err)
	}
	return nil
}

// EtcdDir is where etcd keeps its data, for tests that put an earlier state
// back while it is stopped.
func (cp *ControlPlane) EtcdDir() string { return etcdDir(cp.dir) }

func etcdDir(dir string) string { return filepath.Join(dir, "etcd") }
