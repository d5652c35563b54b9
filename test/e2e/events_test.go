//go:build unix

package e2e_test

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/servers"
)

// pod is the one that a bridge is told to be; there need not be one.
type pod struct {
	name   string
	client kubernetes.Interface
}

func (w *world) pod(t *testing.T) *pod {
	t.Helper()
	client, err := kubernetes.NewForConfig(w.cp.Admin())
	if err != nil {
		t.Fatal(err)
	}
	return &pod{name: "crbridge-" + strings.ReplaceAll(w.kind.group, ".", "-"), client: client}
}

func (p *pod) env() []string { return []string{"POD_NAME=" + p.name, "POD_NAMESPACE=default"} }

// events are those about the pod that have the reason and say that, and how
// often they were.
func (p *pod) events(t *testing.T, reason, says string) (found []eventsv1.Event, often int) {
	t.Helper()
	all, err := p.client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all.Items {
		if e.Regarding.Name != p.name || e.Reason != reason || !strings.Contains(e.Note, says) {
			continue
		}
		found = append(found, e)
		if often++; e.Series != nil {
			often += int(e.Series.Count) - 1
		}
	}
	return found, often
}

// told waits until an Event was that often.
func (p *pod) told(t *testing.T, often int, reason, says string) []eventsv1.Event {
	t.Helper()
	var found []eventsv1.Event
	eventually(t, func() error {
		var n int
		if found, n = p.events(t, reason, says); n != often {
			return fmt.Errorf("%s that says %q was told %d times, not %d", reason, says, n, often)
		}
		return nil
	})
	return found
}

// TestEventOfOtherWords shows that the trouble of a flow is told as it is now,
// also where an Event told of it when it was another.
func TestEventOfOtherWords(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	p := w.pod(t)
	body := func(version string) string {
		return "routes:\n" + w.kind.route("test", "version: "+version) + natsConfig(w.nats)
	}
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: body("v8"), env: p.env()})
	p.told(t, 1, "FlowFailed", "v8")
	b.reload(t, body("v9"))
	p.told(t, 1, "FlowFailed", "v9")
	b.reload(t, body("v1"))
	p.told(t, 1, "FlowRecovered", "all is well again")
}

// TestEventsThatRepeat shows that what happens again is one Event, which says
// how often it was, and from when on: also when the bridge ends after that.
func TestEventsThatRepeat(t *testing.T) {
	t.Parallel() // it waits, most of the time
	w := newWorld(t)
	w.kind.create(t)
	p := w.pod(t)
	b := startBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: "routes:\n" + w.kind.route("test") + natsConfig(w.nats), env: p.env()})
	b.waitState(t, w.kind.name, "test", "running")
	const often = 3
	for n := range often {
		if err := w.nats.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		found := p.told(t, n+1, "SinkNotConnected", "connection refused")
		if len(found) != 1 {
			t.Errorf("%d Events say the same", len(found))
		}
		if err := w.nats.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.told(t, n+1, "SinkRecovered", "sink main takes events again")
	}
	kubectl, err := servers.Path(t.Context(), servers.Kubectl, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	printed := printedBy(t, kubectl, "--kubeconfig", w.cp.AdminKubeconfig(), "-n", "default", "events", "--for", "pod/"+p.name)
	if line := regexp.MustCompile(fmt.Sprintf(`\(x%d over \S+\) +Warning +SinkNotConnected `, often)); len(line.FindAllString(printed, -1)) != 1 {
		t.Errorf("kubectl does not show it once, as %s:\n%s", line, printed)
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, n := p.events(t, "SinkNotConnected", "connection refused"); n != often {
		t.Errorf("after its end it was told %d times, not %d", n, often)
	}
}

// TestEventsWhileGone shows that what is wrong while the API server does not
// answer is told when it does, and then that it is over.
func TestEventsWhileGone(t *testing.T) {
	t.Parallel() // it waits, most of the time
	cp := controlplane.ForTest(t, controlplane.Options{})
	server := controlplane.NATSForTest(t, controlplane.NATSOptions{})
	w := &world{cp: cp, kind: newKind(t, cp.Admin()), nats: server, stream: subscribe(t, server)}
	w.kind.create(t)
	p := w.pod(t)
	b := startBridge(t, config{kubeconfig: cp.AdminKubeconfig(), body: "routes:\n" + w.kind.route("test") + natsConfig(server), env: p.env()})
	b.waitState(t, w.kind.name, "test", "running")
	cp.APIServer.Kill()
	eventually(t, func() error {
		// By then an Event has been tried.
		if f := b.flow(t, w.kind.name, "test"); f.State != "failed" || time.Since(f.Since) < 10*time.Second {
			return fmt.Errorf("the flow is %s since %v", f.State, f.Since)
		}
		return nil
	})
	if err := cp.APIServer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.told(t, 1, "FlowFailed", "connection refused")
	p.told(t, 1, "FlowRecovered", "all is well again")
}

// TestEndsAreEvents shows that a bridge which cannot start says why on its pod
// before it ends.
func TestEndsAreEvents(t *testing.T) {
	t.Parallel() // it waits, most of the time
	for _, row := range []struct {
		why, body    string
		taken        bool // the server's address is somebody else's
		reason, says string
	}{
		{why: "a bad file", body: "nonsense: true\n", reason: "ConfigurationRejected", says: "nonsense"},
		{why: "a Lease without a place", body: "leaderElection: {enabled: true}\n", reason: "ConfigurationRejected", says: "leaderElection.namespace"},
		{why: "an address that is taken", taken: true, reason: "BridgeEnded", says: "server.address"},
	} {
		t.Run(row.why, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := w.pod(t)
			b := newBridge(t, config{kubeconfig: w.cp.AdminKubeconfig(), body: row.body + "routes:\n" + w.kind.route("test") + natsConfig(w.nats), env: p.env()})
			if row.taken {
				listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", strings.TrimPrefix(b.server, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer listener.Close()
			}
			if err := b.Start(t.Context()); err == nil {
				t.Fatal("the bridge starts")
			}
			<-b.Exited()
			if found, _ := p.events(t, row.reason, row.says); len(found) != 1 {
				t.Errorf("%d Events say so; the log:\n%s", len(found), b.log(t))
			}
		})
	}
}
