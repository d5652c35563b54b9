//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	rbacv1 "k8s.io/api/rbac/v1"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/crbridge/crbridge/test/controlplane"
)

// validateCluster runs `bridge validate --cluster`, and returns its exit status
// and what it printed.
func validateCluster(t *testing.T, kubeconfig, body string) (status int, stdout, stderr string) {
	t.Helper()
	b := newBridge(t, config{kubeconfig: kubeconfig, body: body})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, bridgePath, "validate", "--config", b.config, "--cluster", "--kubeconfig", kubeconfig)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if exit, is := errors.AsType[*exec.ExitError](err); is {
		status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return status, out.String(), errs.String()
}

// TestValidateCluster shows what is said of each thing that can be wrong, and
// that nothing is changed by looking.
func TestValidateCluster(t *testing.T) {
	w := newWorld(t)
	k := w.kind
	k.create(t, "v1", "v2")
	k.update(t, func(crd *apiextensions.CustomResourceDefinition) {
		v := &crd.Spec.Versions[0]
		v.Schema.OpenAPIV3Schema.Properties = map[string]apiextensions.JSONSchemaProps{"spec": {
			Type: "object", XPreserveUnknownFields: new(true), Properties: map[string]apiextensions.JSONSchemaProps{"color": {Type: "string"}},
		}}
		v.SelectableFields = []apiextensions.SelectableField{{JSONPath: ".spec.color"}}
	})
	scoped := newKind(t, w.cp.Admin())
	scoped.scope = apiextensions.ClusterScoped
	scoped.create(t)
	little, err := w.cp.ServiceAccount(t.Context(), "default", "validate", []rbacv1.PolicyRule{
		{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{k.group}, Resources: []string{"widgets"}, Verbs: []string{"list"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	locked := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: `authorization {user: u, password: p}`})
	small := controlplane.NATSForTest(t, controlplane.NATSOptions{Config: "max_payload: 65536"})
	unfit := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	_, err = subscribe(t, unfit).js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "K8S", Subjects: []string{"other.>"}})
	if err != nil {
		t.Fatal(err)
	}
	taken := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	_, err = subscribe(t, taken).js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"k8s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	admin := w.cp.AdminKubeconfig()
	misspelt := strings.Replace(k.name, "widgets", "widgetz", 1)
	for _, row := range []struct {
		why        string
		kubeconfig string
		body       string
		status     int
		want       []string // in a line of the table, with spaces made one
	}{
		{"all is well", admin, "routes:\n" + k.route("test") + natsConfig(w.nats), 0, []string{
			"ok route test " + k.name + " version v1 is served", "ok route test " + k.name + " list, watch: allowed in the whole cluster",
			"ok sink main connection connected to", "ok sink main stream K8S does not exist yet; the bridge creates it",
		}},
		{"a CRD that is misspelt", admin, "routes:\n" + strings.ReplaceAll(k.route("test"), k.name, misspelt) + natsConfig(w.nats), 0, []string{
			"warning route test " + misspelt + " there is no such CRD yet; the flow starts when it is created; did you mean " + k.name + "?",
		}},
		{"a version that is not served", admin, "routes:\n" + k.route("test", "version: v3") + natsConfig(w.nats), 1, []string{
			"WRONG route test " + k.name + " version v3 of " + k.name + " is not served; served are: v2, v1",
		}},
		{"a field that can be selected by", admin, "routes:\n" + k.route("test", "fieldSelector: spec.color=red") + natsConfig(w.nats), 0, nil},
		{"one that cannot", admin, "routes:\n" + k.route("test", "fieldSelector: spec.size=1") + natsConfig(w.nats), 1, []string{
			"WRONG route test " + k.name + " fieldSelector: version v1 does not have spec.size among its selectableFields",
		}},
		{"one that cannot in that version", admin, "routes:\n" + k.route("test", "fieldSelector: spec.color=red", "version: v2") + natsConfig(w.nats), 1, []string{
			"fieldSelector: version v2 does not have spec.color",
		}},
		{"namespaces of what has none", admin, "routes:\n" + scoped.route("test", "namespaces: [default]") + natsConfig(w.nats), 1, []string{
			"WRONG route test " + scoped.name + " it is cluster-scoped, and the route selects namespaces",
		}},
		{"a right that is missing", little.Kubeconfig, "routes:\n" + k.route("test") + natsConfig(w.nats), 1, []string{
			"WRONG route test " + k.name + " watch: not allowed in the whole cluster; grant {apiGroups: [\"" + k.group + "\"], resources: [\"widgets\"], verbs: [list, watch]}",
		}},
		{"in a namespace", little.Kubeconfig, "routes:\n" + k.route("test", "namespaces: [default]") + natsConfig(w.nats), 1, []string{
			"watch: not allowed in namespace default",
		}},
		{"a lease that may not be held", little.Kubeconfig, "leaderElection: {enabled: true, namespace: default}\nroutes:\n" + k.route("test") + natsConfig(w.nats), 1, []string{
			"WRONG cluster lease crbridge get, update: not allowed in namespace default",
		}},
		{"a wildcard: each that it means", admin, "routes:\n  - {name: test, crds: ['*." + k.group + "'], sinks: [main]}\n" + natsConfig(w.nats), 0, []string{
			"ok route test " + k.name + " version v1 is served",
		}},
		{"a wildcard that means nothing yet", admin, "routes:\n  - {name: test, crds: ['*.nothing.example.com'], sinks: [main]}\n" + natsConfig(w.nats), 0, []string{
			"warning route test *.nothing.example.com no CRD matches",
		}},
		{"no API server", "/nowhere", "routes:\n" + k.route("test") + natsConfig(w.nats), 1, []string{
			"WRONG cluster API server", "ok sink main connection",
		}},
		{"no NATS", admin, "routes:\n" + k.route("test") + "sinks: {main: {nats: {url: 'nats://127.0.0.1:1', jetstream: {stream: K8S}}}}\n", 1, []string{
			"WRONG sink main connection no server can be reached: dial 127.0.0.1:1: connection refused",
		}},
		{"NATS that wants to know who it is", admin, "routes:\n" + k.route("test") + natsConfig(locked), 1, []string{
			"WRONG sink main connection the server refuses",
		}},
		{"a stream that does not fit", admin, "routes:\n" + k.route("test") + natsConfig(unfit), 1, []string{
			"WRONG sink main stream K8S does not fit: subjects are [other.>], needed is k8s.*.*.*.*.*",
		}},
		{"subjects that another stream has", admin, "routes:\n" + k.route("test") + natsConfig(taken), 1, []string{
			"WRONG sink main stream K8S it does not exist and cannot be created: stream OTHER has subjects of",
		}},
		{"small messages", admin, "routes:\n" + k.route("test") + natsConfig(small), 0, []string{
			"warning sink main max_payload 65536 bytes: an object may be larger",
		}},
		{"core NATS", admin, "routes:\n" + k.route("test") + "sinks: {main: {nats: {url: '" + w.nats.URL() + "'}}}\n", 0, []string{
			"warning sink main stream none is configured",
		}},
	} {
		t.Run(row.why, func(t *testing.T) {
			status, stdout, stderr := validateCluster(t, row.kubeconfig, row.body)
			if status != row.status || (status != 0) != strings.Contains(stderr, "checks found something wrong") {
				t.Errorf("status %d, not %d: %s", status, row.status, stderr)
			}
			table := spaces(stdout)
			for _, want := range row.want {
				if !strings.Contains(table, want) {
					t.Errorf("%q is not in\n%s", want, stdout)
				}
			}
			if bad := strings.Contains(table, "WRONG"); bad != (row.status != 0) {
				t.Errorf("status %d with\n%s", status, stdout)
			}
		})
	}
	if _, err := w.stream.js.Stream(t.Context(), "K8S"); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("by looking a stream has come: %v", err)
	}
	if status, _, stderr := validateCluster(t, admin, "routes: []\n"); status != 2 || !strings.Contains(stderr, "routes") {
		t.Errorf("a bad file: status %d, %s", status, stderr)
	}
}

// spaces makes each run of spaces one.
func spaces(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}
