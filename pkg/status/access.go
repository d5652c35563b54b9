package status

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"strings"
	"time"

	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
)

// Access has the cluster say who may read: a TokenReview tells whose a request's
// bearer token is, and a SubjectAccessReview whether that user may get the path,
// as for the API server's own /metrics. It is what controller-runtime's
// metrics/filters does. That is built on k8s.io/apiserver's delegating
// authentication, with gRPC, OpenTelemetry and konnectivity in it, which would
// be most of what the bridge is linked of, for these two requests.
//
// What the cluster said is taken for true for a minute; a request that takes
// longer is asked about again while it does, and ends when it is not allowed
// any more, or the cluster does not say.
type Access struct {
	tokens authenticationclient.TokenReviewInterface
	rights authorizationclient.SubjectAccessReviewInterface

	readers, permits *questions
}

// NewAccess asks the cluster by these clients.
func NewAccess(tokens authenticationclient.TokenReviewInterface, rights authorizationclient.SubjectAccessReviewInterface, log *slog.Logger) *Access {
	return &Access{
		tokens: tokens, rights: rights,
		readers: newQuestions("TokenReview", log), permits: newQuestions("SubjectAccessReview", log),
	}
}

const (
	// challenge has browsers ask for a password: who has no way to send a bearer
	// token can give it there.
	challenge = `Basic realm="crbridge: any user name, and a token of the cluster as the password", charset="UTF-8"`
	// mostToken is longer than tokens are.
	mostToken = 16 << 10
	// mostMethod and mostPath are longer than what there is to ask for: what is
	// asked of the cluster, and remembered, is as long as they are.
	mostMethod, mostPath = 16, 256
)

// wish is what a request needs to be allowed.
type wish struct {
	token [sha256.Size]byte // tokens themselves are not kept
	verb  string
	path  string
}

// guard lets those through who may get the path, for as long as they may.
func (a *Access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := tokenOf(r)
		if token == "" {
			w.Header().Set("WWW-Authenticate", challenge)
			http.Error(w, "a token of the cluster is needed: as a bearer token, or as the password of any user", http.StatusUnauthorized)
			return
		}
		if len(r.Method) > mostMethod || len(r.URL.Path) > mostPath {
			http.NotFound(w, r) // it is none of ours, and nobody has to remember it
			return
		}
		ask := func(ctx context.Context) verdict {
			return a.ask(ctx, token, wish{sha256.Sum256([]byte(token)), strings.ToLower(r.Method), rightFor(r.URL.Path)})
		}
		v := ask(r.Context())
		switch v.status {
		case http.StatusOK:
			ctx, end := whileAllowed(r.Context(), v.until, ask)
			defer end()
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", challenge)
		case http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, v.words, v.status)
	})
}

// whileAllowed is a context that is done when the answer that is good until
// then is followed by one that is no. Streams and profiles end with it; most
// requests have ended long before there is anything to do.
func whileAllowed(ctx context.Context, until time.Time, ask func(context.Context) verdict) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(time.Until(until), func() {
		defer cancel()
		for ctx.Err() == nil {
			v := ask(ctx)
			if v.status != http.StatusOK {
				return
			}
			select {
			case <-time.After(time.Until(v.until)):
			case <-ctx.Done():
			}
		}
	})
	return ctx, func() {
		timer.Stop()
		cancel()
	}
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

// ask is whether the wish is granted: by what is remembered, or by the cluster.
func (a *Access) ask(ctx context.Context, token string, w wish) verdict {
	reader := a.readers.ask(ctx, wish{token: w.token}, func(ctx context.Context) (verdict, error) { return a.whose(ctx, token) })
	if reader.status != http.StatusOK {
		return reader
	}
	v := a.permits.ask(ctx, w, func(ctx context.Context) (verdict, error) { return a.may(ctx, reader.user, w) })
	if reader.until.Before(v.until) {
		v.until = reader.until
	}
	return v
}
