// Package cluster has tests of the bridge in a cluster: its image, from the
// Dockerfile, deployed with the chart on a real node (package node), with NATS
// and a subscriber outside. They need what the node needs, and the images that
// `make e2e` builds.
package cluster
