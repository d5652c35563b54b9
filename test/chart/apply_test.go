//go:build unix

package chart_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// modes are the ways to run the bridge that docs/deploy.md has, and the values'
// corners.
var modes = []struct{ name, why, values string }{
	{"single", "one that takes over from itself in a rollout", "replicas: 1\n" + external},
	{"available", "a leader and a standby", external},
	{"embedded", "a NATS server in the bridge, for the cluster", `
replicas: 1
secrets: [nats.users]
config:
  cluster: demo
  routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]
  sinks:
    main:
      nats:
        embedded: {dir: /var/lib/crbridge, address: ":4222", maxBytes: 10737418240}
        auth: {userFile: /etc/crbridge/secrets/nats.users/user, passwordFile: /etc/crbridge/secrets/nats.users/password}
        jetstream: {stream: K8S, maxBytes: 9663676416}
`},
	{"embedded-alone", "a NATS server in the bridge, for its own pod", `
replicas: 1
persistence: {existingClaim: mine, mountPath: /data}
config:
  cluster: demo
  routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]
  sinks: {main: {nats: {embedded: {dir: /data/nats}, jetstream: {stream: K8S}}}}
`},
	{"wildcard", "rules are given", `
rbac: {rules: [{apiGroups: [shop.example.com], resources: ['*'], verbs: [list, watch]}]}
config:
  cluster: demo
  routes: [{name: orders, crds: ['*.shop.example.com'], sinks: [main]}]
  sinks: {main: {nats: {url: [nats://a, 'tls://b:4333', 'nats://[::1]:4444'], jetstream: {stream: K8S}}}}
`},
	{"rights-apart", "what bridge rbac prints is applied by someone else", "rbac: {create: false}\n" + strings.Replace(external, "orders.shop.example.com", "'*'", 1)},
	{"no-policy", "a cluster without NetworkPolicies", "networkPolicy: {enabled: false}\n" + external},
	{"one-listener", "health and metrics on one port", external + "  server: {address: ':9000'}\n  health: {address: ':9000'}\n"},
	{"chosen", "whom it runs as the cluster says", "runAs: 0\nnetworkPolicy: {sinkPorts: [4223]}\n" + external},
	{"asked", "who reads metrics needs a token", external + "  server: {auth: kubernetes}\n"},
	{"loopback", "metrics for kubectl port-forward alone", external + "  server: {address: '127.0.0.1:8080'}\n"},
	{"all", "every value that has none by default", `
image: {digest: "sha256:0123456789012345678901234567890123456789012345678901234567890123", pullPolicy: Never}
imagePullSecrets: [{name: registry}]
secrets: [a, b.c]
env: [{name: BRIDGE__LOG__LEVEL, value: debug}]
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ca, readOnly: true}]
serviceAccount: {name: other, annotations: {example.com/a: b}}
service: {annotations: {}}
networkPolicy:
  apiServerPorts: [6443]
  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
  extraEgress: [{ports: [{protocol: TCP, port: 4223}]}]
resources: {limits: {memory: 1Gi}}
podAnnotations: {example.com/a: b}
podLabels: {example.com/a: b, app.kubernetes.io/name: other}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: a, operator: Exists}]
affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: a, operator: Exists}]}}]}}
priorityClassName: system-cluster-critical
fullnameOverride: another
` + external},
}

// external is a configuration with a NATS server outside of the bridge.
const external = `
config:
  cluster: demo
  routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]
  sinks: {main: {nats: {url: 'nats://nats.nats.svc:4222', jetstream: {stream: K8S}}}}
`

// TestModes shows for each way that the bridge takes its configuration, and the
// API server all objects, with every unknown field an error and every warning a
// failure; and a pod of them in a namespace under the restricted Pod Security
// Standard.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.why, func(t *testing.T) {
			t.Parallel()
			namespace := "mode-" + mode.name
			values := "createNamespace: true\n" + mode.values
			objects := mustRender(t, mode.name, namespace, values)
			if _, err := command(t, "", bridgePath, "validate", "--config", configuration(t, objects)); err != nil {
				t.Error(err)
			}
			accepted(t, objects)
		})
	}
}

// TestInstall has the API server judge deploy/install.yaml and configuration.yaml,
// as `kubectl apply` would.
func TestInstall(t *testing.T) {
	t.Parallel()
	objects := append(read(t, install), read(t, example)...)
	if first := objects[0].GetKind(); first != "Namespace" {
		t.Errorf("%s comes before the Namespace that it is in", first)
	}
	if _, err := command(t, "", bridgePath, "validate", "--config", configuration(t, objects)); err != nil {
		t.Error(err)
	}
	accepted(t, objects)

	t.Run("an upgrade leaves the user's configuration and rights", func(t *testing.T) {
		t.Parallel()
		c := newApplier(t)
		var changed []*unstructured.Unstructured
		for _, object := range read(t, example) {
			object.SetAnnotations(map[string]string{"example.com/changed": "by the user"})
			if object.GetKind() == "ConfigMap" {
				object.Object["data"] = map[string]any{"config.yaml": "the user's"}
			}
			if err := c.apply(t.Context(), object, false); err != nil {
				t.Fatal(err)
			}
			changed = append(changed, c.get(t, object))
		}
		for _, object := range read(t, install) {
			if err := c.apply(t.Context(), object, false); err != nil {
				t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
			}
		}
		for _, before := range changed {
			if diff := cmp.Diff(before, c.get(t, before)); diff != "" {
				t.Errorf("%s %s (-before +after):\n%s", before.GetKind(), before.GetName(), diff)
			}
		}
	})
	t.Run("what is not restricted is refused", func(t *testing.T) {
		t.Parallel()
		// Without this the absence of warnings would prove nothing.
		c := newApplier(t)
		deployment := only(t, objects, "Deployment").DeepCopy()
		unstructured.RemoveNestedField(deployment.Object, "spec", "template", "spec", "securityContext")
		if err := c.apply(t.Context(), deployment, true); err != nil {
			t.Fatal(err)
		}
		if got := c.warnings.take(); !slices.ContainsFunc(got, func(w string) bool {
			return strings.Contains(w, "would violate PodSecurity") && strings.Contains(w, "runAsNonRoot")
		}) {
			t.Errorf("warnings %q, none of them about runAsNonRoot", got)
		}
		deployment.SetName("other")
		if err := c.apply(t.Context(), podOf(t, deployment), true); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
			t.Errorf("a pod that is not restricted: %v", err)
		}
	})
}

// accepted applies the objects, and a pod that is made as theirs.
func accepted(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	c := newApplier(t)
	apply := func(object *unstructured.Unstructured) {
		t.Helper()
		if err := c.apply(t.Context(), object, false); err != nil {
			t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
		for _, warning := range c.warnings.take() {
			t.Errorf("%s %s: the API server warns: %s", object.GetKind(), object.GetName(), warning)
		}
	}
	pods := 0
	for _, object := range objects {
		switch object.GetKind() {
		case "Role", "RoleBinding":
			c.namespace(t, object.GetNamespace())
		case "Namespace":
			name := object.GetName()
			t.Cleanup(func() { c.deleteNamespace(t, name) })
		}
		apply(object)
		if kind := object.GetKind(); kind == "Deployment" || kind == "StatefulSet" {
			apply(podOf(t, object))
			pods++
		}
	}
	if pods != 1 {
		t.Errorf("%d workloads, not 1", pods)
	}
}

// podOf is a pod as the workload's controller would make it.
func podOf(t *testing.T, workload *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	template, found, err := unstructured.NestedMap(workload.Object, "spec", "template")
	if err != nil || !found {
		t.Fatalf("%s %s has no template: %v", workload.GetKind(), workload.GetName(), err)
	}
	pod := &unstructured.Unstructured{Object: template}
	pod.SetAPIVersion("v1")
	pod.SetKind("Pod")
	pod.SetNamespace(workload.GetNamespace())
	pod.SetName(workload.GetName() + "-0")
	return pod
}
