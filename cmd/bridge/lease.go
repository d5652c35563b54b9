package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/sources"
)

// leaseEvery is how often a standby looks who leads, for its status: the
// manager, which looks more often, does not tell.
const leaseEvery = 5 * time.Second

// lease knows who leads while this bridge does not.
type lease struct {
	leases  coordinationclient.LeaseInterface
	name    string
	leading func() bool
	holder  atomic.Pointer[string]
}

func newLease(c config.LeaderElection, cluster sources.Cluster, leading func() bool) (*lease, error) {
	client, err := coordinationclient.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for the Lease: %w", err)
	}
	namespace := c.Namespace
	if namespace == "" {
		content, err := os.ReadFile(podNamespace) // which checkElection has found
		if err != nil {
			return nil, fmt.Errorf("namespace of the Lease: %w", err)
		}
		namespace = strings.TrimSpace(string(content))
	}
	return &lease{leases: client.Leases(namespace), name: c.Name, leading: leading}, nil
}

// leader names the bridge that leads, by its host or pod; empty where that is
// not known.
func (l *lease) leader() string {
	if holder := l.holder.Load(); holder != nil {
		return *holder
	}
	return ""
}

// follow looks who leads until ctx is done.
func (l *lease) follow(ctx context.Context) {
	ticker := time.NewTicker(leaseEvery)
	defer ticker.Stop()
	for {
		if !l.leading() {
			l.look(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *lease) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaseEvery)
	defer cancel()
	holder := ""
	if found, err := l.leases.Get(ctx, l.name, metav1.GetOptions{}); err == nil && found.Spec.HolderIdentity != nil {
		holder, _, _ = strings.Cut(*found.Spec.HolderIdentity, "_") // controller-runtime: host and a uid
	}
	l.holder.Store(&holder)
}
