package sources

import (
	"context"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// The requests are controller-runtime's, with its selectors, and client-go
// makes them, with its retries and its errors. What it would do with the
// answer, decode all of it, costs more than everything else that the bridge
// does. So the context of such a request may ask for the body: the transport
// then keeps it for who asked, and client-go gets another one.

// answer is where the body of an answer goes.
type answer struct {
	instead string // what client-go reads

	mu   sync.Mutex
	body io.ReadCloser
	gone bool // nobody wants it any more
}

// Bodies that client-go can do something with.
const (
	emptyList = `{"apiVersion":"v1","kind":"List","metadata":{},"items":[]}`
	noEvents  = "" // a watch that ended at once, so that nobody waits for it
)

type answerKey struct{}

// asking is a context for one request whose answer's body is wanted.
func asking(ctx context.Context, instead string) (context.Context, *answer) {
	a := &answer{instead: instead}
	return context.WithValue(ctx, answerKey{}, a), a
}

// take is the body, as it comes; nil where client-go has been left to read it.
func (a *answer) take() io.ReadCloser {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.body
}

// close closes the body, if there is one or will be.
func (a *answer) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	if a.body != nil {
		_ = a.body.Close() // the answer is of no more interest
	}
}

// bodies is the transport that keeps bodies for those who ask.
type bodies struct{ inner http.RoundTripper }

var _ utilnet.RoundTripperWrapper = bodies{}

// WrappedRoundTripper is how client-go finds the connections below.
func (b bodies) WrappedRoundTripper() http.RoundTripper { return b.inner }

// RoundTrip leaves to client-go what is no success, or not JSON.
func (b bodies) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.inner.RoundTrip(request)
	a, asked := request.Context().Value(answerKey{}).(*answer)
	if err != nil || !asked || response.StatusCode != http.StatusOK || !isJSON(response.Header.Get("Content-Type")) {
		return response, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone {
		_ = response.Body.Close() // as above
	}
	a.body = response.Body
	response.Body = io.NopCloser(strings.NewReader(a.instead))
	response.ContentLength = -1
	return response, nil
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json"
}
