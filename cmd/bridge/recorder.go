package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedeventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/events"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/signals"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sources"
)

// recorder writes Kubernetes Events about the bridge's own pod, for those who
// look there first. Where it may not, or there is no pod, nothing is the worse
// for it: all that it says is in the log and in the status as well. client-go's
// recorder makes what repeats a series, and holds nobody up.
type recorder struct {
	pod         *corev1.ObjectReference
	sink        *eventSink
	stop        context.CancelFunc
	broadcaster events.EventBroadcaster
	events      events.EventRecorder
}

// reporter is who Events are from.
const reporter = "crbridge"

// newRecorder makes one for the pod that the environment names, as the
// chart in deploy/ has it; nil where it names none.
func newRecorder(ctx context.Context, cluster sources.Cluster, environ []string, log *slog.Logger) (*recorder, error) {
	pod := ownPod(environ)
	if pod == nil {
		return nil, nil //nolint:nilnil // there is nothing to write about
	}
	client, err := typedeventsv1.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for events: %w", err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx)) // until close
	r := &recorder{pod: pod, stop: stop, sink: &eventSink{&events.EventSinkImpl{Interface: client}, log}}
	r.broadcaster = events.NewBroadcaster(r.sink)
	if err := r.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("recorder of events: %w", err)
	}
	r.events = r.broadcaster.NewRecorder(runtime.NewScheme(), reporter)
	return r, nil
}

// ownPod is the bridge's pod; nil where there is none.
func ownPod(environ []string) *corev1.ObjectReference {
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
		return nil
	}
	return pod
}

// eventSink is client-go's, but that an Event which the API server refuses is
// told in one line: client-go would log all of the Event.
type eventSink struct {
	*events.EventSinkImpl
	log *slog.Logger
}

func (s *eventSink) Create(ctx context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	created, err := s.EventSinkImpl.Create(ctx, e)
	return s.judge(e, created, err)
}

func (s *eventSink) Patch(ctx context.Context, e *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	patched, err := s.EventSinkImpl.Patch(ctx, e, data)
	return s.judge(e, patched, err)
}

func (s *eventSink) judge(e, written *eventsv1.Event, err error) (*eventsv1.Event, error) {
	_, answered := errors.AsType[*apierrors.StatusError](err)
	if !answered || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		return written, err // client-go knows what to do
	}
	s.log.Warn("a Kubernetes Event is not written: what it says is here and in the status alone", "event", e.Reason, "error", err)
	return e, nil
}

// mostNote is how long the API server lets an Event's note be.
const mostNote = 1024

func note(text string) string {
	if len(text) > mostNote {
		return strings.ToValidUTF8(text[:mostNote-3], "") + "..."
	}
	return text
}

// tell writes an Event. It does not wait. What it is related to tells series
// apart: client-go counts what differs in its note alone as the same.
func (r *recorder) tell(kind, reason, action string, related *corev1.ObjectReference, text string) {
	if r == nil {
		return
	}
	var about runtime.Object
	if related != nil {
		about = related
	}
	r.events.Eventf(r.pod, about, kind, reason, action, "%s", note(text))
}

// rejected: the configuration file is bad.
func (r *recorder) rejected(err error) {
	r.tell(corev1.EventTypeWarning, "ConfigurationRejected", "Reload", nil, "the configuration file is bad; the one before stays in force: "+err.Error())
}

// loaded: the configuration file has changed, and is in force but for the keys
// that need a restart.
func (r *recorder) loaded(restart []string) {
	text := "the configuration has changed and is in force"
	if len(restart) > 0 {
		text += ", but for what needs a restart: " + strings.Join(restart, ", ")
	}
	r.tell(corev1.EventTypeNormal, "ConfigurationReloaded", "Reload", nil, text)
}

// lookEvery is how often the status is looked at for what is worth an Event.
const lookEvery = 2 * time.Second

// follow tells of what goes wrong, and of what is well again, until ctx is done.
func (r *recorder) follow(ctx context.Context, flows func() []flow.Status, all func() map[string]sinks.Sink) {
	if r == nil {
		return
	}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for watch := (signals.Watch{}); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		states := map[string]sinks.Status{}
		for name, sink := range all() {
			states[name] = sink.Status()
		}
		for _, e := range watch.Look(time.Now(), flows(), states) {
			kind := corev1.EventTypeNormal
			if e.Warning() {
				kind = corev1.EventTypeWarning
			}
			r.tell(kind, string(e.Reason), "Deliver", relatedTo(e.About), e.Note)
		}
	}
}

// relatedTo names what an Event is about besides the pod: the CRD of a flow,
// and its route and sink as the part of it.
func relatedTo(id flow.ID) *corev1.ObjectReference {
	switch {
	case id.CRD != "":
		return &corev1.ObjectReference{
			APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition", Name: id.CRD,
			FieldPath: "routes[" + id.Route + "].sinks[" + id.Sink + "]",
		}
	case id.Sink != "":
		return &corev1.ObjectReference{FieldPath: "sinks[" + id.Sink + "]"}
	}
	return nil
}

// lastWords is how long a bridge that ends for a failure takes to say why.
const lastWords = time.Second

// last says why the bridge ends, and returns when that is written, or cannot be.
func (r *recorder) last(ctx context.Context, reason string, why error) {
	if r == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	now := metav1.NowMicro()
	_, _ = r.sink.Create(ctx, &eventsv1.Event{ // it is in the log as well
		ObjectMeta: metav1.ObjectMeta{Namespace: r.pod.Namespace, Name: fmt.Sprintf("%s.%x", r.pod.Name, now.UnixNano())},
		EventTime:  now, ReportingController: reporter, ReportingInstance: reporter + "-" + r.pod.Name,
		Regarding: *r.pod, Type: corev1.EventTypeWarning, Reason: reason, Action: "End", Note: note(why.Error()),
	})
}

func (r *recorder) close() {
	if r != nil {
		r.broadcaster.Shutdown()
		r.stop()
	}
}

// lastOf says why a bridge ends that has not come as far as to have a recorder.
func lastOf(ctx context.Context, kubeconfig string, environ []string, reason string, why error) {
	if ownPod(environ) == nil {
		return
	}
	cluster, err := connect(kubeconfig)
	if err != nil {
		return
	}
	r, err := newRecorder(ctx, cluster, environ, slog.New(slog.DiscardHandler))
	if err != nil {
		return
	}
	defer r.close()
	r.last(ctx, reason, why)
}
