//go:build unix

package chart_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestInstallIsRendered shows that deploy/install.yaml and configuration.yaml are
// what the chart makes: the second the configuration and the rights that follow
// from it, the first all the rest.
func TestInstallIsRendered(t *testing.T) {
	made := t.TempDir()
	if _, err := command(t, "", "../../hack/manifests", made, helmPath, chart); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{install, example} {
		there, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rendered, err := os.ReadFile(filepath.Join(made, filepath.Base(file)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(there), string(rendered)); diff != "" {
			t.Errorf("%s: run make chart (-there +rendered):\n%s", file, diff)
		}
		for _, object := range read(t, file) {
			yours := object.GetKind() == "ConfigMap" || object.GroupVersionKind().Group == rbacv1.GroupName
			if yours != (file == example) {
				t.Errorf("%s has the %s %s", file, object.GetKind(), object.GetName())
			}
		}
	}
}

// TestNothing shows that a default can be taken away, which Helm does with null.
func TestNothing(t *testing.T) {
	t.Parallel()
	mustRender(t, "crbridge", "crbridge-system", `
podLabels: null
podAnnotations: null
service: {annotations: null}
serviceMonitor: {enabled: true, labels: null}
`+external)
}

// TestRepeated shows that what the values repeat of the chart's own labels and
// annotations is there once, and who has the say.
func TestRepeated(t *testing.T) {
	t.Parallel()
	objects := mustRender(t, "crbridge", "crbridge-system", `
podLabels: {app.kubernetes.io/name: other, team: shop}
podAnnotations: {crbridge.dev/needs-restart: never, kubectl.kubernetes.io/default-container: proxy, team: shop}
service: {annotations: {prometheus.io/port: "9999", prometheus.io/scrape: "true"}}
serviceMonitor: {enabled: true, labels: {app.kubernetes.io/instance: prometheus}}
`+external)
	pod := podOf(t, only(t, objects, "Deployment"))
	for _, row := range []struct{ why, got, want string }{
		{"by it the Deployment finds its pods", pod.GetLabels()["app.kubernetes.io/name"], "crbridge"},
		{"another label", pod.GetLabels()["team"], "shop"},
		{"another annotation", pod.GetAnnotations()["team"], "shop"},
		{"a container that something else puts into the pod", pod.GetAnnotations()["kubectl.kubernetes.io/default-container"], "proxy"},
		{"a port in front of the bridge's", only(t, objects, "Service").GetAnnotations()["prometheus.io/port"], "9999"},
		{"by it a Prometheus chooses", only(t, objects, "ServiceMonitor").GetLabels()["app.kubernetes.io/instance"], "prometheus"},
	} {
		if row.got != row.want {
			t.Errorf("%s: %q, not %q", row.why, row.got, row.want)
		}
	}
	if pod.GetAnnotations()["crbridge.dev/needs-restart"] == "never" {
		t.Error("a changed configuration would not replace the pods")
	}
}

// TestResizePolicy shows that it is there where the API server keeps it: an older
// one drops the field, and what is there is never what was applied.
func TestResizePolicy(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"1.29.0": false, "v1.32.9-gke.100": false, "1.33.0": true, "v1.33.1-eks-1": true} {
		pod := podOf(t, only(t, mustRender(t, "crbridge", "crbridge-system", external, "--kube-version", version), "Deployment"))
		containers, _, err := unstructured.NestedSlice(pod.Object, "spec", "containers")
		if err != nil || len(containers) != 1 {
			t.Fatalf("%d containers: %v", len(containers), err)
		}
		if _, got := containers[0].(map[string]any)["resizePolicy"]; got != want {
			t.Errorf("Kubernetes %s: resizePolicy is there: %v, not %v", version, got, want)
		}
	}
}

// TestServicesLeadToThePod shows that each Service leads to the pod whether it is
// ready or not: a bridge that waits for the API server is not, and its metrics and
// its NATS server are wanted then as well.
func TestServicesLeadToThePod(t *testing.T) {
	t.Parallel()
	services := 0
	for _, mode := range modes {
		if mode.name != "embedded" {
			continue
		}
		for _, object := range mustRender(t, mode.name, "crbridge-system", mode.values) {
			if object.GetKind() != "Service" {
				continue
			}
			services++
			if always, _, _ := unstructured.NestedBool(object.Object, "spec", "publishNotReadyAddresses"); !always {
				t.Errorf("Service %s leads to a pod that is ready only", object.GetName())
			}
		}
	}
	if services != 2 {
		t.Errorf("%d Services, not 2", services)
	}
}

// TestValuesAreInTheSchema shows that values.yaml has what the schema says is
// the default, and nothing that the schema does not have.
func TestValuesAreInTheSchema(t *testing.T) {
	type schema struct {
		Ref        string `json:"$ref"`
		Default    any
		Properties map[string]schema
	}
	var root schema
	content, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &root); err != nil {
		t.Fatal(err)
	}
	var defaults func(s schema) any
	defaults = func(s schema) any {
		if len(s.Properties) == 0 {
			return s.Default
		}
		all := map[string]any{}
		for name, s := range s.Properties {
			if s.Ref == "" && name != "global" {
				all[name] = defaults(s)
			}
		}
		return all
	}
	var values map[string]any
	if content, err = os.ReadFile(filepath.Join(chart, "values.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	delete(values, "config") // its schema is the bridge's
	if diff := cmp.Diff(defaults(root), any(values)); diff != "" {
		t.Errorf("values.yaml (-defaults of values.schema.json +there):\n%s", diff)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	const sinks = "sinks: {main: {nats: {url: 'nats://nats:4222', jetstream: {stream: K8S}}}}"
	const routes = "routes: [{name: orders, crds: [orders.shop.example.com], sinks: [main]}]"
	good := "cluster: demo, " + routes + ", " + sinks
	embedded := func(dir string) string {
		return "cluster: demo, " + routes + ", sinks: {main: {nats: {embedded: {dir: " + dir + "}, jetstream: {stream: K8S}}}}"
	}
	for _, row := range []struct{ why, values, want string }{
		{"a configuration that is missing", "{}", "at '/config': missing properties 'cluster', 'routes', 'sinks'"},
		{"a key that there is not", "config: {" + good + ", healht: {}}", "at '/config': additional properties 'healht' not allowed"},
		{"a key of a route", "config: {cluster: demo, " + sinks + ", routes: [{name: orders, crd: [a], sinks: [main]}]}", "at '/config/routes/0': additional properties 'crd' not allowed"},
		{"a value that there is not", "config: {" + good + ", log: {level: loud}}", "at '/config/log/level': value must be one of"},
		{"a value of the chart that there is not", "replica: 1\nconfig: {" + good + "}", "at '': additional properties 'replica' not allowed"},
		{"a digest that is none", "image: {digest: latest}\nconfig: {" + good + "}", "at '/image/digest': 'latest' does not match pattern"},
		{"a size that is none", "persistence: {size: 12 GB}\nconfig: {" + good + "}", "at '/persistence/size': '12 GB' does not match pattern"},
		{"several servers in one URL", "config: {cluster: demo, " + routes + ", sinks: {main: {nats: {url: 'nats://a:4222,nats://b:4333', jetstream: {stream: K8S}}}}}", "config.sinks.main.nats.url: a comma in the URL; several servers are a list: [nats://a:4222, nats://b:4222]"},
		{"several that do not elect", "config: {" + good + ", leaderElection: {enabled: false}}", "at '/config/leaderElection/enabled': value must be true"},
		{"election, with a server that is one bridge's", "replicas: 1\nconfig: {" + embedded("/var/lib/crbridge") + ", leaderElection: {enabled: true}}", "at '/config/leaderElection/enabled': value must be false"},
		{"several, each with a server of its own", "config: {" + embedded("/var/lib/crbridge") + "}", "at '/replicas': maximum: got 2, want 1"},
		{"a server whose streams are nowhere", "replicas: 1\nconfig: {" + embedded("/var/lib/crbridge2") + "}", `config.sinks.main.nats.embedded.dir: "/var/lib/crbridge2": is not in persistence.mountPath, /var/lib/crbridge, and would be gone with the pod`},
		{"a server whose streams climb out", "replicas: 1\nconfig: {" + embedded("/var/lib/crbridge/../x") + "}", `is not in persistence.mountPath`},
		{"a wildcard", "config: {cluster: demo, " + sinks + ", routes: [{name: a, crds: [orders.shop.example.com], sinks: [main]}, {name: all, crds: ['*.shop.example.com'], sinks: [main]}]}", `config.routes[1].crds: "*.shop.example.com": which CRDs that means only the cluster knows. Give the rules for them in rbac.rules`},
		{"metrics for some, on the probes' port", "networkPolicy: {metricsFrom: [{podSelector: {}}]}\nconfig: {cluster: demo, server: {address: ':9000'}, health: {address: ':9000'}, " + routes + ", sinks: {main: {stdout: {}}}}", "networkPolicy.metricsFrom: probes have to reach port 9000 from anywhere, and metrics are on it too"},
		{"a name that no object can have", "fullnameOverride: Bad_Name\nconfig: {cluster: demo, " + routes + ", sinks: {main: {stdout: {}}}}", "fullnameOverride"},
		{"a Secret that is not mounted", "config: {cluster: demo, " + routes + ", sinks: {main: {nats: {url: 'nats://nats:4222', auth: {credentialsFile: /etc/crbridge/secrets/nats/creds}}}}}", "config.sinks: /etc/crbridge/secrets/nats: Secret nats is not mounted; add it to secrets"},
		{"probes that do not arrive", "config: {" + good + ", health: {address: '127.0.0.1:8081'}}", `config.health.address: "127.0.0.1:8081": the kubelet's probes come from outside of the pod; leave the host out`},
		{"a port that is not known", "config: {" + good + ", server: {address: ':0'}}", `config.server.address: ":0": a pod's ports have to be known; write another than 0`},
		{"metrics that nobody reaches", "serviceMonitor: {enabled: true}\nconfig: {" + good + ", server: {address: '127.0.0.1:8080'}}", `serviceMonitor.enabled: true: nobody reaches config.server.address, "127.0.0.1:8080", from outside of the pod`},
	} {
		t.Run(row.why, func(t *testing.T) {
			t.Parallel()
			_, err := render(t, "crbridge", "crbridge-system", row.values)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("error %v, not %q", err, row.want)
			}
		})
	}
}

// TestServiceMonitor shows that it is one for the Prometheus operator's own
// types, and selects the Service of the metrics.
func TestServiceMonitor(t *testing.T) {
	t.Parallel()
	objects := mustRender(t, "crbridge", "crbridge-system", `
serviceMonitor: {enabled: true, labels: {release: prometheus}}
config: {cluster: demo, routes: [{name: orders, crds: [orders.shop.example.com], sinks: [out]}], sinks: {out: {stdout: {}}}}`)
	content, err := json.Marshal(only(t, objects, "ServiceMonitor"))
	if err != nil {
		t.Fatal(err)
	}
	var monitor monitoringv1.ServiceMonitor
	if err := yaml.UnmarshalStrict(content, &monitor); err != nil {
		t.Fatal(err)
	}
	service := only(t, objects, "Service")
	for key, value := range monitor.Spec.Selector.MatchLabels {
		if service.GetLabels()[key] != value {
			t.Errorf("the Service has no label %s: %s", key, value)
		}
	}
	if e := monitor.Spec.Endpoints; len(e) != 1 || e[0].Port != "http" || e[0].Path != "/metrics" || e[0].Interval != "30s" {
		t.Errorf("endpoints %+v", e)
	}
	if monitor.Labels["release"] != "prometheus" {
		t.Errorf("labels %v", monitor.Labels)
	}
}
