package config

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/crbridge/crbridge/pkg/events"
)

func validateSinks(c *Config, r *report) {
	const sinks path = "sinks"
	if len(c.Sinks) == 0 {
		r.value(sinks, "missing; at least one sink has to be there")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		at := sinks.key(name)
		if len(validation.IsDNS1123Label(name)) > 0 {
			r.key(at, "%s", label)
		}
		nats := c.Sinks[name].NATS
		if nats == nil {
			r.value(at, "no kind of sink; write nats, with its url")
			continue
		}
		validateNATS(nats, at.key("nats"), r)
	}
}

func validateNATS(n *NATS, at path, r *report) {
	validateURLs(n.URLs, at.key("url"), r)
	if _, err := events.ParseSubject(n.Subject); err != nil {
		r.value(at.key("subject"), "%s", err)
	}
	oneOf(r, at.key("mode"), n.Mode)
	validateAuth(&n.Auth, at.key("auth"), r)
	validateTLS(&n.TLS, at.key("tls"), r)
	validatePrefix(n.InboxPrefix, at.key("inboxPrefix"), r)
	if n.JetStream != nil {
		validateJetStream(n.JetStream, at.key("jetstream"), r)
	}
}

// validateURLs never repeats what may be or hold a secret.
func validateURLs(urls URLs, at path, r *report) {
	const form = "write it as in nats://nats.example.com:4222"
	if len(urls) == 0 {
		r.value(at, "missing; %s", form)
	}
	websockets := 0
	for i, raw := range urls {
		one := at
		if r.written(at.index(i)) {
			one = at.index(i)
		}
		u, err := url.Parse(raw)
		switch {
		case strings.Contains(raw, "@"):
			r.value(one, "a user, password or token in the URL; secrets are never inline: name their files in auth")
			continue
		case err != nil:
			r.value(one, "not a URL; %s", form)
			continue
		case u.Hostname() == "":
			r.value(one, "%s: not a URL with a host; %s", quote(raw), form)
			continue
		case u.RawQuery != "" || u.Fragment != "":
			r.value(one, "a query or fragment in the URL; %s", form)
			continue
		}
		if _, err := strconv.ParseUint(cmp.Or(u.Port(), "1"), 10, 16); err != nil {
			r.value(one, "%s: not a port; write 1 to 65535", quote(u.Port()))
		}
		switch u.Scheme {
		case "ws", "wss":
			websockets++
		case "nats", "tls":
		default:
			r.value(one, "%s: not a scheme of NATS; write nats, tls, ws or wss", quote(u.Scheme))
		}
	}
	if websockets > 0 && websockets < len(urls) {
		r.value(at, "WebSocket URLs and others; a connection needs all of one sort")
	}
}

// fileKey is a key whose value is the name of a file.
type fileKey struct{ name, file string }

func validateAuth(a *NATSAuth, at path, r *report) {
	var given []string
	for _, kind := range [][]fileKey{
		{{"credentialsFile", a.CredentialsFile}},
		{{"nkeyFile", a.NKeyFile}},
		{{"userFile", a.UserFile}, {"passwordFile", a.PasswordFile}},
		{{"tokenFile", a.TokenFile}},
	} {
		if names := r.files(at, kind...); len(names) > 0 {
			given = append(given, strings.Join(names, " with "))
		}
	}
	if len(given) > 1 {
		r.value(at, "%s: more than one kind of credentials; keep one", strings.Join(given, ", "))
	}
}

func validateTLS(t *NATSTLS, at path, r *report) {
	r.files(at, fileKey{"caFile", t.CAFile})
	r.files(at, fileKey{"certFile", t.CertFile}, fileKey{"keyFile", t.KeyFile})
	if name := t.ServerName; name != "" && !isHost(name) {
		r.value(at.key("serverName"), "%s: not a host name or an IP address", quote(name))
	}
}

// files reports names of files that can be none, and a file without the others
// that it goes with. It gives the keys that are set. It does not repeat a
// value: that of a key for a secret's file may be the secret.
func (r *report) files(at path, keys ...fileKey) (given []string) {
	for _, k := range keys {
		if k.file == "" {
			continue
		}
		given = append(given, k.name)
		if strings.ContainsAny(k.file, "\n\r\x00") || strings.HasPrefix(k.file, "-----BEGIN") {
			r.value(at.key(k.name), "the content of a file; write the file's name")
		}
	}
	if len(given) == 0 || len(given) == len(keys) {
		return given
	}
	for _, k := range keys {
		if k.file == "" {
			r.value(at.key(k.name), "missing; it goes with %s", strings.Join(given, ", "))
		}
	}
	return given
}

func validateJetStream(j *JetStream, at path, r *report) {
	switch {
	case j.Stream == "":
		r.value(at.key("stream"), "missing; name the stream")
	case !streamName.MatchString(j.Stream):
		r.value(at.key("stream"), `%s: not the name of a stream; write at most 255 bytes without white space, control characters and any of . * > / \`, quote(j.Stream))
	}
	validatePrefix(j.APIPrefix, at.key("apiPrefix"), r)
	switch {
	case j.Domain == "":
	case j.APIPrefix != "":
		r.value(at.key("domain"), "%s: apiPrefix says where JetStream is too; leave out one of the two", quote(j.Domain))
	case !natsToken.MatchString(j.Domain):
		r.value(at.key("domain"), "%s: not the name of a domain; write one token of a subject, without wildcards", quote(j.Domain))
	}
	for i, s := range j.Subjects {
		switch {
		case !isSubjectFilter(s):
			r.value(at.key("subjects").index(i), "%s: not a subject; write tokens joined by dots, * for any token, > at the end for all that follow", quote(s))
		case slices.Contains(j.Subjects[:i], s):
			r.value(at.key("subjects").index(i), "%s: listed twice", quote(s))
		}
	}
	if j.Replicas < fewestReplicas || j.Replicas > mostReplicas {
		r.value(at.key("replicas"), "%d: write %d to %d", j.Replicas, fewestReplicas, mostReplicas)
	}
	oneOf(r, at.key("storage"), j.Storage)
	for _, limit := range []struct {
		key   string
		value int64
	}{{"maxBytes", j.MaxBytes}, {"maxMsgsPerSubject", j.MaxMsgsPerSubject}} {
		if limit.value < 0 {
			r.value(at.key(limit.key), "%d: write 0, for no limit, or more", limit.value)
		}
	}
	validateAges(j, at, r)
}

// validateAges applies nats-server's rules for a stream's times, of
// checkStreamCfg in its server/stream.go.
func validateAges(j *JetStream, at path, r *report) {
	const least = 100 * time.Millisecond
	if j.MaxAge < 0 || j.MaxAge > 0 && j.MaxAge < least {
		r.value(at.key("maxAge"), "%s: write 0s, for no limit, or at least %s", short(j.MaxAge), short(least))
		return
	}
	if j.DuplicateWindow < least {
		r.value(at.key("duplicateWindow"), "%s: write at least %s", short(j.DuplicateWindow), short(least))
		return
	}
	if j.MaxAge == 0 || j.DuplicateWindow <= j.MaxAge || r.unknown(at.key("maxAge")) {
		return
	}
	// The key that is there may be either of the two.
	if r.written(at.key("duplicateWindow")) {
		r.value(at.key("duplicateWindow"), "%s: longer than maxAge, %s; JetStream wants it at most as long", short(j.DuplicateWindow), short(j.MaxAge))
	} else {
		r.value(at.key("maxAge"), "%s: shorter than duplicateWindow, %s; set that to at most %s", short(j.MaxAge), short(j.DuplicateWindow), short(j.MaxAge))
	}
}

// short is a duration as people write it: 2m, where time says 2m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// streamName is what every nats-server takes as a stream's name, see
// https://docs.nats.io/nats-concepts/jetstream/streams.
var streamName = regexp.MustCompile(`^` + streamPattern + `$`)

// natsToken and subjectPrefix are parts of a subject without wildcards.
var (
	natsToken     = regexp.MustCompile(`^` + levelPattern + `$`)
	subjectPrefix = regexp.MustCompile(`^` + prefixPattern + `$`)
)

func validatePrefix(prefix string, at path, r *report) {
	if prefix != "" && !subjectPrefix.MatchString(prefix) {
		r.value(at, "%s: not the beginning of a subject; write tokens joined by dots, without wildcards and without a dot at the end", quote(prefix))
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

func isHost(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil || len(validation.IsDNS1123Subdomain(strings.ToLower(name))) == 0
}

// sameStream tells whether two sinks are known to lead to one stream: they
// have its name, a server and the credentials in common. With other
// credentials or another prefix it may be another account's stream of that name.
func sameStream(a, b *NATS) bool {
	if a == nil || b == nil || a.JetStream == nil || b.JetStream == nil {
		return false
	}
	if a.JetStream.Stream == "" || a.JetStream.Stream != b.JetStream.Stream || a.JetStream.Prefix() != b.JetStream.Prefix() || a.Auth != b.Auth {
		return false
	}
	servers := map[string]bool{}
	for _, u := range a.URLs {
		servers[server(u)] = true
	}
	return slices.ContainsFunc(b.URLs, func(u string) bool { return servers[server(u)] })
}

// server is the host and port that a URL leads to; a URL that cannot be read
// leads to itself.
func server(raw string) string {
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
