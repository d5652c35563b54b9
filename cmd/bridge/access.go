package main

import (
	"fmt"
	"log/slog"

	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/sources"
	"github.com/crbridge/crbridge/pkg/status"
)

// newAccess has the cluster say who may read, where the configuration wants
// that; nil where everyone may.
func newAccess(c *config.Config, cluster sources.Cluster, log *slog.Logger) (*status.Access, error) {
	if c.Server.Auth != config.AuthKubernetes {
		return nil, nil //nolint:nilnil // there is nobody to keep out
	}
	tokens, err := authenticationclient.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for token reviews: %w", err)
	}
	rights, err := authorizationclient.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for access reviews: %w", err)
	}
	return status.NewAccess(tokens.TokenReviews(), rights.SubjectAccessReviews(), log), nil
}
