package main

import (
	"errors"
	"fmt"
	"net/http"

	utilnet "k8s.io/apimachinery/pkg/util/net"
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
	config.UserAgent = "crbridge/" + thisBuild().version
	// The API server's own priority and fairness paces requests; a limit here
	// would only make a thousand flows wait for each other.
	config.QPS = -1
	dedicated := rest.CopyConfig(config)
	config.Wrap(boundWatches)
	// Custom resources know only JSON; what protobuf there is (CRDs, metadata)
	// the typed clients ask for.
	var client *http.Client
	if client, err = rest.HTTPClientFor(config); err != nil {
		return sources.Cluster{}, fmt.Errorf("cluster credentials: %w", err)
	}
	// A connection for each request, see sources.Cluster.
	dedicated.NextProtos = []string{"http/1.1"}
	dedicated.Wrap(closeAfterwards)
	var busy *http.Client
	if busy, err = rest.HTTPClientFor(dedicated); err != nil {
		return sources.Cluster{}, fmt.Errorf("cluster credentials: %w", err)
	}
	return sources.Cluster{Config: config, HTTP: client, Dedicated: busy}, nil
}

// watchBuffer is how much of a watch that is not read the HTTP/2 client holds.
// Go's own is 4 MiB, which hundreds of blocked flows cannot have each. It is
// what one round trip to the API server can carry: 25 MB/s at 10 ms. Of a
// dedicated connection the kernel holds more, up to net.ipv4.tcp_rmem (6 MiB where
// nobody has changed it), for as long as the watch is not closed. A smaller buffer
// is not asked for: with one the server sent nothing for seconds after a long pause.
const watchBuffer = 256 << 10

// boundWatches is given the transport before client-go wraps around it what
// authenticates, and before anything was sent.
func boundWatches(transport http.RoundTripper) http.RoundTripper {
	if t := baseTransport(transport); t != nil && t.HTTP2 == nil { // client-go gives one for equal configurations
		t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: watchBuffer}
	}
	return transport
}

// closeAfterwards has each connection carry one request. Like boundWatches it is
// given the transport first.
func closeAfterwards(transport http.RoundTripper) http.RoundTripper {
	if t := baseTransport(transport); t != nil && !t.DisableKeepAlives {
		t.DisableKeepAlives = true
	}
	return transport
}

// baseTransport is what requests go through in the end. client-go has wrapped
// it: what it is to forget when nobody uses it, and a CA that comes from a file
// and may change.
func baseTransport(transport http.RoundTripper) *http.Transport {
	for {
		wrapper, is := transport.(utilnet.RoundTripperWrapper)
		if !is {
			base, _ := transport.(*http.Transport)
			return base
		}
		transport = wrapper.WrappedRoundTripper()
	}
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
