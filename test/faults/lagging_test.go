//go:build unix

package faults

import (
	"testing"
	"time"

	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/crbridge/crbridge/test/proxy"
)

// TestLaggingServerIsNotBelieved shows that a bridge which is started against an
// API server that lags does not take its word for what became of a CRD: the
// objects of the present one are not told to be deleted.
func TestLaggingServerIsNotBelieved(t *testing.T) {
	ctx := t.Context()
	opts := Options{Bridge: build(t), Seed: 1, Dir: t.ArtifactDir(), Progress: progress(t), Kinds: []string{"api server lags"}}
	w, err := newWorld(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}()
	config := w.control.Admin()
	config.Host = "https://" + w.second.Address()
	crds, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	k := w.kinds[2]
	believed := func(options metav1.GetOptions) types.UID { // by the second server
		t.Helper()
		crd, err := crds.ApiextensionsV1().CustomResourceDefinitions().Get(ctx, k.crd(), options)
		if err != nil {
			t.Fatal(err)
		}
		return crd.UID
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, w.logs())
		}
	}
	delivers := func() {
		t.Helper()
		_, err := w.recovered(ctx)
		must(err)
	}
	must(w.active().start(ctx))
	delivers()
	before := believed(metav1.GetOptions{})

	must(w.etcdLine.Set(proxy.Stall)) // from now on it hears of nothing
	w.loses()
	must(k.remove(ctx))
	must(k.create(ctx))
	delivers() // among it objects of the new CRD
	must(w.active().halt(ctx, true))
	if now := believed(metav1.GetOptions{ResourceVersion: "0"}); now != before {
		t.Fatalf("the second server does not lag: it has CRD %s, not %s", now, before)
	}
	w.loses() // its history ends where it stopped hearing
	w.apiLine.SetTarget(w.second.Address())
	w.apiLine.Cut()
	must(w.active().start(ctx))
	select { // long enough for a bridge that believes it to tell so
	case <-time.After(4 * time.Second):
	case <-ctx.Done():
	}
	must(w.etcdLine.Set(proxy.Pass))
	delivers()
	report := newReport(opts)
	must(w.judge(ctx, report))
	if len(report.Violations) > 0 {
		t.Errorf("%v\n%s", report, report.Logs)
	}
}
