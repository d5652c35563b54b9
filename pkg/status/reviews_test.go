package status

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cluster is what a test says instead of the cluster; how the real one is asked
// TestAccess shows.
type cluster struct {
	asked atomic.Int64
	bad   sync.Map // tokens
	err   atomic.Pointer[error]
	takes time.Duration
}

func (c *cluster) ask(ctx context.Context, q *questions, token string) verdict {
	return q.ask(ctx, wishOf(token), func(ctx context.Context) (verdict, error) {
		c.asked.Add(1)
		select {
		case <-time.After(c.takes):
		case <-ctx.Done():
			return verdict{}, ctx.Err()
		}
		if err := c.err.Load(); err != nil {
			return verdict{}, *err
		}
		if _, bad := c.bad.Load(token); bad || strings.HasPrefix(token, "bad") {
			return verdict{status: http.StatusUnauthorized}, nil
		}
		return verdict{status: http.StatusOK}, nil
	})
}

func wishOf(token string) wish { return wish{token: sha256.Sum256([]byte(token))} }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestAnswersAreRemembered shows for how long.
func TestAnswersAreRemembered(t *testing.T) {
	for _, row := range []struct {
		why, token string
		turns      bool // into its opposite at once
		after      time.Duration
		asked      int64
		status     int
	}{
		{"a yes for a minute", "good", true, allowedFor - time.Second, 1, 200},
		{"and no longer", "good", true, allowedFor, 2, 401},
		{"a no for ten seconds", "bad", false, refusedFor - time.Second, 1, 401},
		{"and no longer", "bad", false, refusedFor + time.Second, 2, 401},
		{"a yes may be asked for again", "good", false, allowedFor, 2, 200},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, c := newQuestions("TokenReview", quiet()), &cluster{}
				c.ask(t.Context(), q, row.token)
				if row.turns {
					c.bad.Store(row.token, true)
				}
				time.Sleep(row.after)
				if got := c.ask(t.Context(), q, row.token).status; got != row.status || c.asked.Load() != row.asked {
					t.Errorf("status %d after %d questions", got, c.asked.Load())
				}
			})
		})
	}
}

// TestThoseWhoTryTokens shows that they make little work for the API server, and
// keep out nobody whom it has let in before.
func TestThoseWhoTryTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, c := newQuestions("TokenReview", quiet()), &cluster{}
		for n := range 100 {
			for c.ask(t.Context(), q, fmt.Sprint("good", n)).status != http.StatusOK {
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Second * strangeAtOnce / strangePerSecond)
		c.asked.Store(0)
		began := time.Now()
		var refused int
		for n := range 10 * mostAnswers { // for 102 s, which is longer than a yes is good for
			if c.ask(t.Context(), q, fmt.Sprint("bad", n)).status == http.StatusServiceUnavailable {
				refused++
			}
			time.Sleep(10 * time.Millisecond)
		}
		most := int64(strangeAtOnce + strangePerSecond*time.Since(began).Seconds() + 1)
		if asked := c.asked.Load(); asked > most || asked < most/2 || refused != 10*mostAnswers-int(asked) {
			t.Errorf("%d tokens are asked about and %d are not, within %v", asked, refused, time.Since(began))
		}
		for n := range 100 {
			if got := c.ask(t.Context(), q, fmt.Sprint("good", n)).status; got != http.StatusOK {
				t.Fatalf("reader %d: status %d", n, got)
			}
		}
		if got := c.ask(t.Context(), q, "bad"); got.status == http.StatusOK {
			t.Error("a bad token is good")
		}
	})
}

// TestBadAnswersPushOutNoGoodOne shows that the two have rooms of their own, and
// that what is remembered is bounded.
func TestBadAnswersPushOutNoGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, c := newQuestions("TokenReview", quiet()), &cluster{}
		c.ask(t.Context(), q, "good")
		for n := range 2 * mostAnswers {
			q.no.Add(wishOf(fmt.Sprint("bad", n)), verdict{status: http.StatusUnauthorized}, refusedFor)
		}
		if _, is, _ := q.known(wishOf("good")); !is || len(q.no.Keys()) != mostAnswers {
			t.Errorf("the good answer is there: %v; and %d bad ones", is, len(q.no.Keys()))
		}
	})
}

// TestOneReviewATime shows that those who ask the same wait for one answer, also
// when the one who asked first has gone, and that others do not wait.
func TestOneReviewATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, c := newQuestions("TokenReview", quiet()), &cluster{takes: 5 * time.Second}
		first, leave := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		var yes atomic.Int64
		for n := range 100 {
			ctx := t.Context()
			if n == 0 {
				ctx = first
			}
			wait.Go(func() {
				if c.ask(ctx, q, "good").status == http.StatusOK {
					yes.Add(1)
				}
			})
			synctest.Wait()
		}
		leave()
		other := &cluster{}
		if got := other.ask(t.Context(), q, "other").status; got != http.StatusOK {
			t.Errorf("another token: status %d", got)
		}
		wait.Wait()
		if c.asked.Load() != 1 || yes.Load() != 100 {
			t.Errorf("%d reviews, and %d are let in", c.asked.Load(), yes.Load())
		}
	})
}

// TestNoAnswer shows that an error is told, is no answer, and is one line in the
// log whatever was asked for.
func TestNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		q, c := newQuestions("TokenReview", slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "detail" { // which repeated lines may differ in
				return slog.Attr{}
			}
			return a
		}}))), &cluster{}
		for n := range 3 {
			err := fmt.Errorf("Post https://10.0.0.1/: read tcp 10.0.0.2:%d: reset", n)
			c.err.Store(&err)
			v := c.ask(t.Context(), q, fmt.Sprint("good", n))
			if v.status != http.StatusServiceUnavailable || strings.Contains(v.words, "10.0.0") || !strings.Contains(v.words, "TokenReview") {
				t.Errorf("status %d: %s", v.status, v.words)
			}
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 3 || lines[0] != lines[1] || lines[1] != lines[2] || !strings.Contains(lines[0], "problem=NoAnswer") {
			t.Errorf("the log says %s", log.String())
		}
		c.err.Store(nil)
		if v := c.ask(t.Context(), q, "good0"); v.status != http.StatusOK {
			t.Errorf("when the cluster answers again: %d", v.status)
		}
	})
}

// TestWhileAllowed shows that what takes long ends when it is not allowed any
// more, within the minute.
func TestWhileAllowed(t *testing.T) {
	for _, row := range []struct {
		why     string
		changes func(*cluster)
		lasts   time.Duration
	}{
		{"it is allowed all the time", func(*cluster) {}, 10 * time.Minute},
		{"the token is taken away", func(c *cluster) { c.bad.Store("good", true) }, 4 * allowedFor},
		{"the cluster does not answer any more", func(c *cluster) { err := errors.New("no"); c.err.Store(&err) }, 4 * allowedFor},
	} {
		t.Run(row.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, c := newQuestions("TokenReview", quiet()), &cluster{}
				ask := func(ctx context.Context) verdict { return c.ask(ctx, q, "good") }
				began := time.Now()
				ctx, end := whileAllowed(t.Context(), ask(t.Context()).until, ask)
				defer end()
				time.Sleep(3*allowedFor + time.Second)
				row.changes(c)
				select {
				case <-ctx.Done():
				case <-time.After(time.Until(began.Add(10 * time.Minute))):
				}
				if lasted := time.Since(began); lasted != row.lasts {
					t.Errorf("it lasts %v", lasted)
				}
			})
		})
	}
}

// TestWishes shows that what differs in anything is another question.
func TestWishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, asked := newQuestions("SubjectAccessReview", quiet()), map[wish]int{}
		token := sha256.Sum256([]byte("token"))
		wishes := []wish{{token, "get", "/"}, {token, "get /", ""}, {token, "", "get\x00/"}, {token, "get", "/metrics"}, {sha256.Sum256([]byte("other")), "get", "/"}}
		want := map[wish]int{}
		for _, w := range wishes {
			want[w] = 1
			for range 2 {
				q.ask(t.Context(), w, func(context.Context) (verdict, error) {
					asked[w]++
					return verdict{status: http.StatusForbidden}, nil
				})
			}
		}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestWhatIsNoWish shows that what is longer than all that there is to ask for is
// neither asked about nor remembered: it may be a megabyte, and another each time.
func TestWhatIsNoWish(t *testing.T) {
	a := NewAccess(nil, nil, quiet()) // to ask by these would panic
	for _, row := range []struct{ method, path string }{
		{http.MethodGet, "/debug/pprof/" + strings.Repeat("x", mostPath)},
		{strings.Repeat("X", mostMethod+1), "/"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), row.method, row.path, nil)
		r.Header.Set("Authorization", "Bearer token")
		answer := httptest.NewRecorder()
		a.guard(nil).ServeHTTP(answer, r)
		if answer.Code != http.StatusNotFound {
			t.Errorf("%.20s %.20s: %d", row.method, row.path, answer.Code)
		}
	}
}

// TestUnchecked holds what kube-apiserver 1.36 says in a TokenReview of a token
// that it does not take against what is made of it.
func TestUnchecked(t *testing.T) {
	const down = `Post "https://127.0.0.1:1/x?timeout=30s": dial tcp 127.0.0.1:1: connect: connection refused`
	for _, row := range []struct {
		why, says string
		unchecked bool
	}{
		{"no token of this cluster", "invalid bearer token", false},
		{"a signature that is not right", "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]", false},
		{"a token that has expired", "[invalid bearer token, service account token has expired]", false},
		{"a service account that is gone", `[invalid bearer token, serviceaccounts "reader" not found]`, false},
		{"another provider's", `oidc: id token issued by a different provider, expected "https://a.example.com" got "https://b.example.com"`, false},
		{"nothing is said", "", false},
		{"a webhook is down", "[invalid bearer token, " + down + "]", true},
		{"it is for a bad token too, which cannot be told then", "[invalid bearer token, go-jose/go-jose: error in cryptographic primitive, " + down + "]", true},
		{"a provider of keys is down", `oidc: verify token: fetching keys oidc: get keys failed Get "https://issuer.example.com/keys": EOF`, true},
		{"a provider is not known yet", "oidc: authenticator not initialized", true},
		{"etcd does not answer", "etcdserver: request timed out", true},
		{"something takes too long", "context deadline exceeded", true},
	} {
		if got := unchecked.MatchString(row.says); got != row.unchecked {
			t.Errorf("%s: %v", row.why, got)
		}
	}
}
