//go:build unix

package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/crbridge/crbridge/test/controlplane"
)

var shared controlplane.Shared

func TestMain(m *testing.M) {
	code := shared.Run(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func clientFor(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func clientFromFile(t *testing.T, kubeconfig string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return clientFor(t, config)
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// eventually waits until check returns nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestStart(t *testing.T) {
	client := clientFromFile(t, shared.Get(t).AdminKubeconfig())
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("KUBEBUILDER_ASSETS") == "" && (!strings.HasPrefix(version.GitVersion, "v1.") || version.Major != "1") {
		t.Errorf("the server's version is not stamped: %+v", version)
	}
	anonymous := clientFor(t, rest.AnonymousClientConfig(shared.Get(t).Admin()))
	if _, err := anonymous.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("anonymous list: %v, want forbidden", err)
	}
}

func TestServiceAccount(t *testing.T) {
	cp := shared.Get(t)
	ctx := t.Context()
	read := func(resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"list"}}}
	}
	sa, err := cp.ServiceAccount(ctx, "accounts", "reader", read("configmaps"))
	if err != nil {
		t.Fatal(err)
	}
	client := clientFromFile(t, sa.Kubeconfig)
	configMaps := func(namespace string) error {
		_, err := client.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
		return err
	}
	secrets := func(namespace string) error {
		_, err := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{})
		return err
	}
	allowed := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	forbidden := func(what string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want forbidden", what, err)
		}
	}

	allowed("list of granted configmaps", configMaps(""))
	forbidden("list of secrets", secrets(""))

	// Each change is in force at once; repeated, as a race would show late.
	for range 10 {
		allowed("set rules", sa.SetClusterRules(ctx, read("secrets")))
		forbidden("list of revoked configmaps", configMaps(""))
		allowed("list of granted secrets", secrets(""))
		allowed("set rules", sa.SetClusterRules(ctx, nil))
		forbidden("list of revoked secrets", secrets(""))
	}

	allowed("set rules in a namespace", sa.SetRules(ctx, "default", read("configmaps")))
	allowed("list in the namespace", configMaps("default"))
	forbidden("list in another namespace", configMaps("accounts"))
	forbidden("list in all namespaces", configMaps(""))
	allowed("drop rules in a namespace", sa.SetRules(ctx, "default", nil))
	forbidden("list in the namespace", configMaps("default"))

	again, err := cp.ServiceAccount(ctx, "accounts", "reader", read("configmaps"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = clientFor(t, again.Config()).CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})
	allowed("list by the account that was asked for again", err)
}

func TestMetric(t *testing.T) {
	cp := shared.Get(t)
	ctx := t.Context()
	watches := func() float64 {
		t.Helper()
		n, err := cp.Metric(ctx, "apiserver_longrunning_requests", map[string]string{
			"verb": "WATCH", "resource": "limitranges", "scope": "namespace",
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := watches(); n != 0 {
		t.Fatalf("%v watches before the first", n)
	}
	w, err := clientFor(t, cp.Admin()).CoreV1().LimitRanges("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := watches(); n != 1 {
		t.Errorf("%v watches, want 1", n)
	}
	w.Stop()
	eventually(t, func() error {
		if n := watches(); n != 0 {
			return fmt.Errorf("%v watches after the last has ended", n)
		}
		return nil
	})
	if seconds, err := cp.Metric(ctx, "apiserver_request_duration_seconds", nil); err != nil || seconds <= 0 {
		t.Errorf("requests took %v seconds in all, %v", seconds, err)
	}
	for _, name := range []string{"no_such_metric", "go_gc_duration_seconds"} { // there is none, and a summary
		if _, err := cp.Metric(ctx, name, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names it", name, err)
		}
	}
}

// TestLives takes one control plane through everything that can happen to its
// servers; what was written stays.
func TestLives(t *testing.T) {
	cp := controlplane.ForTest(t, controlplane.Options{
		APIServerFlags: []string{"--watch-cache=false"},
		EtcdFlags:      []string{"--auto-compaction-mode=periodic", "--auto-compaction-retention=1h"},
	})
	ctx := t.Context()
	client := clientFor(t, cp.Admin())
	written := 0
	write := func(after string) {
		t.Helper()
		configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", written)}}
		if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, configMap, metav1.CreateOptions{}); err != nil {
			t.Fatalf("write after %s: %v", after, err)
		}
		written++
		list, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{LabelSelector: "!app"})
		if err != nil {
			t.Fatalf("list after %s: %v", after, err)
		}
		got := 0
		for _, item := range list.Items {
			if strings.HasPrefix(item.Name, "n") {
				got++
			}
		}
		if got != written {
			t.Fatalf("after %s there are %d of %d objects", after, got, written)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write("start")

	// With a watch that nobody ends, which must not make the end take a minute.
	watch, err := client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
	must(err)
	defer watch.Stop()
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	must(cp.APIServer.Restart(soon))
	write("restart of the API server")

	cp.APIServer.Kill()
	if _, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("a killed API server answers")
	}
	must(cp.APIServer.Start(ctx))
	write("kill of the API server")

	must(cp.APIServer.Pause(ctx))
	short := rest.CopyConfig(cp.Admin())
	short.Timeout = 200 * time.Millisecond
	if _, err := clientFor(t, short).CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("a paused API server answers")
	}
	must(cp.APIServer.Resume(ctx))
	write("pause of the API server")

	cp.Etcd.Kill()
	must(cp.Etcd.Start(ctx))
	must(cp.WaitReady(ctx))
	write("kill of etcd")

	must(cp.APIServer.Stop(ctx))
	must(cp.Etcd.Restart(ctx))
	must(cp.APIServer.Start(ctx))
	write("restart of both")
}

func TestCloseLeavesNothing(t *testing.T) {
	cp, err := controlplane.Start(t.Context(), controlplane.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pids := []int{cp.APIServer.PID(), cp.Etcd.PID()}
	dir := filepath.Dir(cp.AdminKubeconfig())
	for range 2 {
		if err := cp.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		if pid == 0 || alive(pid) {
			t.Errorf("pid %d: was not running, or still is", pid)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for _, test := range []struct {
		name string
		opts controlplane.Options
		want string
	}{
		{"API server's flag", controlplane.Options{APIServerFlags: []string{"--no-such-flag"}}, "kube-apiserver: ended before it was ready: exit status 1"},
		{"etcd's flag", controlplane.Options{EtcdFlags: []string{"--no-such-flag"}}, "etcd: ended before it was ready: exit status"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := controlplane.Start(t.Context(), test.opts)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "no-such-flag") {
				t.Errorf("got %v\nwant %q and the log's tail", err, test.want)
			}
		})
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
