package main

import (
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/crbridge/crbridge/pkg/sources"
)

// recorder writes Kubernetes Events about the bridge's own pod, for those who
// look there first. Where it may not, or there is no pod, nothing is the worse
// for it: all that it says is in the log and in the status as well. It repeats
// and hurries as little as client-go's recorder does.
type recorder struct {
	pod         *corev1.ObjectReference
	broadcaster record.EventBroadcaster
	events      record.EventRecorder
}

// newRecorder makes one for the pod that the environment names, as the
// Deployment in deploy/ has it; nil where it names none.
func newRecorder(cluster sources.Cluster, environ []string) (*recorder, error) {
	env := func(name string) string { return variable(environ, name) }
	pod := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Name: env("POD_NAME"), Namespace: env("POD_NAMESPACE"), UID: types.UID(env("POD_UID")),
	}
	if pod.Namespace == "" {
		if content, err := os.ReadFile(podNamespace); err == nil {
			pod.Namespace, pod.Name = strings.TrimSpace(string(content)), env("HOSTNAME")
		}
	}
	if pod.Name == "" || pod.Namespace == "" {
		return nil, nil //nolint:nilnil // there is nothing to write about
	}
	client, err := typedcorev1.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for events: %w", err)
	}
	r := &recorder{pod: pod, broadcaster: record.NewBroadcaster()}
	r.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.Events(pod.Namespace)})
	r.events = r.broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: "crbridge", Host: pod.Name})
	return r, nil
}

// mostMessage is how long the API server lets an Event's message be.
const mostMessage = 1024

// rejected: the configuration file is bad.
func (r *recorder) rejected(err error) {
	if r == nil {
		return
	}
	message := "the configuration file is bad; the one before stays in force: " + err.Error()
	if len(message) > mostMessage {
		message = strings.ToValidUTF8(message[:mostMessage-3], "") + "..."
	}
	r.events.Event(r.pod, corev1.EventTypeWarning, "ConfigurationRejected", message)
}

// loaded: the configuration file has changed, and is in force but for the keys
// that need a restart.
func (r *recorder) loaded(restart []string) {
	if r == nil {
		return
	}
	message := "the configuration has changed and is in force"
	if len(restart) > 0 {
		message += ", but for what needs a restart: " + strings.Join(restart, ", ")
	}
	r.events.Event(r.pod, corev1.EventTypeNormal, "ConfigurationReloaded", message)
}

func (r *recorder) close() {
	if r != nil {
		r.broadcaster.Shutdown()
	}
}
