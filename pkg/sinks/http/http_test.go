package http

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	nethttp "net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// refusing is a receiver that answers so while it refuses.
func refusing(t *testing.T, refuse func(nethttp.ResponseWriter, *nethttp.Request) bool) *receiver {
	r := newReceiver(t)
	r.answer = func(w nethttp.ResponseWriter, req *nethttp.Request, _ *event.Event) bool { return !refuse(w, req) }
	r.start(t)
	return r
}

// TestRefusals shows what an answer means: whether it is about one event or
// about all, and when the receiver is asked again.
func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		why    string
		status int
		header map[string]string
		body   string
		want   string // the error; % is the receiver's URL
		sink   string // the sink's status
		held   bool   // the event is not sent again at once
	}{
		{
			why: "the event is bad, in the receiver's eyes", status: 400, body: "no field spec.size\nsecond line", held: true,
			want: "sink main: event uid-a.1.orders of default/a is refused: % says 400 Bad Request: no field spec.size; " +
				"nothing of its flow is delivered before it is taken, which is tried every 30s",
		},
		{
			why: "it is too large for the receiver", status: 413, held: true,
			want: "sink main: event uid-a.1.orders of default/a is refused: % says 413 Request Entity Too Large; " +
				"nothing of its flow is delivered before it is taken, which is tried every 30s",
		},
		{
			why: "nobody is to come there, whatever he brings", status: 404, held: true,
			want: "sink main: event uid-a.1.orders of default/a is refused: % says 404 Not Found; " +
				"nothing of its flow is delivered before it is taken, which is tried every 30s",
			sink: "sink main: % says 404 Not Found",
		},
		{
			why: "a redirected POST may become a GET", status: 301, header: map[string]string{"Location": "/elsewhere?key=hidden"}, held: true,
			want: "sink main: event uid-a.1.orders of default/a is refused: % says 301 Moved Permanently: it has moved to http://@/elsewhere; write that as url; " +
				"nothing of its flow is delivered before it is taken, which is tried every 30s",
			sink: "sink main: % says 301 Moved Permanently",
		},
		{
			why: "it is busy, and says for how long", status: 429, header: map[string]string{"Retry-After": "120"}, held: true,
			want: "sink main: % says 429 Too Many Requests; it asks to wait for 2m", sink: "sink main: % says 429 Too Many Requests",
		},
		{
			why: "it is busy, and the flow has a pace of its own", status: 503, body: "\x1b[31mdown\x07",
			want: "sink main: % says 503 Service Unavailable: [31mdown", sink: "sink main: % says 503 Service Unavailable",
		},
		{
			why: "it is broken", status: 500, want: "sink main: % says 500 Internal Server Error", sink: "sink main: % says 500 Internal Server Error",
		},
	} {
		t.Run(test.why, func(t *testing.T) {
			refuses := true
			r := refusing(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) bool {
				if !refuses {
					return false
				}
				for name, value := range test.header {
					w.Header().Set(name, value)
				}
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
				return true
			})
			s := open(t, settingsFor(r), nil)
			eventually(t, "it is connected", func() (string, bool) { st := s.Status(); return st.LastError, st.Connected })
			p := s.Publisher(sinks.Flow{})
			batch := []events.Event{change(t, "a", 1), change(t, "a", 2)}
			filled := func(text string) string {
				return strings.ReplaceAll(strings.ReplaceAll(text, "%", r.url()), "@", r.address)
			}
			durable, err := p.Publish(t.Context(), batch)
			if durable != 0 || err == nil || err.Error() != filled(test.want) {
				t.Errorf("Publish returned %d and\n%v, want\n%s", durable, err, filled(test.want))
			}
			if status := s.Status(); status.LastError != filled(test.sink) || !status.Connected {
				t.Errorf("the status is %+v, want\n%s", status, filled(test.sink))
			}

			r.mu.Lock()
			refuses = false
			r.mu.Unlock()
			short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			durable, err = p.Publish(short, batch)
			if held := durable == 0 && err != nil && err.Error() == filled(test.want) && len(r.posts()) == 1; held != test.held {
				t.Errorf("it is sent again at once: %t (%d, %v)", !held, durable, err)
			}
			// Another flow has nothing to do with that.
			if durable, err := s.Publisher(sinks.Flow{}).Publish(t.Context(), []events.Event{change(t, "b", 1)}); durable != 1 {
				t.Errorf("another flow: %d, %v", durable, err)
			}
			if status := s.Status(); status.LastError != "" {
				t.Errorf("when it takes events, the status is %+v", status)
			}
			// New secrets may be what it wanted.
			s.Reconnect()
			if durable, err := p.Publish(t.Context(), batch[durable:]); err != nil {
				t.Errorf("after Reconnect: %d, %v", durable, err)
			}
			var ids []string
			for _, e := range r.all() {
				if e.Subject() == "default/a" {
					ids = append(ids, e.ID())
				}
			}
			if got := fmt.Sprint(ids); got != "[uid-a.1.orders uid-a.2.orders]" {
				t.Errorf("stored is %s", got)
			}
		})
	}
}

// TestRetryAfterIsKept shows that a receiver is not asked again before it wants
// to be.
func TestRetryAfterIsKept(t *testing.T) {
	first := true
	r := refusing(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) bool {
		if !first {
			return false
		}
		first = false
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(nethttp.StatusServiceUnavailable)
		return true
	})
	s := open(t, settingsFor(r), nil)
	p := s.Publisher(sinks.Flow{})
	batch := []events.Event{change(t, "a", 1)}
	eventually(t, "it is refused", func() (string, bool) {
		_, err := p.Publish(t.Context(), batch)
		return fmt.Sprint(err), err != nil && len(r.posts()) == 1
	})
	if durable, err := p.Publish(t.Context(), batch); durable != 1 {
		t.Fatal(durable, err)
	}
	posts := r.posts()
	if between := posts[1].at.Sub(posts[0].at); len(posts) != 2 || between < time.Second {
		t.Errorf("%d requests, the second after %v", len(posts), between)
	}
}

// TestCloseFreesThoseWhoWait shows that nobody waits for a receiver when the
// bridge ends.
func TestCloseFreesThoseWhoWait(t *testing.T) {
	r := refusing(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) bool {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(nethttp.StatusServiceUnavailable)
		return true
	})
	s, err := Open(settingsFor(r), sinks.Environment{Name: "main"})
	if err != nil {
		t.Fatal(err)
	}
	p := s.Publisher(sinks.Flow{})
	batch := []events.Event{change(t, "a", 1)}
	eventually(t, "it is refused", func() (string, bool) {
		_, err := p.Publish(t.Context(), batch)
		return fmt.Sprint(err), len(r.posts()) == 1
	})
	ended := make(chan error)
	go func() {
		_, err := p.Publish(context.WithoutCancel(t.Context()), batch)
		ended <- err
	}()
	eventually(t, "it waits", func() (string, bool) { return "", s.publishing.Inside() == 1 })
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, sinks.ErrClosed) {
		t.Errorf("Publish returned %v", err)
	}
}

// TestSilence shows what is said of a receiver that does not answer.
func TestSilence(t *testing.T) {
	r := newReceiver(t)
	r.start(t)
	settings := settingsFor(r)
	settings.Timeout = 50 * time.Millisecond
	s := open(t, settings, nil)
	p := s.Publisher(sinks.Flow{})
	eventually(t, "it takes events", func() (string, bool) {
		_, err := p.Publish(t.Context(), []events.Event{change(t, "a", 1)})
		return fmt.Sprint(err), err == nil
	})
	r.pause()
	want := "sink main: " + r.url() + " did not answer within 50ms"
	if durable, err := p.Publish(t.Context(), []events.Event{change(t, "a", 2)}); durable != 0 || err == nil || err.Error() != want {
		t.Errorf("Publish returned %d and %v, want %s", durable, err, want)
	}
	if status := s.Status(); status.LastError != want || !status.Connected {
		t.Errorf("the status is %+v", status)
	}
	r.resume()
	if durable, err := p.Publish(t.Context(), []events.Event{change(t, "a", 2)}); durable != 1 {
		t.Errorf("afterwards: %d, %v", durable, err)
	}
	if status := s.Status(); status.LastError != "" {
		t.Errorf("the status is %+v", status)
	}
}

// TestToken shows that the token is sent, that a new one is used when it is
// there, and that neither is told to anybody.
func TestToken(t *testing.T) {
	const old, renewed = "first-secret", "second-secret"
	valid := old
	r := refusing(t, func(w nethttp.ResponseWriter, req *nethttp.Request) bool {
		if req.Header.Get("Authorization") == "Bearer "+valid {
			return false
		}
		nethttp.Error(w, "who are you?", nethttp.StatusUnauthorized)
		return true
	})
	path := file(t, "")
	if err := os.Remove(path); err != nil { // it comes later than the configuration
		t.Fatal(err)
	}
	config := settingsFor(r)
	config.URL += "?code=third-secret"
	config.Auth.TokenFile = path
	log := &settingstest.LogBook{}
	s := open(t, config, log.Logger(slog.LevelDebug))
	var said []string
	deliver := func(version uint64) (err error) {
		p := s.Publisher(sinks.Flow{})
		_, err = p.Publish(t.Context(), []events.Event{change(t, "a", version)})
		said = append(said, fmt.Sprint(err), s.Status().LastError)
		return err
	}
	eventually(t, "the missing file is told", func() (string, bool) {
		err := deliver(1)
		return fmt.Sprint(err), err != nil && strings.Contains(err.Error(), "auth: tokenFile "+path+": no such file or directory")
	})
	if err := os.WriteFile(path, []byte(old+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Reconnect()
	eventually(t, "it takes events", func() (string, bool) { err := deliver(1); return fmt.Sprint(err), err == nil })
	r.mu.Lock()
	valid = renewed
	r.mu.Unlock()
	if err := deliver(2); err == nil || !strings.Contains(err.Error(), "401 Unauthorized: who are you?") {
		t.Errorf("with a token that is no longer valid: %v", err)
	}
	if err := os.WriteFile(path, []byte(renewed), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Reconnect()
	eventually(t, "it takes events again", func() (string, bool) { err := deliver(2); return fmt.Sprint(err), err == nil })
	all := strings.Join(said, "\n") + log.String()
	for _, secret := range []string{old, renewed, "third-secret"} {
		if strings.Contains(all, secret) {
			t.Errorf("%s was told:\n%s", secret, all)
		}
	}
}

// TestTLS shows how server and bridge recognise each other.
func TestTLS(t *testing.T) {
	authority, stranger := settingstest.NewAuthority(t, "ours"), settingstest.NewAuthority(t, "a stranger")
	r := newReceiver(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(authority.PEM))
	cert, key := authority.Issue(t, "receiver.internal")
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	r.tls = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	r.start(t)
	cert, key = authority.Issue(t, "bridge")
	otherCert, otherKey := stranger.Issue(t, "bridge")
	right := settings.TLS{CAFile: file(t, authority.PEM), CertFile: file(t, cert), KeyFile: file(t, key), ServerName: "receiver.internal"}
	for _, test := range []struct {
		why    string
		change func(*settings.TLS)
		want   string
	}{
		{"both know each other", func(*settings.TLS) {}, ""},
		{"an authority that the bridge does not know", func(c *settings.TLS) { c.CAFile = file(t, stranger.PEM) }, "certificate signed by unknown authority"},
		{"another server", func(c *settings.TLS) { c.ServerName = "other" }, "certificate is valid for receiver.internal, not other"},
		{"no certificate, and the server wants one", func(c *settings.TLS) { c.CertFile, c.KeyFile = "", "" }, "certificate required"},
		{"a certificate of a stranger: one that the server would not know is not shown to it", func(c *settings.TLS) { c.CertFile, c.KeyFile = file(t, otherCert), file(t, otherKey) }, "certificate required"},
		{"a key of another certificate", func(c *settings.TLS) { c.KeyFile = file(t, otherKey) }, "private key does not match public key"},
	} {
		t.Run(test.why, func(t *testing.T) {
			config := settingsFor(r)
			config.TLS = right
			test.change(&config.TLS)
			s := open(t, config, nil)
			p := s.Publisher(sinks.Flow{})
			if test.want == "" {
				eventually(t, "it takes events", func() (string, bool) {
					_, err := p.Publish(t.Context(), []events.Event{change(t, "a", 1)})
					return fmt.Sprint(err), err == nil
				})
				return
			}
			eventually(t, "the status says why not", func() (string, bool) {
				status := s.Status()
				return status.LastError, !status.Connected && strings.Contains(status.LastError, test.want)
			})
			if durable, err := p.Publish(t.Context(), []events.Event{change(t, "a", 1)}); durable != 0 || err == nil {
				t.Errorf("Publish returned %d and %v", durable, err)
			}
		})
	}
}

// TestCheck shows what is found before a bridge runs.
func TestCheck(t *testing.T) {
	r := newReceiver(t)
	r.start(t)
	config := settingsFor(r)
	check := func() string {
		found, err := config.Check(t.Context(), sinks.Environment{Name: "main"})
		return fmt.Sprint(found, err)
	}
	if got, want := check(), fmt.Sprintf("[{connection %s answers OPTIONS with 200 OK false false}] <nil>", r.url()); got != want {
		t.Errorf("found is %s, want %s", got, want)
	}
	if len(r.posts()) > 0 {
		t.Error("it has posted something")
	}
	r.kill()
	if got := check(); !strings.Contains(got, "connection refused true false}] <nil>") {
		t.Errorf("found is %s", got)
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		why    string
		change func(*Settings)
		want   string
	}{
		{"a receiver", func(*Settings) {}, ""},
		{"a query is part of a webhook's address", func(s *Settings) { s.URL += "?code=1" }, ""},
		{"nowhere", func(s *Settings) { s.URL = "" }, "http.url: missing; write it as in https://broker.example.com/default"},
		{"a secret", func(s *Settings) { s.URL = "https://user:secret@host" }, "http.url: a user or password in the URL; secrets are never inline: name a file in auth"},
		{"another scheme", func(s *Settings) { s.URL = "nats://host" }, `http.url: "nats": not a scheme of HTTP; write it as in https://broker.example.com/default`},
		{"no host", func(s *Settings) { s.URL = "http:///path" }, "http.url: not a URL with a host; write it as in https://broker.example.com/default"},
		{"a fragment", func(s *Settings) { s.URL += "#there" }, "http.url: a fragment in the URL, which no server gets to see; write it as in https://broker.example.com/default"},
		{"a port that there is not", func(s *Settings) { s.URL = "http://host:99999" }, `http.url: "99999": not a port; write 1 to 65535`},
		{"another mode", func(s *Settings) { s.Mode = "batched" }, `http.mode: "batched": write binary or structured`},
		{"a secret where a file's name should be", func(s *Settings) { s.Auth.TokenFile = "secret\n" }, "http.auth.tokenFile: the content of a file; write the file's name"},
		{"no time at all", func(s *Settings) { s.Timeout = 0 }, "http.timeout: 0s: write at least 1s"},
	} {
		t.Run(test.why, func(t *testing.T) {
			var s Settings
			s.SetDefaults()
			s.URL = "http://host/path"
			test.change(&s)
			var found settingstest.Problems
			s.Validate("http", &found)
			if got := strings.Join(found, "\n"); got != test.want {
				t.Errorf("reported is\n%s, want\n%s", got, test.want)
			}
		})
	}
	settingstest.Agree(t, forms["url"], []string{"http", "HTTPS", "nats", "://", ":", "@", "h", "/", "?", "#", ".", "80"}, false, func(text string) bool {
		_, wrong := parseURL(text)
		return wrong == ""
	})
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, seed := range []string{"", "0", "120", "-1", "4294967296", "Mon, 23 Nov 2026 12:02:00 GMT", "Mon, 23 Nov 2020 12:02:00 GMT", "1.5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d := retryAfter(text, now); d < 0 || d > longestWait {
			t.Errorf("%q is %v", text, d)
		}
		if line := firstLine([]byte(text)); strings.ContainsAny(line, "\n\r\x1b\x00") || len([]rune(line)) > 201 {
			t.Errorf("%q is shown as %q", text, line)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"120":                           2 * time.Minute,
		"Mon, 23 Nov 2026 12:02:00 GMT": 2 * time.Minute,
		"Mon, 23 Nov 2020 12:02:00 GMT": 0,         // it is over
		"86400":                         time.Hour, // nobody waits for a day because of one answer
		"soon":                          0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q is %v, not %v", text, got, want)
		}
	}
}
