package nats

import (
	"cmp"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Validate implements sinks.Settings.
func (s *Settings) Validate(at settings.Path, r settings.Report) {
	if s.Embedded == nil {
		validateURLs(s.URLs, at.Key("url"), r)
	} else {
		s.validateEmbedded(at, r)
	}
	if _, err := events.ParseSubject(s.Subject); err != nil {
		r.Value(at.Key("subject"), "%s", err)
	}
	settings.OneOf(r, at.Key("mode"), s.Mode)
	validateAuth(&s.Auth, at.Key("auth"), r)
	s.TLS.Validate(at.Key("tls"), r)
	validatePrefix(s.InboxPrefix, at.Key("inboxPrefix"), r)
	if s.JetStream != nil {
		validateJetStream(s.JetStream, at.Key("jetstream"), r)
	}
}

func (s *Settings) validateEmbedded(root settings.Path, r settings.Report) {
	e, at := s.Embedded, root.Key("embedded")
	if len(s.URLs) > 0 {
		r.Value(at, "a server in the bridge, and url names others; keep one")
	}
	if e.Dir == "" {
		r.Value(at.Key("dir"), "missing; name a directory that outlives a restart")
	}
	settings.Files(r, at, settings.File{Key: "dir", Name: e.Dir})
	_, port, err := net.SplitHostPort(e.Address)
	if number, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || number == 0 {
		r.Value(at.Key("address"), "%s: not an address to listen on; write host:port, as in 127.0.0.1:4222", settings.Quote(e.Address))
	}
	if e.MaxBytes < fewestBytes {
		r.Value(at.Key("maxBytes"), "%d: write at least %d", e.MaxBytes, fewestBytes)
	}
	switch {
	case s.Auth.CredentialsFile != "":
		r.Value(root.Key("auth").Key("credentialsFile"), "the embedded server knows no JWTs; write userFile with passwordFile, or tokenFile")
	case s.Auth.NKeyFile != "":
		r.Value(root.Key("auth").Key("nkeyFile"), "the embedded server knows no nkeys; write userFile with passwordFile, or tokenFile")
	case s.Auth == Auth{} && err == nil && !e.loopback():
		r.Value(at.Key("address"), "%s: is reached from outside of the machine; say in auth who may, or write a loopback address such as 127.0.0.1:4222", settings.Quote(e.Address))
	}
	j, of := s.JetStream, root.Key("jetstream")
	if j == nil {
		r.Value(of, "missing; the embedded server is there to keep events, in the stream that this names")
		return
	}
	if j.Prefix() != "" {
		r.Value(of, "domain, apiPrefix: the embedded server has one JetStream; leave them out")
	}
	if j.Replicas > 1 {
		r.Value(of.Key("replicas"), "%d: the embedded server is one; write 1", j.Replicas)
	}
	if j.Storage == Memory {
		r.Value(of.Key("storage"), "%s: it would be gone with the bridge; write file", settings.Quote(string(Memory)))
	}
}

// validateURLs never repeats what may be or hold a secret.
func validateURLs(urls settings.OneOrMore, at settings.Path, r settings.Report) {
	const form = "write it as in nats://nats.example.com:4222"
	if len(urls) == 0 {
		r.Value(at, "missing; %s", form+", or embedded for a server in the bridge")
	}
	websockets := 0
	for i, raw := range urls {
		one := at
		if r.Written(at.Index(i)) {
			one = at.Index(i)
		}
		u, err := url.Parse(raw)
		switch {
		case strings.Contains(raw, "@"):
			r.Value(one, "a user, password or token in the URL; secrets are never inline: name their files in auth")
			continue
		case strings.Contains(raw, ","):
			r.Value(one, "a comma in the URL; several servers are a list: [nats://a:4222, nats://b:4222]")
			continue
		case err != nil:
			r.Value(one, "not a URL; %s", form)
			continue
		case u.Hostname() == "":
			r.Value(one, "%s: not a URL with a host; %s", settings.Quote(raw), form)
			continue
		case u.RawQuery != "" || u.Fragment != "":
			r.Value(one, "a query or fragment in the URL; %s", form)
			continue
		}
		if _, err := strconv.ParseUint(cmp.Or(u.Port(), "1"), 10, 16); err != nil {
			r.Value(one, "%s: not a port; write 1 to 65535", settings.Quote(u.Port()))
		}
		switch u.Scheme {
		case "ws", "wss":
			websockets++
		case "nats", "tls":
		default:
			r.Value(one, "%s: not a scheme of NATS; write nats, tls, ws or wss", settings.Quote(u.Scheme))
		}
	}
	if websockets > 0 && websockets < len(urls) {
		r.Value(at, "WebSocket URLs and others; a connection needs all of one sort")
	}
}

func validateAuth(a *Auth, at settings.Path, r settings.Report) {
	var given []string
	for _, kind := range [][]settings.File{
		{{Key: "credentialsFile", Name: a.CredentialsFile}},
		{{Key: "nkeyFile", Name: a.NKeyFile}},
		{{Key: "userFile", Name: a.UserFile}, {Key: "passwordFile", Name: a.PasswordFile}},
		{{Key: "tokenFile", Name: a.TokenFile}},
	} {
		if names := settings.Files(r, at, kind...); len(names) > 0 {
			given = append(given, strings.Join(names, " with "))
		}
	}
	if len(given) > 1 {
		r.Value(at, "%s: more than one kind of credentials; keep one", strings.Join(given, ", "))
	}
}

func validateJetStream(j *JetStream, at settings.Path, r settings.Report) {
	switch {
	case j.Stream == "":
		r.Value(at.Key("stream"), "missing; name the stream")
	case !streamName.MatchString(j.Stream):
		r.Value(at.Key("stream"), `%s: not the name of a stream; write at most 255 bytes without white space, control characters and any of . * > / \`, settings.Quote(j.Stream))
	}
	validatePrefix(j.APIPrefix, at.Key("apiPrefix"), r)
	switch {
	case j.Domain == "":
	case j.APIPrefix != "":
		r.Value(at.Key("domain"), "%s: apiPrefix says where JetStream is too; leave out one of the two", settings.Quote(j.Domain))
	case !tokenForm.MatchString(j.Domain):
		r.Value(at.Key("domain"), "%s: not the name of a domain; write one token of a subject, without wildcards", settings.Quote(j.Domain))
	}
	for i, s := range j.Subjects {
		switch {
		case !isSubjectFilter(s):
			r.Value(at.Key("subjects").Index(i), "%s: not a subject; write tokens joined by dots, * for any token, > at the end for all that follow", settings.Quote(s))
		case slices.Contains(j.Subjects[:i], s):
			r.Value(at.Key("subjects").Index(i), "%s: listed twice", settings.Quote(s))
		}
	}
	if j.Replicas < fewestReplicas || j.Replicas > mostReplicas {
		r.Value(at.Key("replicas"), "%d: write %d to %d", j.Replicas, fewestReplicas, mostReplicas)
	}
	settings.OneOf(r, at.Key("storage"), j.Storage)
	for _, limit := range []struct {
		key   string
		value int64
	}{{"maxBytes", j.MaxBytes}, {"maxMsgsPerSubject", j.MaxMsgsPerSubject}} {
		if limit.value < 0 {
			r.Value(at.Key(limit.key), "%d: write 0, for no limit, or more", limit.value)
		}
	}
	validateAges(j, at, r)
}

// validateAges applies nats-server's rules for a stream's times, of
// checkStreamCfg in its server/stream.go.
func validateAges(j *JetStream, at settings.Path, r settings.Report) {
	const least = 100 * time.Millisecond
	if j.MaxAge < 0 || j.MaxAge > 0 && j.MaxAge < least {
		r.Value(at.Key("maxAge"), "%s: write 0s, for no limit, or at least %s", settings.ShortDuration(j.MaxAge), settings.ShortDuration(least))
		return
	}
	if j.DuplicateWindow < least {
		r.Value(at.Key("duplicateWindow"), "%s: write at least %s", settings.ShortDuration(j.DuplicateWindow), settings.ShortDuration(least))
		return
	}
	if j.MaxAge == 0 || j.DuplicateWindow <= j.MaxAge || r.Unknown(at.Key("maxAge")) {
		return
	}
	// The key that is there may be either of the two.
	if r.Written(at.Key("duplicateWindow")) {
		r.Value(at.Key("duplicateWindow"), "%s: longer than maxAge, %s; JetStream wants it at most as long", settings.ShortDuration(j.DuplicateWindow), settings.ShortDuration(j.MaxAge))
	} else {
		r.Value(at.Key("maxAge"), "%s: shorter than duplicateWindow, %s; set that to at most %s", settings.ShortDuration(j.MaxAge), settings.ShortDuration(j.DuplicateWindow), settings.ShortDuration(j.MaxAge))
	}
}

func validatePrefix(prefix string, at settings.Path, r settings.Report) {
	if prefix != "" && !subjectPrefix.MatchString(prefix) {
		r.Value(at, "%s: not the beginning of a subject; write tokens joined by dots, without wildcards and without a dot at the end", settings.Quote(prefix))
	}
}

// isSubjectFilter applies https://docs.nats.io/nats-concepts/subjects.
func isSubjectFilter(subject string) bool {
	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		last := i == len(tokens)-1
		if token == "" || token == ">" && !last || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return false
		}
	}
	return true
}

// Same implements sinks.Settings. Two sinks are known to lead to one stream where
// they have its name, a server and the credentials in common. With other
// credentials or another prefix it may be another account's stream of that name.
func (s *Settings) Same(other sinks.Settings) string {
	a := s
	b, is := other.(*Settings)
	if !is || a.JetStream == nil || b.JetStream == nil {
		return ""
	}
	if a.JetStream.Stream == "" || a.JetStream.Stream != b.JetStream.Stream || a.JetStream.Prefix() != b.JetStream.Prefix() || a.Auth != b.Auth {
		return ""
	}
	servers := map[string]bool{}
	for _, u := range a.urls() {
		servers[hostPort(u)] = true
	}
	if !slices.ContainsFunc(b.urls(), func(u string) bool { return servers[hostPort(u)] }) {
		return ""
	}
	return "stream, " + settings.Quote(a.JetStream.Stream) + ","
}

// hostPort is the host and port that a URL leads to; a URL that cannot be read
// leads to itself.
func hostPort(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	port := u.Port()
	if port == "" {
		// The defaults of nats.go.
		switch u.Scheme {
		case "ws":
			port = "80"
		case "wss":
			port = "443"
		default:
			port = "4222"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
