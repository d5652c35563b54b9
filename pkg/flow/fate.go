package flow

import (
	"context"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fewAsked is up to how many objects of a namespace are asked for one by one,
// which costs about a millisecond each; for more, all are listed, which costs
// about ten microseconds an object.
const fewAsked = 100

// fate is what the API server says of an object that is not where it was.
type fate struct {
	exists bool
	asOf   uint64
}

// fates asks what has become of objects that are no longer among those that the
// route selects: they exist, or they are gone. It asks as often as it takes,
// and tells whether there were answers before ctx ended.
func (r *Run) fates(ctx context.Context, of []keyed) (fates map[string]fate, known bool) {
	fates = make(map[string]fate, len(of))
	byNamespace := map[string][]keyed{}
	for _, o := range of {
		namespace := allNamespaces
		if r.target.Resource.Namespaced && (len(of) <= fewAsked || !r.watches(allNamespaces)) {
			namespace, _, _ = strings.Cut(o.key, "/")
		}
		byNamespace[namespace] = append(byNamespace[namespace], o)
	}
	for namespace, objects := range byNamespace {
		for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
			err := r.ask(ctx, namespace, objects, fates)
			if err == nil {
				break
			}
			if apierrors.IsForbidden(err) && !r.watches(namespace) {
				// The right to see them went with their selection. They are no
				// longer selected, that is certain; no more can be told of them.
				for _, o := range objects {
					fates[o.key] = fate{exists: true}
				}
				break
			}
			if ctx.Err() != nil {
				return nil, false
			}
			r.watchers[0].Condition(err)
			if !sleep(ctx, retry) {
				return nil, false
			}
		}
	}
	return fates, ctx.Err() == nil
}

// watches tells whether the route selects objects of the namespace.
func (r *Run) watches(namespace string) bool {
	for _, w := range r.watchers {
		if w.namespace == allNamespaces || w.namespace == namespace {
			return true
		}
	}
	return false
}

func (r *Run) ask(ctx context.Context, namespace string, objects []keyed, into map[string]fate) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if len(objects) > fewAsked {
		return r.askAll(ctx, namespace, objects, into)
	}
	for _, o := range objects {
		_, name, namespaced := strings.Cut(o.key, "/")
		if !namespaced {
			name = o.key
		}
		uid, asOf, err := r.presence.Of(ctx, r.target.Resource, namespace, name)
		if err != nil {
			return err
		}
		into[o.key] = fate{exists: uid == types.UID(o.uid.String()), asOf: asOf}
	}
	return nil
}

func (r *Run) askAll(ctx context.Context, namespace string, objects []keyed, into map[string]fate) error {
	there := make(map[types.UID]bool, len(objects))
	for _, o := range objects {
		there[types.UID(o.uid.String())] = false
	}
	asOf, err := r.presence.All(ctx, r.target.Resource, namespace, func(o *metav1.PartialObjectMetadata) {
		if _, asked := there[o.UID]; asked {
			there[o.UID] = true
		}
	})
	if err != nil {
		return err
	}
	for _, o := range objects {
		into[o.key] = fate{exists: there[types.UID(o.uid.String())], asOf: asOf}
	}
	return nil
}

// askTimeout bounds the questions about the objects of one namespace. It is
// long enough for a list of a million.
const askTimeout = time.Minute
