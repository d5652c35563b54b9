//go:build linux && cluster

package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	autoscaling "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/crbridge/crbridge/test/oracle"
)

// TestHighAvailability has all happen to two replicas that happens to pods,
// under load, and then the oracle compare what a subscriber outside has got
// with etcd's own history: nothing is missing, nothing is there twice or out of
// order, and nothing is coalesced.
func TestHighAvailability(t *testing.T) {
	const group = "ha.example.com"
	w := newWorld(t, "ha")
	if err := w.Apply(t.Context(), orders(group)); err != nil {
		t.Fatal(err)
	}
	history, err := oracle.Record(t.Context(), w.EtcdEndpoint(), "/registry/"+group+"/orders/")
	if err != nil {
		t.Fatal(err)
	}
	defer history.Close()
	tap, err := oracle.Listen(t.Context(), w.NATS.URL(), stream, oracle.TapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	arrived := w.arrivals(t)

	w.configure(route("ha", "orders."+group))
	w.deploy(t)
	w.ready(t, 2, "one")
	w.waitFlow(t, "ha", "running")
	load := w.load(t, group)
	arrived.more(t, 200)

	for _, step := range []struct {
		name     string
		do       func(t *testing.T)
		restarts int32 // of containers
		clean    bool  // a leader hands over, and does not die
	}{
		{"the leader's pod is deleted", func(t *testing.T) {
			leader := w.leader(t)
			began := time.Now()
			if err := w.Clientset().CoreV1().Pods(w.namespace).Delete(t.Context(), leader, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			w.leader(t)
			t.Logf("another leads %v after the leader's pod was deleted", time.Since(began).Round(time.Millisecond))
		}, 0, true},
		{"the leader is killed", func(t *testing.T) {
			if err := kill(w.leader(t)); err != nil {
				t.Fatal(err)
			}
		}, 1, false},
		{"containerd is restarted", func(t *testing.T) {
			if err := w.RestartContainerd(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, 1, false},
		{"NATS is away", func(t *testing.T) {
			if err := w.NATS.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			// Longer than the probes take to find a pod unready, or dead.
			time.Sleep(40 * time.Second)
			if running, err := w.WaitPods(t.Context(), w.namespace, pods, 2); err != nil {
				t.Errorf("with NATS away %d pods are ready: %v", len(running), err)
			}
			if err := w.NATS.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, 1, false},
		{"an update is rolled out", func(t *testing.T) {
			w.values["image"].(map[string]any)["tag"] = "two"
			w.deploy(t)
			w.ready(t, 2, "two")
		}, 0, true},
		{"no replica, and then two again", func(t *testing.T) {
			w.scale(t, 0)
			eventually(t, func() error {
				left, err := w.list(t)
				if err == nil && len(left) > 0 {
					err = fmt.Errorf("%d pods are left", len(left))
				}
				return err
			})
			at := load.changes.Load()
			eventually(t, func() error {
				if n := load.changes.Load() - at; n < 200 {
					return fmt.Errorf("%d changes while there is no bridge", n)
				}
				return nil
			})
			w.scale(t, 2)
		}, 0, false},
	} {
		began := time.Now()
		step.do(t)
		w.ready(t, 2, w.values["image"].(map[string]any)["tag"].(string))
		arrived.more(t, 200)
		w.waitFlow(t, "ha", "running")
		gap := arrived.gap(began)
		t.Logf("%s: %v; the subscriber had nothing for %v at most", step.name, time.Since(began).Round(time.Millisecond), gap)
		if step.clean && gap > handover {
			t.Errorf("%s: the subscriber had nothing for %v", step.name, gap)
		}
		if restarts := w.restarts(t); restarts != step.restarts {
			t.Errorf("after %q containers were started again %d times, not %d", step.name, restarts, step.restarts)
		}
	}
	load.stop()
	judge(t, history, tap, group)
}

// handover is how long nothing may arrive while a leader hands over: it takes
// half a second or so, and where the Lease is not given back, 15 s.
const handover = 2 * time.Second

func (w *world) scale(t *testing.T, replicas int32) {
	t.Helper()
	_, err := w.Clientset().AppsV1().Deployments(w.namespace).UpdateScale(t.Context(), w.namespace, &autoscaling.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: w.namespace, Namespace: w.namespace}, Spec: autoscaling.ScaleSpec{Replicas: replicas},
	}, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// kill ends the bridge of a pod as the kernel does it to one that has too much
// memory.
func kill(pod string) error {
	processes, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	for _, file := range processes {
		environment, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environment, []byte("HOSTNAME="+pod+"\x00")) {
			continue
		}
		dir := filepath.Dir(file)
		if program, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || program != "/bridge" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	}
	return fmt.Errorf("there is no process of pod %s", pod)
}

// judge waits until all has arrived, and has the oracle look at it.
func judge(t *testing.T, history *oracle.History, tap *oracle.Tap, group string) {
	t.Helper()
	expected := oracle.Expectations{Cluster: "node", Stream: stream, Quiet: true, Routes: []oracle.Route{{
		Name: "ha", Resources: []oracle.Resource{{Group: group, Plural: "orders"}}, Data: true,
	}}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var violations []oracle.Violation
	for range 30 {
		if err := tap.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := history.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		past, recording := history.Past(), tap.Recording()
		if violations = oracle.Check(past, recording, expected); len(violations) == 0 {
			t.Logf("%d versions in etcd, %d messages in the stream, no violations", len(past.Versions), len(recording.Messages))
			return
		}
		time.Sleep(time.Second) // the last may still be on their way
	}
	t.Error(oracle.Report(violations))
}
