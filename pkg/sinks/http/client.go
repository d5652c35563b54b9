package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	nethttp "net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

const (
	// connectTimeout is for the server to be reached, and for the handshake.
	connectTimeout = 5 * time.Second
	// probeTimeout is for the answer to an empty request.
	probeTimeout = 10 * time.Second
	// atOnce bounds the connections, and with them the requests on their way.
	atOnce = 64
	// answerBytes is how much of an answer is read: enough to say what was
	// wrong, and to use the connection again after most answers.
	answerBytes = 16 << 10
	// longestWait bounds what a Retry-After may ask for.
	longestWait = time.Hour
)

// dialer makes clients, each with what the files have at that moment.
type dialer struct {
	settings Settings
	url      *url.URL
	shown    string // the URL for people
}

func newDialer(s Settings) (*dialer, error) {
	u, wrong := parseURL(s.URL)
	if wrong != "" {
		return nil, errors.New("url: " + wrong)
	}
	if s.Mode == "" {
		s.Mode = sinks.Binary
	}
	if s.Timeout == 0 {
		s.Timeout = usualTimeout
	}
	if err := s.TLS.Check(); err != nil {
		return nil, err
	}
	return &dialer{settings: s, url: u, shown: shown(u)}, nil
}

// client speaks to the receiver.
type client struct {
	*dialer
	http  *nethttp.Client
	token string
}

// dial reads the files. It does not connect.
func (d *dialer) dial() (*client, error) {
	config, err := d.settings.TLS.Config()
	if err != nil {
		return nil, err
	}
	var token string
	if file := d.settings.Auth.TokenFile; file != "" {
		secret, err := settings.ReadSecret("tokenFile", file)
		if err != nil {
			return nil, err
		}
		token = string(secret)
	}
	return &client{
		dialer: d, token: token,
		http: &nethttp.Client{
			Transport: &nethttp.Transport{
				Proxy:               nethttp.ProxyFromEnvironment,
				DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
				TLSClientConfig:     config,
				TLSHandshakeTimeout: connectTimeout,
				ForceAttemptHTTP2:   true,
				MaxConnsPerHost:     atOnce,
				MaxIdleConnsPerHost: atOnce,
				IdleConnTimeout:     90 * time.Second,
			},
			// Go makes a GET without a body of most redirected requests.
			CheckRedirect: func(*nethttp.Request, []*nethttp.Request) error { return nethttp.ErrUseLastResponse },
		},
	}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// status is that of an answer.
type status int

func (s status) String() string {
	return strings.TrimSpace(strconv.Itoa(int(s)) + " " + nethttp.StatusText(int(s)))
}

func (s status) fine() bool { return 200 <= s && s <= 299 }

// passing tells whether the same request may be taken later: RFC 9110, section
// 15.5.9 and 15.6; RFC 8470 (Too Early); RFC 6585 (Too Many Requests).
func (s status) passing() bool {
	switch s {
	case nethttp.StatusRequestTimeout, nethttp.StatusTooEarly, nethttp.StatusTooManyRequests:
		return true
	}
	return s >= 500
}

// ofAll tells whether the answer is about who asks, or where, and not about the event.
func (s status) ofAll() bool {
	switch s {
	case nethttp.StatusUnauthorized, nethttp.StatusForbidden, nethttp.StatusNotFound, nethttp.StatusMethodNotAllowed,
		nethttp.StatusProxyAuthRequired, nethttp.StatusGone:
		return true
	}
	return s < 200 || 300 <= s && s <= 399 || s.passing()
}

// probe finds out whether the server answers.
func (c *client) probe(ctx context.Context) (status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, &silenceError{c.shown, probeTimeout})
	defer cancel()
	request, err := nethttp.NewRequestWithContext(ctx, nethttp.MethodOptions, c.url.String(), nil)
	if err != nil {
		return 0, err
	}
	s, _, err := c.do(ctx, request)
	return s, err
}

// silenceError says that the server can be reached and has not answered.
type silenceError struct {
	url     string
	timeout time.Duration
}

func (e *silenceError) Error() string {
	return fmt.Sprintf("%s did not answer within %s", e.url, settings.ShortDuration(e.timeout))
}

// refusal is an answer that is not 2xx.
type refusal struct {
	status status
	answer
}

func (r *refusal) Error() string { return r.status.String() }

// post sends one event. The error is a *refusal where the server answered.
func (c *client) post(ctx context.Context, e *events.Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.settings.Timeout, &silenceError{c.shown, c.settings.Timeout})
	defer cancel()
	encoding := binding.WithForceBinary(ctx)
	if c.settings.Mode == sinks.Structured {
		encoding = binding.WithForceStructured(ctx)
	}
	request, err := cehttp.NewHTTPRequestFromEvent(encoding, c.url.String(), e.CloudEvent())
	if err != nil {
		return fmt.Errorf("event %s as a request: %w", e.ID(), err)
	}
	s, answer, err := c.do(ctx, request)
	switch {
	case err != nil:
		return err
	case s.fine():
		return nil
	}
	return &refusal{s, answer}
}

// answer is what a response has besides its status.
type answer struct {
	words string        // of it, for people
	after time.Duration // what the server asks to wait; 0 where it does not
}

func (c *client) do(ctx context.Context, request *nethttp.Request) (status, answer, error) {
	request.Header.Set("User-Agent", "crbridge")
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return 0, answer{}, context.Cause(ctx)
		}
		return 0, answer{}, fmt.Errorf("%s: %w", c.shown, unwrapped(err))
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, answerBytes)) // what there is of it is for people
	a := answer{words: firstLine(body), after: retryAfter(response.Header.Get("Retry-After"), time.Now())}
	if location := response.Header.Get("Location"); 300 <= response.StatusCode && response.StatusCode <= 399 && location != "" {
		if u, err := c.url.Parse(location); err == nil {
			a.words = "it has moved to " + shown(u) + "; write that as url"
		}
	}
	return status(response.StatusCode), a, nil
}

// unwrapped is an error without the URL, which may hold a secret.
func unwrapped(err error) error {
	if wrapped, is := errors.AsType[*url.Error](err); is {
		return wrapped.Err
	}
	return err
}

// firstLine is the beginning of an answer, as far as it can be printed.
func firstLine(body []byte) string {
	const longest = 200
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	line = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(line, ""))
	if runes := []rune(line); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return line
}

// retryAfter reads a Retry-After (RFC 9110, section 10.2.3): seconds, or a
// date. It is 0 for anything else, and for what has passed.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, longestWait)
	}
	if at, err := nethttp.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), longestWait)
	}
	return 0
}
