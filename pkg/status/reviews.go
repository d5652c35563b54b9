package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
)

const (
	// allowedFor is how long one whose token or right was taken away may go on
	// reading, refusedFor how long one who was given them may have to wait.
	allowedFor = time.Minute
	refusedFor = 10 * time.Second
	// familiarFor is how long one who was allowed to is asked about before those
	// of whom nothing good is known.
	familiarFor = 10 * time.Minute
	// mostAnswers bounds what is remembered of each kind, yes and no.
	mostAnswers = 1024
	// strangePerSecond bounds, for each kind, what those of whom nothing good is
	// known make of work for the API server, and strangeAtOnce how much of it
	// there may be at once after a quiet time.
	strangePerSecond = 10
	strangeAtOnce    = 50
	// askTimeout bounds one request to the API server.
	askTimeout = 10 * time.Second
)

// verdict is what the cluster said, and until when that is taken for true.
type verdict struct {
	status int
	words  string
	until  time.Time
	user   authenticationv1.UserInfo // whose a token is
}

// questions are those of one kind that the cluster is asked. Of the same
// question there is one at a time. Yes and no are remembered apart from each
// other, so that those who try tokens push out nobody who has one; nor do they
// make one wait who had a yes before, for whom the rate does not count.
type questions struct {
	kind    string
	yes, no *cache.LRUExpireCache // of verdict, by wish
	asking  singleflight.Group
	strange *rate.Limiter
	log     *slog.Logger
}

func newQuestions(kind string, log *slog.Logger) *questions {
	return &questions{
		kind: kind, yes: cache.NewLRUExpireCache(mostAnswers), no: cache.NewLRUExpireCache(mostAnswers),
		strange: rate.NewLimiter(strangePerSecond, strangeAtOnce), log: log.With("review", kind),
	}
}

// known is what is remembered: an answer where it is good still, and whether
// there was a yes within familiarFor.
func (q *questions) known(w wish) (v verdict, is, familiar bool) {
	if yes, ok := q.yes.Get(w); ok {
		v, _ = yes.(verdict)
		return v, time.Now().Before(v.until), true
	}
	if no, ok := q.no.Get(w); ok {
		v, _ = no.(verdict)
		return v, true, false
	}
	return verdict{}, false, false
}

// ask is what the cluster says, or said not long ago. That a client leaves does
// not end the review: others may wait for it.
func (q *questions) ask(ctx context.Context, w wish, review func(context.Context) (verdict, error)) verdict {
	if v, is, _ := q.known(w); is {
		return v
	}
	// The hash has one length and no verb has a NUL in it, so no two are the same.
	key := string(w.token[:]) + w.verb + "\x00" + w.path
	answer, _, _ := q.asking.Do(key, func() (any, error) {
		v, is, familiar := q.known(w) // by one who was being answered a moment ago
		if is {
			return v, nil
		}
		if !familiar && !q.strange.Allow() {
			q.log.Warn("more unknown tokens and rights are tried at the status than the API server is asked about")
			return verdict{status: http.StatusServiceUnavailable, words: "more readers are unknown than the cluster is asked about; try again"}, nil
		}
		return q.review(ctx, w, review), nil
	})
	v, _ := answer.(verdict)
	return v
}

// review asks, and remembers what the cluster said. Those who ask are told no
// more of an error than that there is one, as nobody knows who they are.
func (q *questions) review(ctx context.Context, w wish, review func(context.Context) (verdict, error)) verdict {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	now := time.Now()
	v, err := review(ctx)
	if err != nil {
		q.log.Warn("who reads the status cannot be found out", "problem", problem(err), "detail", err)
		return verdict{status: http.StatusServiceUnavailable, words: "the cluster does not say whether this token may read (" + q.kind + "); the bridge's log says why"}
	}
	if v.status == http.StatusOK {
		v.until = now.Add(allowedFor)
		q.yes.Add(w, v, familiarFor)
		return v
	}
	q.yes.Remove(w)
	q.no.Add(w, v, refusedFor)
	return v
}

// problem is the kind of an error, by which its lines in the log are summed up.
func problem(err error) string {
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		return string(reason)
	}
	if errors.Is(err, errUnchecked) {
		return "Unchecked"
	}
	return "NoAnswer"
}

// errUnchecked is that the API server could not find something out.
var errUnchecked = errors.New("the API server could not find it out")

// unchecked are errors of a TokenReview that are not about the token: another
// server was not reached which the API server asks (of a webhook, or the keys of
// an OpenID provider), or its own storage. The API server has an error in every
// review of a token that it does not take, also where it knows that token to
// be bad ("invalid bearer token", "service account token has expired"), and
// nothing but the words to tell one from the other.
var unchecked = regexp.MustCompile(`\b(Get|Post) "?https?://|\bdial tcp\b|deadline exceeded|timed out|etcdserver: |not initialized|Internal error`)

// whose asks whose the token is.
func (a *Access) whose(ctx context.Context, token string) (verdict, error) {
	r, err := a.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return verdict{}, fmt.Errorf("TokenReview: %w", err)
	case r.Status.Authenticated:
		return verdict{status: http.StatusOK, user: r.Status.User}, nil
	case unchecked.MatchString(r.Status.Error):
		return verdict{}, fmt.Errorf("TokenReview: %w: %s", errUnchecked, r.Status.Error)
	default:
		return verdict{status: http.StatusUnauthorized, words: "the cluster does not know this token, or it has expired"}, nil
	}
}

// may asks whether the user may get the path.
func (a *Access) may(ctx context.Context, user authenticationv1.UserInfo, w wish) (verdict, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	r, err := a.rights.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: w.path, Verb: w.verb},
	}}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return verdict{}, fmt.Errorf("SubjectAccessReview: %w", err)
	case r.Status.EvaluationError != "" && !r.Status.Allowed:
		return verdict{}, fmt.Errorf("SubjectAccessReview: %w: %s", errUnchecked, r.Status.EvaluationError)
	case !r.Status.Allowed || r.Status.Denied:
		return verdict{status: http.StatusForbidden, words: fmt.Sprintf("%s may not %s %s: grant it {nonResourceURLs: [%q], verbs: [%s]}", user.Username, w.verb, w.path, w.path, w.verb)}, nil
	default:
		return verdict{status: http.StatusOK}, nil
	}
}
