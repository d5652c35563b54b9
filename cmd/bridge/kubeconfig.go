package main

import (
	"errors"
	"fmt"
	"net/http"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/crbridge/crbridge/pkg/sources"
)

// connect says how to reach the cluster: by the file, else as a pod in it,
// else by $KUBECONFIG, else by ~/.kube/config. It reaches for nothing yet.
func connect(kubeconfig string) (sources.Cluster, error) {
	config, err := restConfig(kubeconfig)
	if err != nil {
		return sources.Cluster{}, err
	}
	config.UserAgent = "crbridge/" + version
	// The API server's own priority and fairness paces requests; a limit here
	// would only make a thousand flows wait for each other.
	config.QPS = -1
	// Custom resources know only JSON; what protobuf there is (CRDs, metadata)
	// the typed clients ask for.
	var client *http.Client
	if client, err = rest.HTTPClientFor(config); err != nil {
		return sources.Cluster{}, fmt.Errorf("cluster credentials: %w", err)
	}
	return sources.Cluster{Config: config, HTTP: client}, nil
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		switch config, err := rest.InClusterConfig(); {
		case err == nil:
			return config, nil
		case !errors.Is(err, rest.ErrNotInCluster):
			return nil, fmt.Errorf("the pod's service account: %w", err)
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, usageError{errors.New("bridge: no cluster to connect to: not in a pod, and neither --kubeconfig, $KUBECONFIG nor ~/.kube/config names one")}
	case err != nil:
		return nil, usageError{fmt.Errorf("bridge: kubeconfig: %w", err)}
	}
	return config, nil
}
