//go:build browser && unix

package browser_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/crbridge/crbridge/test/controlplane"
)

var (
	readCRDs = rbacv1.PolicyRule{APIGroups: []string{"apiextensions.k8s.io"}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"get", "list", "watch"}}
	readAll  = func(group string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{"*"}, Verbs: []string{"list", "watch"}}
	}
)

// TestStatesChangeLive shows that the page, once loaded, follows what happens in
// the cluster and at the sink, and says what to do about it.
func TestStatesChangeLive(t *testing.T) {
	cp, nats := shared.Get(t), controlplane.NATSForTest(t, controlplane.NATSOptions{})
	g, secret := group(), group()
	orders, invoices, vault := newKind(t, "orders", g), newKind(t, "invoices", g), newKind(t, "vaults", secret)
	orders.create(t)
	vault.create(t)
	account, err := cp.ServiceAccount(t.Context(), "default", "page", []rbacv1.PolicyRule{readCRDs, readAll(g)})
	if err != nil {
		t.Fatal(err)
	}
	b := startBridge(t, account.Kubeconfig, "routes:\n"+route("shop", orders.name(), invoices.name())+route("secret", vault.name())+sinkTo(nats))
	tb := open(t, b.url+"/", light)
	get[bool](tb, `window.loaded = true`) // gone if the page is loaded anew
	tb.waitState(orders.name(), "running")
	tb.waitState(invoices.name(), "waiting")
	tb.waitState(vault.name(), "forbidden")
	tb.until(`document.querySelector("h1").textContent === "1 of 3 flows in trouble"`)
	if first := get[string](tb, `document.querySelector("[data-list=flows] .crd").textContent`); first != vault.name() {
		t.Errorf("the first flow is %s, and not the one in trouble", first)
	}
	yaml := get[string](tb, row(vault.name())+`.querySelector("[data-f=yaml]").textContent`)
	for _, part := range []string{"kind: ClusterRole\n", "- " + secret, "- vaults", "name: page", "namespace: default"} {
		if !strings.Contains(yaml, part) {
			t.Errorf("the role to apply has no %q in it:\n%s", part, yaml)
		}
	}

	invoices.create(t)
	tb.waitState(invoices.name(), "running")
	for i := range 3 {
		invoices.put(t, fmt.Sprint("i-", i), 1, nil)
	}
	tb.until(row(invoices.name()) + `.querySelector("[data-f=objects]").textContent === "3"`)
	if err := account.SetClusterRules(t.Context(), []rbacv1.PolicyRule{readCRDs, readAll(g), readAll(secret)}); err != nil {
		t.Fatal(err)
	}
	tb.waitState(vault.name(), "running")
	tb.until(`document.querySelector("h1").textContent === "All 3 flows are running"`)
	tb.until(row(vault.name()) + `.querySelector("details").hidden`)
	tb.until(row(invoices.name()) + `.querySelector(".rate path").getAttribute("d")?.includes("v-")`) // the chart shows the three

	if err := nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	invoices.put(t, "i-0", 2, nil)
	tb.waitState(invoices.name(), "blocked")
	tb.until(row(invoices.name()) + `.querySelector("[data-f=reason]").textContent.includes("connection refused")`)
	tb.until(`document.querySelector("[data-list=sinks] .state").textContent === "not connected"`)
	if err := nats.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	tb.waitState(invoices.name(), "running")
	tb.until(`document.querySelector("[data-list=sinks]").textContent.includes("100 MiB")`)

	invoices.remove(t)
	tb.waitState(invoices.name(), "waiting")
	if !get[bool](tb, `window.loaded === true`) {
		t.Error("the page was loaded anew")
	}

	// A bridge that ends, ends the page's stream at once, and the page says so
	// and finds the next one.
	tb.expected = "ERR_" // that the server is not there is told by the browser as well
	began := time.Now()
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("with a page open the bridge takes %v to end", took)
	}
	tb.until(`document.getElementById("live").dataset.state === "lost"`)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	tb.until(`document.getElementById("live").dataset.state === "on"`)
}

// TestFilter shows that what is typed and chosen narrows the flows down, without
// loading the page anew, and that the page's address then leads there.
func TestFilter(t *testing.T) {
	cp, nats := shared.Get(t), controlplane.NATSForTest(t, controlplane.NATSOptions{})
	g := group()
	body := "routes:\n"
	for r := range 3 {
		var crds []string
		for k := range 4 {
			crds = append(crds, fmt.Sprintf("k%ds.%s", k, g))
		}
		body += route(fmt.Sprint("r", r), crds...)
	}
	b := startBridge(t, cp.AdminKubeconfig(), body+sinkTo(nats))
	tb := open(t, b.url+"/", light)
	shown := func(n int, found string) {
		t.Helper()
		tb.until(fmt.Sprintf(`document.querySelectorAll("[data-list=flows] tr").length === %d && document.querySelector("[data-f=found]")?.textContent === %q`, n, found))
	}
	shown(12, "12 flows")
	get[bool](tb, `window.loaded = true`)
	tb.typeInto("input[name=q]", "K2S")
	shown(3, "3 of 12 flows")
	tb.fill("select[name=route]", "r1")
	shown(1, "1 of 12 flows")
	if !get[bool](tb, `window.loaded === true && document.activeElement.name === "q"`) {
		t.Error("the page was loaded anew, or the focus is lost")
	}
	if search := get[string](tb, `location.search`); search != "?q=K2S&route=r1" {
		t.Errorf("the page's address has %s", search)
	}
	tb.do(chromedp.Reload())
	shown(1, "1 of 12 flows")
	tb.fill("input[name=q]", "")
	tb.typeInto("input[name=q]", kb.Enter)
	shown(4, "4 of 12 flows")
	tb.click(`.chips a[href*="state=waiting"]`)
	shown(4, "4 of 12 flows")
	if current := get[string](tb, `document.querySelector(".chips [aria-current]").textContent`); !strings.HasPrefix(current, "waiting") {
		t.Errorf("the chip that is marked is %q", current)
	}
	tb.fill("input[name=q]", "nothing")
	tb.typeInto("input[name=q]", kb.Enter)
	shown(0, "No flow is like that.")
}

// TestKeyboard does without a mouse: to the filter, to a flow in trouble, and to
// what to do about it, which stays open while the page changes.
func TestKeyboard(t *testing.T) {
	cp, nats := shared.Get(t), controlplane.NATSForTest(t, controlplane.NATSOptions{})
	k := newKind(t, "orders", group())
	k.create(t)
	account, err := cp.ServiceAccount(t.Context(), "default", "keyboard", []rbacv1.PolicyRule{readCRDs})
	if err != nil {
		t.Fatal(err)
	}
	b := startBridge(t, account.Kubeconfig, "routes:\n"+route("shop", k.name())+sinkTo(nats))
	tb := open(t, b.url+"/", light)
	tb.waitState(k.name(), "forbidden")
	visited := map[string]bool{}
	for range 40 {
		tb.press(kb.Tab)
		if at := get[string](tb, `document.activeElement.tagName`); at == "SUMMARY" {
			break
		}
		visited[get[string](tb, `document.activeElement.name || document.activeElement.textContent`)] = true
		if outline := get[string](tb, `getComputedStyle(document.activeElement).outlineStyle`); outline == "none" {
			t.Errorf("the focus cannot be seen on %s", get[string](tb, `document.activeElement.outerHTML`))
		}
	}
	for _, name := range []string{"Events", "q", "route", "Filter", "forbidden 1"} {
		if !visited[name] {
			t.Errorf("%q is not on the way: %v", name, visited)
		}
	}
	tb.press(kb.Enter)
	tb.until(row(k.name()) + `.querySelector("details").open`)
	tb.press(kb.Tab)
	tb.press(kb.Tab) // the role, which may have to be scrolled, and the button
	if text := get[string](tb, `document.activeElement.textContent`); text != "Copy" {
		t.Errorf("behind the role is %q", text)
	}
	if err := nats.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	tb.until(`document.querySelector("[data-list=sinks] .state").textContent === "not connected"`)
	if !get[bool](tb, `document.activeElement.textContent === "Copy" && `+row(k.name())+`.querySelector("details").open`) {
		t.Error("a change of the page has taken the focus, or closed what was open")
	}
}

// TestEvents shows what passes while somebody looks, filtered, and that a page
// that is paused looks no more.
func TestEvents(t *testing.T) {
	cp, nats := shared.Get(t), controlplane.NATSForTest(t, controlplane.NATSOptions{})
	k := newKind(t, "orders", group())
	k.create(t)
	b := startBridge(t, cp.AdminKubeconfig(), "routes:\n"+route("shop", k.name())+sinkTo(nats))
	status := open(t, b.url+"/", light)
	status.waitState(k.name(), "running")
	tb := open(t, b.url+"/events", light)
	k.put(t, "o-1", 1, map[string]any{"note": `<img src=x onerror="window.pwned=1">`})
	tb.until(`document.querySelector(".events tbody tr")?.textContent.includes("default/o-1")`)
	k.put(t, "o-1", 2, nil)
	k.put(t, "p-1", 1, nil)
	tb.until(`[...document.querySelectorAll(".events tbody .type")].map(e => e.textContent).join(" ") === "created updated created"`)
	tb.typeInto("input[name=q]", "p-1")
	tb.until(`location.search === "?q=p-1" && document.getElementById("live").dataset.state === "on"`)
	k.put(t, "o-1", 3, nil)
	k.put(t, "p-1", 2, nil)
	tb.until(`document.querySelectorAll(".events tbody tr").length === 1 && document.querySelector(".events tbody tr").textContent.includes("default/p-1")`)
	tb.click("#pause")
	tb.until(`document.getElementById("live").textContent === "paused"`)
	for i := range 5 {
		k.put(t, "p-1", int64(10+i), nil)
	}
	status.until(row(k.name()) + `.querySelector("[data-f=objects]").textContent === "2"`)
	if n := get[int](tb, `document.querySelectorAll(".events tbody tr").length`); n != 1 {
		t.Errorf("a page that is paused has %d events", n)
	}
	tb.click("#pause")
	tb.until(`document.getElementById("live").dataset.state === "on"`)
}

// TestHostileAnswer has a receiver answer with markup, and the page's own address
// have it. It is shown, and stays text.
func TestHostileAnswer(t *testing.T) {
	const markup = `<img src=x onerror="window.pwned=1"><script>window.pwned=1</script></td></table>`
	cp := shared.Get(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, markup)
		}
	}))
	defer receiver.Close()
	k := newKind(t, "orders", group())
	k.create(t)
	k.put(t, "o-1", 1, map[string]any{"note": markup})
	b := startBridge(t, cp.AdminKubeconfig(), "routes:\n"+route("shop", k.name())+fmt.Sprintf("sinks: {main: {http: {url: %q}}}\n", receiver.URL))
	for _, address := range []string{"/", "/?q=" + url.QueryEscape(`"><img src=x onerror="window.pwned=1">`), "/events?q=" + url.QueryEscape(`"><img src=x onerror="window.pwned=1">`)} {
		tb := open(t, b.url+address, light)
		if address == "/" {
			tb.waitState(k.name(), "blocked")
			tb.until(row(k.name()) + `.querySelector("[data-f=reason]").textContent.includes("<img src=x onerror=")`)
		}
		if !get[bool](tb, `window.pwned === undefined && document.images.length === 0 && document.scripts.length === 1`) {
			t.Errorf("%s: markup has become some", address)
		}
	}
}

// TestManyFlows looks at 1,000 flows.
func TestManyFlows(t *testing.T) {
	cp, nats := shared.Get(t), controlplane.NATSForTest(t, controlplane.NATSOptions{})
	g := group()
	var crds []string
	for i := range 10 {
		k := newKind(t, fmt.Sprintf("things%cs", 'a'+i), g)
		k.create(t)
		crds = append(crds, k.name())
	}
	body := "routes:\n"
	for r := range 99 {
		body += route(fmt.Sprintf("tenant-%02d", r), crds...)
	}
	locked := newKind(t, "vaults", group())
	locked.create(t)
	more := crds[:9:9]
	body += route("tenant-99", append(more, locked.name())...)
	account, err := cp.ServiceAccount(t.Context(), "default", "many", []rbacv1.PolicyRule{readCRDs, readAll(g)})
	if err != nil {
		t.Fatal(err)
	}
	b := startBridge(t, account.Kubeconfig, body+sinkTo(nats))
	tb := open(t, b.url+"/", light)
	tb.waitState(locked.name(), "forbidden")
	tb.until(`document.querySelector("h1").textContent === "1 of 1,000 flows in trouble" && document.querySelector("[data-f='n:running']").textContent === "999"`)
	if n := get[int](tb, `document.querySelectorAll("[data-list=flows] tr").length`); n != 100 {
		t.Errorf("the page has %d flows", n)
	}
	if first := get[string](tb, `document.querySelector("[data-list=flows] .crd").textContent`); first != locked.name() {
		t.Errorf("the first is %s, and not the one in trouble", first)
	}
	tb.screenshot(filepath.Join(t.ArtifactDir(), "many-light.png"), false)
	tb.accessible()
	tb.click(".pager a[data-h=next]")
	tb.until(`document.querySelector("[data-f=found]")?.textContent === "101 to 200 of 1,000 flows"`)
	tb.typeInto("input[name=q]", "thingsc tenant-42")
	tb.until(`document.querySelector("[data-f=found]")?.textContent === "1 of 1,000 flows"`)
	for _, s := range []screen{dark, narrow} {
		open(t, b.url+"/", s).screenshot(filepath.Join(t.ArtifactDir(), "many-"+s.name+".png"), false)
	}
}
