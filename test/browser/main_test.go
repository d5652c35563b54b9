//go:build browser && unix

// Package browser_test looks at the status page of a built bridge as people do:
// in Chromium, while CRDs come and go on a real API server and a real
// nats-server is there and is not. `make test-browser` runs it.
package browser_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/crbridge/crbridge/test/controlplane"
	"github.com/crbridge/crbridge/test/servers"
)

// shared is the control plane of all the tests.
var shared controlplane.Shared

// bridgePath is the binary under test.
var bridgePath string

// patience is how long a test waits for something that should happen at once.
const patience = 60 * time.Second

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crbridge-browser-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if bridgePath, err = servers.BuildBridge(context.Background(), dir, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return shared.Run(m)
}

// chromium is the browser; CHROMIUM names another one.
func chromium(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("CHROMIUM"); path != "" {
		return path
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("there is no Chromium: make test-browser installs Debian's; CHROMIUM may name another")
	return ""
}

// tab is a page in a browser of its own, which fails the test for whatever a
// browser complains of.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
	expected   string // part of complaints that belong to the test
}

// screen is what a tab is looked at with.
type screen struct {
	name          string
	width, height int64
	dark, touch   bool
	scale         float64
}

var (
	light  = screen{name: "light", width: 1280, height: 900, scale: 1}
	dark   = screen{name: "dark", width: 1280, height: 900, scale: 1, dark: true}
	narrow = screen{name: "narrow", width: 390, height: 844, scale: 2, touch: true}
)

// open opens a page, and waits until it is kept up to date.
func open(t *testing.T, url string, s screen) *tab {
	t.Helper()
	tb := launch(t, s)
	tb.visit(url)
	return tb
}

// visit goes to a page, and waits until it is kept up to date.
func (tb *tab) visit(url string) {
	tb.t.Helper()
	tb.do(chromedp.Navigate(url))
	tb.until(`document.getElementById("live").dataset.state === "on"`)
}

// launch starts a browser.
func launch(t *testing.T, s screen, flags ...chromedp.ExecAllocatorOption) *tab {
	t.Helper()
	// Root has no sandbox; what is opened is the bridge's own page.
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("no-first-run", true),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("lang", "en-US"),
	)
	browser, cancel := chromedp.NewExecAllocator(t.Context(), append(options, flags...)...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	tb := &tab{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, tb.heard); err != nil { // it starts the browser
		t.Fatalf("starting the browser: %v", err)
	}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // it ends the browser, and waits for it
		tb.mu.Lock()
		defer tb.mu.Unlock()
		for _, c := range tb.complaints {
			if tb.expected == "" || !strings.Contains(c, tb.expected) {
				t.Errorf("the browser complains: %s", c)
			}
		}
	})
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	call(tb, runtime.Enable, cdp.Empty{})
	call(tb, cdplog.Enable, cdp.Empty{})
	call(tb, audits.Enable, cdp.Empty{})
	call(tb, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	viewport := []chromedp.EmulateViewportOption{chromedp.EmulateScale(s.scale)}
	if s.touch {
		viewport = append(viewport, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	tb.do(chromedp.EmulateViewport(s.width, s.height, viewport...))
	return tb
}

// call runs a command of the browser's protocol.
func call[P, R any](tb *tab, command cdp.Command[P, R], params P) {
	tb.t.Helper()
	if _, err := chromedp.Call(tb.ctx, command, params); err != nil {
		tb.t.Fatalf("in the browser: %v", err)
	}
}

// heard takes what the browser complains of.
func (tb *tab) heard(event any) {
	complaint := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		complaint = fmt.Sprintf("exception: %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning || e.Type == runtime.ConsoleAPICalledTypeAssert {
			complaint = "console: " + string(e.Type)
			for _, a := range e.Args {
				complaint += " " + string(a.Value) + a.Description
			}
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
			complaint = fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if e.Issue.Details != nil && e.Issue.Details.ContentSecurityPolicyIssueDetails != nil {
			complaint = "content security policy: " + e.Issue.Details.ContentSecurityPolicyIssueDetails.ViolatedDirective
		}
	case *page.EventJavascriptDialogOpening:
		complaint = "dialog: " + e.Message
	}
	if complaint != "" {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.complaints = append(tb.complaints, complaint)
	}
}

func (tb *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	tb.t.Helper()
	if err := chromedp.Do(tb.ctx, steps...); err != nil {
		tb.t.Fatalf("in the browser: %v", err)
	}
}

// get is what an expression is in the page.
func get[T any](tb *tab, expression string) T {
	tb.t.Helper()
	value, err := chromedp.Run(tb.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		tb.t.Fatalf("in the browser: %s: %v", expression[:min(len(expression), 300)], err)
	}
	return value
}

// click clicks on the first element that the selector matches, type types into
// it, fill has it have that value, as a list does from which it is chosen.
func (tb *tab) click(selector string) { tb.t.Helper(); tb.do(chromedp.Click(chromedp.CSS(selector))) }

func (tb *tab) typeInto(selector, text string) {
	tb.t.Helper()
	tb.do(chromedp.SendKeys(chromedp.CSS(selector), text))
}

func (tb *tab) fill(selector, value string) {
	tb.t.Helper()
	get[bool](tb, fmt.Sprintf(`(e => { e.value = %q; return e.dispatchEvent(new Event("input", {bubbles: true})); })(document.querySelector(%q))`, value, selector))
}

func (tb *tab) press(key string) { tb.t.Helper(); tb.do(chromedp.KeyEvent(key)) }

// until waits until an expression is true in the page.
func (tb *tab) until(expression string) {
	tb.t.Helper()
	tb.untilWithin(patience, expression)
}

func (tb *tab) untilWithin(patience time.Duration, expression string) {
	tb.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		if get[bool](tb, "Boolean("+expression+")") {
			return
		}
		if time.Now().After(deadline) {
			tb.t.Fatalf("after %v it is not so in the page: %s\nIt says:\n%s", patience, expression, get[string](tb, "document.body.innerText"))
		}
		select {
		case <-tb.ctx.Done():
			tb.t.Fatal(tb.ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// row is an expression for a flow's row.
func row(crd string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("tr[data-row^='f:']")].find(r => r.querySelector("[data-f=crd]").textContent === %q)`, crd)
}

// waitState waits until the page shows the flow in the state.
func (tb *tab) waitState(crd, state string) {
	tb.t.Helper()
	tb.until(fmt.Sprintf(`%s?.querySelector(".state").textContent === %q`, row(crd), state))
}

// screenshot writes a picture of the page, as high as it is where whole.
func (tb *tab) screenshot(path string, whole bool) {
	tb.t.Helper()
	action := chromedp.CaptureScreenshot()
	if whole {
		action = chromedp.FullScreenshot(100)
	}
	picture, err := chromedp.Run(tb.ctx, action)
	if err == nil {
		err = os.WriteFile(path, picture, 0o644)
	}
	if err != nil {
		tb.t.Fatal(err)
	}
}
