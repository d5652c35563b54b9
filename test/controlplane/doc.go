// Package controlplane runs a real Kubernetes API server with its etcd, and a
// real nats-server, as processes on loopback, for tests and for the demo.
//
// A control plane has no controllers and no nodes: a namespace that is deleted
// stays Terminating, owner references collect nothing, pods are never run. What
// the API server does by itself works as in any cluster: RBAC, service accounts
// with tokens, custom resources with schema, status, versions and finalizers,
// and the deletion of a CRD's instances with it.
//
// One control plane serves many tests: let each use an API group and a
// namespace of its own, and give a test that breaks servers its own control
// plane. See Shared and ForTest.
package controlplane
