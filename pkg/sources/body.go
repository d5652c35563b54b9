package sources

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// The requests are controller-runtime's, with its selectors, and client-go
// makes them, with its retries and its errors. What it would do with the
// answer, decode all of it, costs more than everything else that the bridge
// does. So the context of such a request may ask for the body: the transport
// then keeps it for who asked, and client-go gets another one.

// wanted is what a request is made for, other than what client-go would do.
type wanted struct {
	accept  string // instead of client-go's own; empty: that
	media   string // of a body that can be read here
	instead string // what client-go reads then, in JSON

	dedicated bool // over a connection of its own, if that can be had
}

var (
	objectsWanted  = wanted{media: "application/json", instead: emptyList}
	eventsWanted   = wanted{media: "application/json", instead: noEvents}
	metadataWanted = wanted{accept: acceptMetadata, media: "application/vnd.kubernetes.protobuf", instead: emptyList}
)

// acceptMetadata asks for metadata alone
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches),
// and takes whole objects from an API server that does not know that.
const acceptMetadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

// answer is where the body of an answer goes.
type answer struct {
	wanted

	mu   sync.Mutex
	body io.ReadCloser
	by   conveyance
	gone bool // nobody wants it any more
}

// conveyance is how an answer came.
type conveyance struct {
	missing     bool // it did not, or it was an error
	dedicated   bool // over a connection of its own
	multiplexed bool // over HTTP/2, which others may share
}

// Bodies that client-go can do something with.
const (
	emptyList = `{"apiVersion":"v1","kind":"List","metadata":{},"items":[]}`
	noEvents  = "" // a watch that ended at once, so that nobody waits for it
)

type answerKey struct{}

// asking is a context for one request whose answer's body is wanted.
func asking(ctx context.Context, w wanted) (context.Context, *answer) {
	a := &answer{wanted: w}
	return context.WithValue(ctx, answerKey{}, a), a
}

// take is the body, as it comes; nil where client-go has been left to read it.
func (a *answer) take() io.ReadCloser {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.body
}

// conveyed tells how the body comes.
func (a *answer) conveyed() conveyance {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.by
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
type bodies struct {
	inner     http.RoundTripper
	dedicated http.RoundTripper // for requests that are to have a connection of their own
}

var _ utilnet.RoundTripperWrapper = bodies{}

// WrappedRoundTripper is how client-go finds the connections below.
func (b bodies) WrappedRoundTripper() http.RoundTripper { return b.inner }

// RoundTrip leaves to client-go what is no success, or not what was asked for.
func (b bodies) RoundTrip(request *http.Request) (*http.Response, error) {
	a, asked := request.Context().Value(answerKey{}).(*answer)
	if asked && a.accept != "" {
		request = request.Clone(request.Context()) // it is not to be changed, see http.RoundTripper
		request.Header.Set("Accept", a.accept)
	}
	var by conveyance
	var response *http.Response
	var err error
	if asked && a.dedicated && b.dedicated != nil {
		response, err = b.overItsOwn(request)
		by.dedicated = err == nil
	}
	if !by.dedicated {
		response, err = b.inner.RoundTrip(request)
	}
	if !asked {
		return response, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.by = conveyance{missing: true} // client-go may have asked before
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	by.multiplexed = !by.dedicated && response.ProtoMajor == 2
	a.by = by
	if !is(a.media, response.Header.Get("Content-Type")) {
		return response, nil
	}
	if a.gone {
		_ = response.Body.Close() // as above
	}
	a.body = response.Body
	response.Body = io.NopCloser(strings.NewReader(a.instead))
	response.ContentLength = -1
	response.Header.Set("Content-Type", "application/json")
	return response, nil
}

var errNotGranted = errors.New("not granted over a connection of its own")

// overItsOwn makes the request over a connection of its own, and gives its answer
// where it was granted. It fails in time for it to be made over a shared one,
// whatever is between here and the API server: client-go would not tell of most
// such failures, as it tries for ten seconds, and takes what was cut off for a
// watch that has ended; and an error may be that of one who does not let HTTP/1.1
// through. If it is the API server's, it says so again.
func (b bodies) overItsOwn(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(request.Context())
	late := time.AfterFunc(openTimeout, cancel)
	response, err := b.dedicated.RoundTrip(request.WithContext(ctx))
	inTime := late.Stop()
	if err == nil && (!inTime || response.StatusCode != http.StatusOK) {
		_ = response.Body.Close() // nobody reads it
		err = errNotGranted
	}
	if err != nil {
		cancel()
		return nil, err
	}
	response.Body = cancelling{response.Body, cancel}
	return response, nil
}

// cancelling is a body that ends its request's context when it is closed.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

func is(media, contentType string) bool {
	of, _, err := mime.ParseMediaType(contentType)
	return err == nil && of == media
}
