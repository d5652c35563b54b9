//go:build browser && unix

package browser_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/crbridge/crbridge/test/controlplane"
)

// accessible has axe-core look for what keeps people from using the page.
func (tb *tab) accessible() {
	tb.t.Helper()
	script, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		tb.t.Fatalf("axe-core is not there; make test-browser installs it: %v", err)
	}
	// By the debugger, which the page's policy does not concern.
	get[bool](tb, string(script)+"; true")
	answer := get[string](tb, `axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify({
		rules: r.passes.length,
		violations: r.violations.map(v => v.id + ": " + v.help + ": " + v.nodes.map(n => n.html + " (" + n.failureSummary + ")").slice(0, 3).join("; "))}))`)
	var result struct {
		Rules      int
		Violations []string
	}
	if err := json.Unmarshal([]byte(answer), &result); err != nil {
		tb.t.Fatal(err)
	}
	if result.Rules < 20 {
		tb.t.Errorf("axe-core has passed %d rules only", result.Rules)
	}
	for _, v := range result.Violations {
		tb.t.Errorf("not accessible: %s", v)
	}
	if wide := get[int](tb, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); wide > 0 {
		tb.t.Errorf("the page is %d px wider than the screen", wide)
	}
}

// shop is a bridge as people have it: some flows that run and are busy, one
// that is forbidden, and one that waits.
type shop struct {
	*bridge
	nats  *controlplane.NATSServer
	kinds []*kind
}

func openShop(t *testing.T) *shop {
	t.Helper()
	cp := shared.Get(t)
	s := &shop{nats: controlplane.NATSForTest(t, controlplane.NATSOptions{})}
	const g, other = "shop.example.com", "pay.example.com"
	names := func(kinds []*kind) (all []string) {
		for _, k := range kinds {
			all = append(all, k.name())
		}
		return all
	}
	for _, plural := range []string{"orders", "customers", "invoices", "shipments", "carts"} {
		k := newKind(t, plural, g)
		k.create(t)
		s.kinds = append(s.kinds, k)
	}
	refunds, returns := newKind(t, "refunds", other), newKind(t, "returns", g)
	refunds.create(t)
	account, err := cp.ServiceAccount(t.Context(), "crbridge-system", "crbridge", []rbacv1.PolicyRule{readCRDs, readAll(g)})
	if err != nil {
		t.Fatal(err)
	}
	s.bridge = startBridge(t, account.Kubeconfig, "routes:\n"+route("shop", append(names(s.kinds), returns.name())...)+
		route("audit", names(s.kinds[:2])...)+route("payments", refunds.name())+sinkTo(s.nats))
	return s
}

// sell makes the flows busy until it is told to stop.
func (s *shop) sell(t *testing.T, stop <-chan struct{}) {
	for n := int64(0); ; n++ {
		for i, k := range s.kinds[:4] {
			if n%int64(1+3*i) == 0 {
				k.put(t, fmt.Sprintf("%s-%d", strings.TrimSuffix(k.plural, "s"), 1000+n%17), n, nil)
			}
		}
		select {
		case <-time.After(time.Duration(40+200*(n/60%3)) * time.Millisecond):
		case <-stop:
			return
		}
	}
}

// TestAccessible looks at each page, with each screen, well and in trouble.
// Its pictures are artifacts (go test -artifacts).
func TestAccessible(t *testing.T) {
	s := openShop(t)
	look := func(when string) {
		for _, screen := range []screen{light, dark, narrow} {
			for _, path := range []string{"/", "/events"} {
				tb := open(t, s.url+path, screen)
				if path == "/" {
					tb.waitState("refunds.pay.example.com", "forbidden")
					tb.click("details.todo:not([hidden]) summary")
				} else {
					s.kinds[0].put(t, "order-1", time.Now().UnixNano(), nil)
					if when == "well" {
						tb.until(`document.querySelector(".events tbody tr")`)
					}
				}
				tb.screenshot(filepath.Join(t.ArtifactDir(), fmt.Sprintf("%s%s-%s.png", when, strings.ReplaceAll(path, "/", "-"), screen.name)), true)
				tb.accessible()
			}
		}
	}
	look("well")
	if err := s.nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	look("trouble")
}

// TestScreenshots makes the pictures of the README, where SCREENSHOTS says.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		t.Skip("SCREENSHOTS does not name a directory: make screenshots does")
	}
	s := openShop(t)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		s.sell(t, stop)
	}()
	defer func() {
		close(stop)
		<-done
	}()
	tabs := map[string]*tab{}
	for _, screen := range []screen{light, dark, narrow} {
		tabs["status-"+screen.name] = open(t, s.url+"/", screen)
	}
	tabs["events-light"] = open(t, s.url+"/events", light)
	for name, tb := range tabs {
		if strings.HasPrefix(name, "status") {
			// Until the charts are about full.
			tb.untilWithin(6*time.Minute, `[...document.querySelectorAll(".rate path")].some(p => (p.getAttribute("d") || "").split("v").length > 45)`)
		}
	}
	for name, tb := range tabs {
		tb.screenshot(filepath.Join(dir, name+".png"), false)
	}
}
