package http

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Settings are the keys of a sink that posts to a URL.
type Settings struct {
	// Where events are posted to. Never with a user or password.
	URL string `koanf:"url" rule:"required,url"`
	// How an event becomes a request: `binary` makes its attributes headers and
	// its data the body, `structured` the whole event one JSON body.
	Mode sinks.Mode `koanf:"mode"`
	// How the bridge says who it is. Default: it does not.
	Auth Auth `koanf:"auth"`
	// How server and bridge recognise each other, where the URL is one of
	// https.
	TLS settings.TLS `koanf:"tls"`
	// For how long the receiver may take for its answer; at least 1s.
	Timeout time.Duration `koanf:"timeout"`
}

// Auth names the file of the bridge's credentials. It is read anew when it has
// changed, and may be there later than the configuration.
type Auth struct {
	// Holds a token, which is sent as `Authorization: Bearer`.
	TokenFile string `koanf:"tokenFile" rule:"file"`
}

const (
	usualTimeout    = 30 * time.Second
	shortestTimeout = time.Second
)

// SetDefaults implements settings.Defaulted.
func (s *Settings) SetDefaults() { *s = Settings{Mode: sinks.Binary, Timeout: usualTimeout} }

var forms = map[string]settings.Form{
	"url": {Title: "URL", Pattern: `[Hh][Tt][Tt][Pp][Ss]?://[^/@?#]+[^#]*`},
}

// Forms implements settings.Formed.
func (Settings) Forms() map[string]settings.Form { return forms }

// Validate implements sinks.Settings.
func (s *Settings) Validate(at settings.Path, r settings.Report) {
	if _, wrong := parseURL(s.URL); wrong != "" {
		r.Value(at.Key("url"), "%s", wrong)
	}
	settings.OneOf(r, at.Key("mode"), s.Mode)
	settings.Files(r, at.Key("auth"), settings.File{Key: "tokenFile", Name: s.Auth.TokenFile})
	s.TLS.Validate(at.Key("tls"), r)
	if s.Timeout < shortestTimeout {
		r.Value(at.Key("timeout"), "%s: write at least %s", settings.ShortDuration(s.Timeout), settings.ShortDuration(shortestTimeout))
	}
}

// parseURL says what is wrong with a URL, and does not repeat what may be or
// hold a secret.
func parseURL(raw string) (u *url.URL, wrong string) {
	const form = "write it as in https://broker.example.com/default"
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return nil, "missing; " + form
	case err != nil:
		return nil, "not a URL; " + form
	case u.User != nil:
		return nil, "a user or password in the URL; secrets are never inline: name a file in auth"
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, settings.Quote(u.Scheme) + ": not a scheme of HTTP; " + form
	case u.Hostname() == "":
		return nil, "not a URL with a host; " + form
	case strings.Contains(raw, "#"):
		return nil, "a fragment in the URL, which no server gets to see; " + form
	}
	if port := u.Port(); port != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, settings.Quote(port) + ": not a port; write 1 to 65535"
		}
	}
	return u, ""
}

// shown is a URL for people: without its query, which may hold a secret.
func shown(u *url.URL) string {
	without := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return without.String()
}

// KeepsLedgers implements sinks.Settings: a receiver only takes.
func (*Settings) KeepsLedgers() bool { return false }

// Files implements sinks.Settings.
func (s *Settings) Files() []string { return append([]string{s.Auth.TokenFile}, s.TLS.Files()...) }

// Same implements sinks.Settings.
func (s *Settings) Same(other sinks.Settings) string {
	o, is := other.(*Settings)
	u, wrong := parseURL(s.URL)
	if !is || wrong != "" || !strings.EqualFold(s.URL, o.URL) {
		return ""
	}
	return "URL, " + settings.Quote(shown(u)) + ","
}

// Open implements sinks.Settings.
func (s *Settings) Open(env sinks.Environment) (sinks.Sink, error) { return Open(*s, env) }

// Check implements sinks.Settings. It asks with the method OPTIONS, which is no
// event.
func (s *Settings) Check(ctx context.Context, env sinks.Environment) ([]sinks.Finding, error) {
	d, err := newDialer(*s)
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", env.Name, err)
	}
	const what = "connection"
	c, err := d.dial()
	if err != nil {
		return []sinks.Finding{{What: what, Result: err.Error(), Bad: true}}, nil
	}
	defer c.close()
	status, err := c.probe(ctx)
	if err != nil {
		return []sinks.Finding{{What: what, Result: err.Error(), Bad: true}}, nil
	}
	f := sinks.Finding{What: what, Result: fmt.Sprintf("%s answers OPTIONS with %s", d.shown, status)}
	if !status.fine() {
		f.Warn = true
		f.Result += "; whether it takes events is seen with the first"
	}
	return []sinks.Finding{f}, nil
}
