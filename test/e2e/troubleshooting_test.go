//go:build unix

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/servers"
)

// mistake is one that a person makes with a bridge for orders.shop.example.com.
type mistake struct {
	name   string
	route  string // the routes; default: one for the orders
	server controlplane.NATSOptions
	sinks  func(m *made) string // default: a stream on the server
	less   func(*rights)        // what is missing of the rights
	// before is done before the bridge starts, and after when it runs.
	before, after func(t *testing.T, m *made)
	event         string   // the reason of the Event that is waited for; where there is none, no bridge runs
	show          []string // what of it is in the document
}

// made is a mistake that was made.
type made struct {
	*bridge
	*operator
	name      string
	namespace string
	account   string // the bridge's kubeconfig
	server    *controlplane.NATSServer
	dir       string // of files with secrets
	body      string
}

// operator is one who looks, with kubectl.
type operator struct {
	cp      *controlplane.ControlPlane
	client  kubernetes.Interface
	orders  *kind
	kubectl string
	page    *page
}

// ownPod is the name of each bridge's pod.
const ownPod = "crbridge-7d4b9c5f6d-x2k4q"

const ordersRoute = "  - {name: orders, crds: [orders.shop.example.com], sinks: [main]}\n"

// selected is a route for a mistake's own orders.
func selected(mistake string) string {
	return "  - {name: orders, crds: [orders.shop.example.com], labelSelector: made=" + mistake + ", sinks: [main]}\n"
}

var mistakes = []mistake{
	{name: "forbidden", event: "FlowForbidden", show: []string{"events", "describe", "log", "status", "validate"}, less: func(r *rights) {
		for i := range r.clusterRoles {
			r.clusterRoles[i].Rules = r.clusterRoles[i].Rules[:1] // that for CRDs
		}
	}},
	{
		name: "misspelt", event: "FlowWaiting", show: []string{"events", "waiting", "validate"},
		route: "  - {name: orders, crds: [order.shop.example.com], sinks: [main]}\n",
	},
	{
		name: "unreachable", event: "SinkNotConnected", show: []string{"events", "log", "validate"},
		sinks: func(*made) string {
			return "sinks: {main: {nats: {url: 'nats://127.0.0.1:1', jetstream: {stream: K8S}}}}\n"
		},
	},
	{
		name: "credentials", event: "SinkNotConnected", show: []string{"events", "log", "validate"},
		server: controlplane.NATSOptions{Config: "authorization {user: bridge, password: right}"},
		before: func(t *testing.T, m *made) {
			write(t, map[string]string{m.dir + "/user": "bridge", m.dir + "/password": "wrong"})
		},
		sinks: func(m *made) string {
			return fmt.Sprintf("sinks: {main: {nats: {url: %q, auth: {userFile: %q, passwordFile: %q}, jetstream: {stream: K8S}}}}\n",
				m.server.URL(), m.dir+"/user", m.dir+"/password")
		},
	},
	{name: "unfit", event: "SinkBlocked", show: []string{"events", "log", "validate"}, before: withStream(jetstream.StreamConfig{
		Name: "K8S", Subjects: []string{"kubernetes.>"}, Retention: jetstream.WorkQueuePolicy,
	})},
	{name: "overlap", event: "SinkBlocked", show: []string{"events", "validate"}, before: withStream(jetstream.StreamConfig{
		Name: "OTHER", Subjects: []string{"k8s.>"},
	})},
	{
		name: "jetstream", event: "SinkBlocked", show: []string{"events", "validate"},
		server: controlplane.NATSOptions{Config: "accounts {PLAIN: {users: [{user: plain, password: plain}]}}\nno_auth_user: plain"},
	},
	{
		name: "full", route: selected("full"), event: "SinkBlocked", show: []string{"events", "log"},
		before: withStream(jetstream.StreamConfig{
			Name: "K8S", Subjects: []string{"k8s.>", "crbridge.K8S.>"}, Discard: jetstream.DiscardNew, MaxBytes: 16 << 10, AllowAtomicPublish: true,
		}),
		after: func(t *testing.T, m *made) {
			m.waitState(t, "orders.shop.example.com", "orders", "running")
			m.order(t, strings.Repeat("x", 16<<10))
		},
	},
	{
		name: "toolarge", route: selected("toolarge"), event: "FlowDegraded", show: []string{"events", "log", "validate"},
		server: controlplane.NATSOptions{Config: "max_payload: 4096"},
		after: func(t *testing.T, m *made) {
			m.waitState(t, "orders.shop.example.com", "orders", "running")
			m.order(t, strings.Repeat("x", 8000))
		},
	},
	{
		name: "version", event: "FlowFailed", show: []string{"events", "validate"},
		route: "  - {name: orders, crds: [orders.shop.example.com], version: v2, sinks: [main]}\n",
	},
	{
		name: "fieldselector", event: "FlowFailed", show: []string{"events", "validate"},
		route: "  - {name: orders, crds: [orders.shop.example.com], fieldSelector: spec.state=paid, sinks: [main]}\n",
	},
	{
		name: "namespaces", show: []string{"validate-as-admin"},
		route: "  - {name: orders, crds: [orders.shop.example.com], namespaces: [defaults], sinks: [main]}\n",
	},
	{
		name: "configuration", event: "ConfigurationRejected", show: []string{"events", "log"},
		after: func(t *testing.T, m *made) {
			m.rewrite(t, strings.Replace(m.body, "sinks: [main]", "sinks: [main], labelSelektor: a=b", 1))
		},
	},
	{
		name: "second", event: "BridgeEnded", show: []string{"events", "log"},
		after: func(t *testing.T, m *made) {
			m.waitState(t, "orders.shop.example.com", "orders", "running")
			startBridge(t, config{kubeconfig: m.cp.AdminKubeconfig(), body: m.body})
			<-m.Exited()
		},
	},
}

// TestTroubleshooting makes the mistakes of docs/troubleshooting.md, and shows
// that what the document says an operator sees is what there is to be seen.
func TestTroubleshooting(t *testing.T) {
	slow(t)
	kubectl, err := servers.Path(t.Context(), servers.Kubectl, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	// A control plane of its own: no other test's CRDs are there.
	o := &operator{cp: controlplane.ForTest(t, controlplane.Options{}), kubectl: kubectl, page: readPage(t)}
	if o.client, err = kubernetes.NewForConfig(o.cp.Admin()); err != nil {
		t.Fatal(err)
	}
	o.orders = newKind(t, o.cp.Admin())
	o.orders.group, o.orders.name, o.orders.plural = "shop.example.com", "orders.shop.example.com", "orders"
	o.orders.create(t)
	t.Run("mistakes", func(t *testing.T) {
		for i := range mistakes {
			t.Run(mistakes[i].name, func(t *testing.T) {
				t.Parallel() // it waits, most of the time
				o.make(t, &mistakes[i])
			})
		}
	})
	o.page.done(t)
}

// order creates an object that only the mistake's route selects.
func (m *made) order(t *testing.T, comment string) {
	t.Helper()
	_, err := m.orders.objects().Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": m.orders.apiVersion(), "kind": "Widget",
		"metadata": map[string]any{"name": m.name, "labels": map[string]any{"made": m.name}}, "spec": map[string]any{"comment": comment},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func withStream(c jetstream.StreamConfig) func(*testing.T, *made) {
	return func(t *testing.T, m *made) {
		t.Helper()
		if _, err := subscribe(t, m.server).js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

// make makes a mistake, and compares what there is to be seen of it.
func (o *operator) make(t *testing.T, what *mistake) {
	t.Helper()
	m := &made{operator: o, name: what.name, namespace: "bridge-" + what.name, dir: t.TempDir(), server: controlplane.NATSForTest(t, what.server)}
	if what.before != nil {
		what.before(t, m)
	}
	route := what.route
	if route == "" {
		route = ordersRoute
	}
	sinks := natsConfig(m.server)
	if what.sinks != nil {
		sinks = what.sinks(m)
	}
	m.body = "routes:\n" + route + sinks
	sa, err := o.cp.ServiceAccount(t.Context(), m.namespace, m.namespace, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.account = sa.Kubeconfig
	m.bridge = newBridge(t, config{kubeconfig: m.account, body: m.body, env: []string{
		"POD_NAME=" + ownPod, "POD_NAMESPACE=" + m.namespace, "POD_UID=" + o.pod(t, m.namespace),
	}})
	if what.event != "" {
		m.run(t, what)
	}
	for _, show := range what.show {
		command, printed := m.see(t, show)
		o.page.output(t, what.name+"/"+show, command, m.asDocumented(printed))
	}
}

// run starts the bridge, does what follows, and waits for the Event.
func (m *made) run(t *testing.T, what *mistake) {
	t.Helper()
	granted := printedRights(t, m.config, m.cp.AdminKubeconfig(), m.namespace, m.namespace)
	if what.less != nil {
		what.less(granted)
	}
	granted.apply(t, m.client)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if what.after != nil {
		what.after(t, m)
	}
	eventually(t, func() error {
		if _, events := m.see(t, "events"); !strings.Contains(events, what.event) {
			return fmt.Errorf("no Event says %s:\n%s", what.event, events)
		}
		return nil
	})
}

// pod creates the bridge's pod, which no node runs, and returns its uid.
func (o *operator) pod(t *testing.T, namespace string) string {
	t.Helper()
	if _, err := o.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod, err := o.client.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: ownPod}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "bridge", Image: "bridge"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return string(pod.UID)
}

// see is a command that an operator gives, and what it prints.
func (m *made) see(t *testing.T, what string) (command, printed string) {
	t.Helper()
	kubectl := func(args ...string) string {
		return printedBy(t, m.kubectl, append([]string{"--kubeconfig", m.cp.AdminKubeconfig(), "-n", m.namespace}, args...)...)
	}
	switch what {
	case "events":
		return "kubectl -n crbridge-system get events", kubectl("get", "events")
	case "describe":
		whole := kubectl("describe", "pod", ownPod)
		return "kubectl -n crbridge-system describe pod " + ownPod + " | sed -n '/^Events/,$p'", whole[strings.Index(whole, "\nEvents:")+1:]
	case "log":
		// What kubectl logs prints is what the process has written.
		return "kubectl -n crbridge-system logs " + ownPod + " | grep -v level=INFO", lines(m.log(t), func(line string) bool { return !strings.Contains(line, "level=INFO") })
	case "waiting":
		return "kubectl -n crbridge-system logs " + ownPod + " | grep state=waiting", lines(m.log(t), func(line string) bool { return strings.Contains(line, "state=waiting") })
	case "status":
		_, body, err := get(t.Context(), m.bridge.server+"/api/status")
		if err != nil {
			t.Fatal(err)
		}
		var document struct{ Flows []json.RawMessage }
		if err := json.Unmarshal([]byte(body), &document); err != nil {
			t.Fatal(err)
		}
		// In the order of the document, as jq writes it.
		var flow struct {
			CRD    string `json:"crd"`
			State  string `json:"state"`
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal(document.Flows[0], &flow); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(flow); err != nil {
			t.Fatal(err)
		}
		return "curl -s http://localhost:8080/api/status | jq '.flows[] | {crd, state, reason}'", out.String()
	case "validate": // as the bridge itself
		return "kubectl -n crbridge-system exec deploy/crbridge -- /bridge validate --cluster --config /etc/crbridge/config.yaml | grep -v ^ok",
			m.validate(t, m.account)
	case "validate-as-admin":
		return "bridge validate --cluster --config config.yaml | grep -v ^ok", m.validate(t, m.cp.AdminKubeconfig())
	}
	t.Fatalf("what is %s?", what)
	return "", ""
}

// validate is what is not as it should be.
func (m *made) validate(t *testing.T, kubeconfig string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), bridgePath, "validate", "--cluster", "--config", m.config, "--kubeconfig", kubeconfig).Output()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	return lines(string(out), func(line string) bool { return !strings.HasPrefix(line, "ok ") })
}

// lines are those of a text that are wanted.
func lines(text string, wanted func(string) bool) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if wanted(line) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func printedBy(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// What differs from time to time, and what the document has for it.
var accidental = []struct {
	what *regexp.Regexp
	as   string
}{
	{regexp.MustCompile(`(time|since)=\S+`), "$1=2026-11-27T10:00:00.000Z"},
	{regexp.MustCompile(`(?m)^(\d+[smh])+ +(Warning|Normal)`), "12s         $2"},
	{regexp.MustCompile(`(?m)^(  (?:Warning|Normal)  \w+  )(\d+s|<unknown>|\d+s \(x\d+ over \d+s\)) *  `), "${1}12s   "},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:4222"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "9f3c1c5e-7f0b-4a65-9a3e-0d5f1b7c2e11"},
	{regexp.MustCompile(`(11\.)\d+(\.orders)`), "${1}1234$2"},
	{regexp.MustCompile(`(bytes=|it has )\d+`), "${1}9059"},
	{regexp.MustCompile(`another bridge \([^/]+/`), "another bridge (crbridge-6f5d8b9c7-p8wz4/"},
}

// asDocumented makes of what was seen what the document has.
func (m *made) asDocumented(text string) string {
	text = strings.ReplaceAll(text, "system:serviceaccount:"+m.namespace+":"+m.namespace, "system:serviceaccount:crbridge-system:crbridge")
	text = strings.ReplaceAll(text, m.namespace, "crbridge-system")
	text = strings.ReplaceAll(text, m.dir, "/etc/crbridge/secrets/nats")
	text = strings.ReplaceAll(text, m.config, "/etc/crbridge/config.yaml")
	for _, a := range accidental {
		text = a.what.ReplaceAllString(text, a.as)
	}
	var trimmed []string
	for line := range strings.Lines(text) {
		trimmed = append(trimmed, strings.TrimRight(line, " \n"))
	}
	return strings.Join(trimmed, "\n")
}
