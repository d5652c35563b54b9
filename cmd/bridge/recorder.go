package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedeventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/record/util"

	"github.com/crbridge/crbridge/pkg/flow"
	"github.com/crbridge/crbridge/pkg/signals"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sources"
)

// recorder writes Kubernetes Events about the bridge's own pod, for those who
// look there first. Where it may not, or there is no pod, nothing is the worse
// for it: all that it says is in the log and in the status as well.
//
// client-go's recorder is not used: what it counts as the same keeps the text of
// the first, it writes a count half an hour late, and what it has not written
// when the bridge ends is lost. What bounds the number of Events is in package
// signals.
type recorder struct {
	pod    *corev1.ObjectReference
	events typedeventsv1.EventInterface
	log    *slog.Logger
	// asked holds Events of others than follow, which writes them.
	asked chan *eventsv1.Event
	// written belongs to follow: by what they say, the Events of the last hour.
	written map[said]*eventsv1.Event
}

// said is what an Event says. One that says the same as another makes it a
// series and not another Event.
type said struct{ reason, part, note string }

const (
	// reporter is who Events are from.
	reporter = "crbridge"
	// remembered is how long an API server keeps an Event, by default, from when
	// it was written last.
	remembered = time.Hour
)

// newRecorder makes one for the pod that the environment names, as the
// chart in deploy/ has it; nil where it names none.
func newRecorder(cluster sources.Cluster, environ []string, log *slog.Logger) (*recorder, error) {
	pod := ownPod(environ)
	if pod == nil {
		return nil, nil //nolint:nilnil // there is nothing to write about
	}
	client, err := typedeventsv1.NewForConfigAndClient(cluster.Config, cluster.HTTP)
	if err != nil {
		return nil, fmt.Errorf("client for events: %w", err)
	}
	return &recorder{
		pod: pod, events: client.Events(pod.Namespace), log: log,
		asked: make(chan *eventsv1.Event, 16), written: map[said]*eventsv1.Event{},
	}, nil
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

// How long the API server lets an Event's note be, and its reportingInstance.
const (
	mostNote     = 1024
	mostInstance = 128
)

func note(text string) string {
	if len(text) > mostNote {
		return strings.ToValidUTF8(text[:mostNote-3], "") + "..."
	}
	return text
}

// event is one that is about the pod.
func (r *recorder) event(kind, reason, action string, related *corev1.ObjectReference, text string) *eventsv1.Event {
	now := metav1.NowMicro()
	instance := reporter + "-" + r.pod.Name
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.pod.Namespace, Name: util.GenerateEventName(r.pod.Name, now.UnixNano())},
		EventTime:  now, ReportingController: reporter, ReportingInstance: instance[:min(len(instance), mostInstance)],
		Regarding: *r.pod, Related: related, Type: kind, Reason: reason, Action: action, Note: note(text),
	}
}

// ask has an Event written. It does not wait.
func (r *recorder) ask(kind, reason, action, text string) {
	if r == nil {
		return
	}
	select {
	case r.asked <- r.event(kind, reason, action, nil, text):
	default: // the API server has not answered for as many changes of the file
		r.unwritten(reason, text, errors.New("too many of them wait"))
	}
}

func (r *recorder) unwritten(reason, note string, why error) {
	r.log.Warn("a Kubernetes Event is not written: what it says is here and in the status alone", "event", reason, "note", note, "error", why)
}

// rejected: the configuration file is bad.
func (r *recorder) rejected(err error) {
	r.ask(corev1.EventTypeWarning, "ConfigurationRejected", "Reload", "the configuration file is bad; the one before stays in force: "+err.Error())
}

// loaded: the configuration file has changed, and is in force but for the keys
// that need a restart.
func (r *recorder) loaded(restart []string) {
	text := "the configuration has changed and is in force"
	if len(restart) > 0 {
		text += ", but for what needs a restart: " + strings.Join(restart, ", ")
	}
	r.ask(corev1.EventTypeNormal, "ConfigurationReloaded", "Reload", text)
}

const (
	// lookEvery is how often the status is looked at for what is worth an Event.
	lookEvery = 2 * time.Second
	// lastWords is how long a bridge that ends takes to say what is still to be
	// said, and then why it ends.
	lastWords = 2 * time.Second
)

// follow writes what is asked for, and of what goes wrong and is well again,
// until ctx is done, and a little longer. While the API server takes nothing the
// status is not looked at: afterwards it is told what is otherwise by then.
func (r *recorder) follow(ctx context.Context, flows func() []flow.Status, all func() map[string]sinks.Sink) {
	if r == nil {
		return
	}
	writing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for watch := (signals.Watch{}); ; {
		select {
		case <-ctx.Done():
			for len(r.asked) > 0 {
				r.write(writing, <-r.asked)
			}
			return
		case e := <-r.asked:
			r.write(writing, e)
			continue
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
			r.write(writing, r.event(kind, string(e.Reason), "Deliver", relatedTo(e.About), e.Note))
		}
	}
}

const (
	// rewriteEvery is after how long an Event that could not be written is
	// tried again, and attemptTime how long one attempt may take.
	rewriteEvery = 5 * time.Second
	attemptTime  = 10 * time.Second
	// refusals is how often an API server may say that it has failed to write an
	// Event. One that does not answer, or says that it is not there, is waited for.
	refusals = 12
)

// write writes an Event, as soon as the API server takes it, unless it refuses
// it or ctx is done before.
func (r *recorder) write(ctx context.Context, e *eventsv1.Event) {
	for refused := 0; ctx.Err() == nil; {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		err := r.put(attempt, e)
		cancel()
		if err == nil {
			return
		}
		if answer, answered := errors.AsType[*apierrors.StatusError](err); answered {
			switch code := answer.Status().Code; {
			case apierrors.IsTooManyRequests(err), code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
				// It is not there, or has no time: as if it did not answer.
			case code >= http.StatusInternalServerError && refused < refusals:
				refused++
			default:
				r.unwritten(e.Reason, e.Note, err)
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(rewriteEvery):
		}
	}
}

// put makes one attempt to write an Event: as one more of a series, where one
// that says the same was written in the last hour. That attempts are repeated
// does no harm.
func (r *recorder) put(ctx context.Context, e *eventsv1.Event) error {
	maps.DeleteFunc(r.written, func(_ said, w *eventsv1.Event) bool { return e.EventTime.Sub(lastTime(w)) >= remembered })
	says := said{reason: e.Reason, note: e.Note}
	if e.Related != nil {
		says.part = e.Related.Name + " " + e.Related.FieldPath
	}
	if before := r.written[says]; before != nil {
		series := eventsv1.EventSeries{Count: 2, LastObservedTime: e.EventTime}
		if before.Series != nil {
			series.Count = before.Series.Count + 1
		}
		patch, err := json.Marshal(map[string]any{"series": series})
		if err != nil {
			return err
		}
		patched, err := r.events.Patch(ctx, before.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			r.written[says] = patched
		}
		if !apierrors.IsNotFound(err) { // the API server has forgotten it, or somebody has deleted it
			return err
		}
	}
	created, err := r.events.Create(ctx, e, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err): // the answer to an attempt was lost
		created = e
	case err != nil:
		return err
	}
	r.written[says] = created
	return nil
}

// lastTime is when what the Event says was so last.
func lastTime(e *eventsv1.Event) time.Time {
	if e.Series != nil {
		return e.Series.LastObservedTime.Time
	}
	return e.EventTime.Time
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

// tellEnd says on the bridge's pod why it ends, and returns when that is written,
// or cannot be. It has a connection of its own, as the bridge may not have come
// as far as to have one, or end for want of it.
func tellEnd(ctx context.Context, kubeconfig string, environ []string, why error) {
	if ownPod(environ) == nil {
		return
	}
	cluster, err := connect(kubeconfig)
	if err != nil {
		return // it is in the log as well
	}
	defer cluster.HTTP.CloseIdleConnections()
	r, err := newRecorder(cluster, environ, slog.New(slog.DiscardHandler))
	if err != nil {
		return
	}
	reason := "BridgeEnded"
	if errors.Is(why, errUsage) {
		reason = "ConfigurationRejected"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	_ = r.put(ctx, r.event(corev1.EventTypeWarning, reason, "End", nil, why.Error()))
}
