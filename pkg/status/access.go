package status

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
)

// Access has the cluster say who may read: a TokenReview tells whose a request's
// bearer token is, and a SubjectAccessReview whether that user may get the path,
// as for the API server's own /metrics. It is what controller-runtime's
// metrics/filters does. That is built on k8s.io/apiserver's delegating
// authentication, with gRPC, OpenTelemetry and konnectivity in it, which would
// be most of what the bridge is linked of, for these two requests.
type Access struct {
	tokens authenticationclient.TokenReviewInterface
	rights authorizationclient.SubjectAccessReviewInterface
	log    *slog.Logger
	asking chan struct{} // holds a token for each request of a reader that the cluster is asked about

	mu      sync.Mutex
	answers map[[sha256.Size]byte]answer
}

// answer is what the cluster said of one token and path, and until when that is
// taken for true.
type answer struct {
	status int
	words  string
	until  time.Time
}

const (
	// allowedFor is how long one whose token or right was taken away may go on
	// reading, refusedFor how long one who was given them may have to wait.
	allowedFor = time.Minute
	refusedFor = 10 * time.Second
	// mostAnswers bounds what is remembered, also of those who try tokens.
	mostAnswers = 1024
	// mostAsking bounds what those who try tokens make of work for the API server.
	mostAsking = 16
	// askTimeout bounds the two requests, and how long one waits for them.
	askTimeout = 10 * time.Second
	// mostToken is longer than tokens are.
	mostToken = 16 << 10
)

// NewAccess asks the cluster by these clients.
func NewAccess(tokens authenticationclient.TokenReviewInterface, rights authorizationclient.SubjectAccessReviewInterface, log *slog.Logger) *Access {
	return &Access{tokens: tokens, rights: rights, log: log, asking: make(chan struct{}, mostAsking), answers: map[[sha256.Size]byte]answer{}}
}

// challenge has browsers ask for a password: who has no way to send a bearer
// token can give it there.
const challenge = `Basic realm="crbridge: any user name, and a token of the cluster as the password", charset="UTF-8"`

// guard lets those through who may get the path.
func (a *Access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := tokenOf(r)
		if token == "" {
			w.Header().Set("WWW-Authenticate", challenge)
			http.Error(w, "a token of the cluster is needed: as a bearer token, or as the password of any user", http.StatusUnauthorized)
			return
		}
		verdict := a.ask(r.Context(), token, strings.ToLower(r.Method), rightFor(r.URL.Path))
		if verdict.status == http.StatusOK {
			next.ServeHTTP(w, r)
			return
		}
		if verdict.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", challenge)
		}
		http.Error(w, verdict.words, verdict.status)
	})
}

// rightFor is the path that one has to have the right to. Metrics and profiles
// are rights of their own, the rest is the status page in one form or another:
// who may get / may get all of it. /api/status cannot be a right: every cluster
// has the role system:discovery, by which all users may get /api/*.
func rightFor(path string) string {
	if path == "/metrics" || strings.HasPrefix(path, "/debug/pprof/") {
		return path
	}
	return "/"
}

// tokenOf is the request's token; empty where it has none.
func tokenOf(r *http.Request) string {
	token := ""
	if scheme, rest, found := strings.Cut(r.Header.Get("Authorization"), " "); found && strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(rest)
	} else if _, password, is := r.BasicAuth(); is {
		token = strings.TrimSpace(password)
	}
	if len(token) > mostToken {
		return ""
	}
	return token
}

func (a *Access) ask(ctx context.Context, token, verb, path string) answer {
	key := sha256.Sum256([]byte(verb + " " + path + " " + token)) // tokens themselves are not kept
	now := time.Now()
	a.mu.Lock()
	known, is := a.answers[key]
	a.mu.Unlock()
	if is && now.Before(known.until) {
		return known
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return answer{status: http.StatusServiceUnavailable, words: "too many readers have to be asked about; try again"}
	}
	verdict, err := a.review(ctx, token, verb, path)
	if err != nil {
		a.log.Warn("who reads the status cannot be found out", "path", path, "error", err)
		return answer{status: http.StatusServiceUnavailable, words: "the cluster does not say whether this token may read: " + err.Error()}
	}
	verdict.until = now.Add(refusedFor)
	if verdict.status == http.StatusOK {
		verdict.until = now.Add(allowedFor)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.answers) >= mostAnswers {
		for key, old := range a.answers {
			if now.After(old.until) || len(a.answers) >= mostAnswers {
				delete(a.answers, key)
			}
		}
	}
	a.answers[key] = verdict
	return verdict
}

// review asks the cluster.
func (a *Access) review(ctx context.Context, token, verb, path string) (answer, error) {
	who, err := a.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return answer{}, fmt.Errorf("TokenReview: %w", err)
	}
	if !who.Status.Authenticated {
		return answer{status: http.StatusUnauthorized, words: "the cluster does not know this token, or it has expired"}, nil
	}
	user := who.Status.User
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	may, err := a.rights.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: verb},
	}}, metav1.CreateOptions{})
	if err != nil {
		return answer{}, fmt.Errorf("SubjectAccessReview: %w", err)
	}
	if may.Status.EvaluationError != "" && !may.Status.Allowed {
		return answer{}, errors.New("SubjectAccessReview: " + may.Status.EvaluationError)
	}
	if !may.Status.Allowed || may.Status.Denied {
		return answer{status: http.StatusForbidden, words: fmt.Sprintf("%s may not %s %s: grant it {nonResourceURLs: [%q], verbs: [%s]}", user.Username, verb, path, path, verb)}, nil
	}
	return answer{status: http.StatusOK}, nil
}
