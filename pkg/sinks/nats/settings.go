package nats

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Settings are the keys of a sink that publishes to NATS.
type Settings struct {
	// The servers to try: one, or a list of servers of one cluster, all of them
	// WebSocket or none. Never with a user, password or token. Required, or
	// `embedded`.
	URLs settings.OneOrMore `koanf:"url" rule:"choice,url"`
	// Instead of `url`: a NATS server with JetStream inside of the bridge.
	Embedded *Embedded `koanf:"embedded" rule:"choice"`
	// The template of an event's subject. Its fields are
	// `{cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`;
	// the value of each becomes exactly one token.
	Subject string `koanf:"subject" rule:"template"`
	// How an event becomes a message: `binary` makes its attributes headers and
	// its data the payload, `structured` the whole event one JSON payload.
	Mode sinks.Mode `koanf:"mode"`
	// How the bridge says who it is, in one way at most. The files are read for
	// each connection. Default: it does not.
	Auth Auth `koanf:"auth"`
	// How server and bridge recognise each other. The files are read for each
	// connection; any key means that it must be TLS. Default: as the URL's
	// scheme and the server want it.
	TLS settings.TLS `koanf:"tls"`
	// What the subjects begin with on which the server's answers come, for an
	// account whose users may hear no one else's.
	InboxPrefix string `koanf:"inboxPrefix" rule:"prefix"`
	// The stream that stores the events. Default: none, which is core NATS: an
	// event is delivered at most once.
	JetStream *JetStream `koanf:"jetstream"`
}

// Embedded is a server that runs in the bridge's process. Whom it lets in is
// what auth says, and tls names its own certificate.
type Embedded struct {
	// The directory that keeps the streams; it is made where it is missing. It
	// must not be gone after a restart, and belongs to one bridge.
	Dir string `koanf:"dir" rule:"required,file"`
	// The address that subscribers connect to. Without a host it is all
	// addresses of the machine; where it is not loopback, `auth` is required.
	Address string `koanf:"address" rule:"address"`
	// How large all streams may get together, in bytes. At this size nothing
	// more is taken: give the stream a smaller `jetstream.maxBytes`, so that its
	// oldest messages go instead.
	MaxBytes int64 `koanf:"maxBytes" rule:"bytes"`
}

// SetDefaults implements settings.Defaulted.
func (e *Embedded) SetDefaults() {
	*e = Embedded{Address: "127.0.0.1:4222", MaxBytes: 10 << 30} // the port is the one that IANA has for NATS
}

// Forms implements settings.Formed.
func (Embedded) Forms() map[string]settings.Form { return forms }

// Auth names files, of one kind: credentials, nkey, user with password, or
// token. They are read for each connection, not at load, and may be there
// later than the configuration.
type Auth struct {
	// Holds a user JWT and its seed, as `nsc` writes them.
	CredentialsFile string `koanf:"credentialsFile" rule:"file"`
	// Holds the seed of an nkey.
	NKeyFile string `koanf:"nkeyFile" rule:"file"`
	// Holds a user's name; goes with `passwordFile`.
	UserFile string `koanf:"userFile" rule:"file"`
	// Holds the user's password; goes with `userFile`.
	PasswordFile string `koanf:"passwordFile" rule:"file"`
	// Holds a token.
	TokenFile string `koanf:"tokenFile" rule:"file"`
}

// JetStream is a stream. All but Stream, Domain, APIPrefix and Create describes a stream that the
// bridge creates; one that exists is checked, and never changed.
type JetStream struct {
	// The stream's name: no white space and none of `. * > / \`, and at most
	// 255 bytes.
	Stream string `koanf:"stream" rule:"required,stream"`
	// The JetStream domain that the stream is in. Default: that of the server.
	Domain string `koanf:"domain" rule:"token"`
	// What the subjects of JetStream's requests begin with, where another
	// account lends its JetStream. Default: `$JS.API`, or `$JS.<domain>.API`.
	APIPrefix string `koanf:"apiPrefix" rule:"prefix"`
	// Create the stream if it is missing. The keys below are for that; a stream
	// that exists is checked, and never changed.
	Create bool `koanf:"create"`
	// What the stream takes, with NATS wildcards. Default: the sink's `subject`
	// with `*` for each token that has a field, and `crbridge.<stream>.>` for
	// the bridge's control messages.
	Subjects []string `koanf:"subjects" rule:"unique,subject"`
	// Copies in the NATS cluster.
	Replicas int `koanf:"replicas" rule:"replicas"`
	// Where the stream keeps its messages.
	Storage Storage `koanf:"storage"`
	// For how long a message is kept, which has to be longer than the bridge
	// may ever be down; at least 100ms, or `0s` for ever.
	MaxAge time.Duration `koanf:"maxAge"`
	// How large the stream may get, in bytes; 0 is without limit.
	MaxBytes int64 `koanf:"maxBytes" rule:"limit"`
	// How many messages of one subject are kept; 0 is without limit. With one,
	// give each object of each route a subject of its own: otherwise an event
	// can take the place of another that the ledger needs, and a start after a
	// crash says that it may be incomplete.
	MaxMsgsPerSubject int64 `koanf:"maxMsgsPerSubject" rule:"limit"`
	// For how long the stream knows the ids of its events; at least 100ms, and
	// at most `maxAge`.
	DuplicateWindow time.Duration `koanf:"duplicateWindow"`
}

// Prefix is what the subjects of JetStream's requests begin with; empty means
// that it is not said.
func (j *JetStream) Prefix() string {
	if j.Domain != "" {
		return "$JS." + j.Domain + ".API"
	}
	return j.APIPrefix
}

// SetDefaults implements settings.Defaulted.
func (s *Settings) SetDefaults() {
	*s = Settings{Subject: "k8s.{cluster}.{group}.{resource}.{namespace}.{name}", Mode: sinks.Binary}
}

// SetDefaults implements settings.Defaulted.
func (j *JetStream) SetDefaults() {
	*j = JetStream{
		Create: true, Replicas: 1, Storage: File, MaxAge: 7 * 24 * time.Hour,
		DuplicateWindow: 2 * time.Minute, // the server's own default
	}
}

// Words implements settings.Worded.
func (Storage) Words() []string { return settings.Words(File, Memory) }

const (
	fewestReplicas = 1
	mostReplicas   = 5
	fewestBytes    = 1 << 20

	levelPattern  = `[^\x00-\x20\x7f.*>]+`
	templatePart  = `([\x21-\x29\x2b-\x2d\x2f-\x3d\x3f-\x7a\x7c\x7e]|\{[a-z]+\})+`
	schemePattern = `([Nn][Aa][Tt][Ss]|[Tt][Ll][Ss]|[Ww][Ss][Ss]?)`
)

var forms = map[string]settings.Form{
	"url":      {Title: "URL", Pattern: schemePattern + `://[^/@?#]+[^@]*`},
	"template": {Title: "subject template", Pattern: templatePart + `(\.` + templatePart + `)*`},
	// What every nats-server takes as a stream's name, see
	// https://docs.nats.io/nats-concepts/jetstream/streams.
	"stream":   {Title: "stream name", Pattern: `[^\x00-\x20.*>/\\\x7f]{1,255}`},
	"token":    {Title: "NATS token", Pattern: levelPattern},
	"prefix":   {Title: "NATS subject without wildcards", Pattern: levelPattern + `(\.` + levelPattern + `)*`},
	"subject":  {Title: "NATS subject", Pattern: `(([^\x00-\x20\x7f.>][^\x00-\x20\x7f.]*|>[^\x00-\x20\x7f.]+)\.)*[^\x00-\x20\x7f.]+`},
	"replicas": {Min: fewestReplicas, Max: mostReplicas},
	"bytes":    {Min: fewestBytes},
}

var (
	streamName    = forms["stream"].Regexp()
	tokenForm     = forms["token"].Regexp()
	subjectPrefix = forms["prefix"].Regexp()
)

// Forms implements settings.Formed.
func (Settings) Forms() map[string]settings.Form { return forms }

// Forms implements settings.Formed.
func (JetStream) Forms() map[string]settings.Form { return forms }

// KeepsLedgers implements sinks.Settings: a stream does.
func (s *Settings) KeepsLedgers() bool { return s.JetStream != nil }

// Template implements sinks.Addressed.
func (s *Settings) Template() string { return s.Subject }

// Files implements sinks.Settings.
func (s *Settings) Files() []string {
	a := s.Auth
	return append([]string{a.CredentialsFile, a.NKeyFile, a.UserFile, a.PasswordFile, a.TokenFile}, s.TLS.Files()...)
}

// Exclusive implements sinks.Exclusive.
func (s *Settings) Exclusive() (key string, all []string) {
	if s.Embedded == nil {
		return "", nil
	}
	return "embedded", []string{"the directory " + settings.Quote(s.Embedded.Dir), "the address " + settings.Quote(s.Embedded.Address)}
}

// urls are those of the servers, also of the embedded one.
func (s *Settings) urls() []string {
	if s.Embedded != nil {
		return []string{s.Embedded.url()}
	}
	return s.URLs
}

// url is that of the embedded server for clients on the same machine.
func (e *Embedded) url() string {
	host, port, err := net.SplitHostPort(e.Address)
	if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "nats://" + net.JoinHostPort(host, port)
}

// loopback tells whether only this machine reaches the embedded server.
func (e *Embedded) loopback() bool {
	host, _, err := net.SplitHostPort(e.Address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// Open implements sinks.Settings.
func (s *Settings) Open(env sinks.Environment) (sinks.Sink, error) {
	o, err := s.options(env)
	if err != nil {
		return nil, err
	}
	if !env.Guest {
		o.Embedded = s.Embedded
	}
	return Open(o)
}

// Check implements sinks.Settings.
func (s *Settings) Check(ctx context.Context, env sinks.Environment) ([]sinks.Finding, error) {
	o, err := s.options(env)
	if err != nil {
		return nil, err
	}
	findings, err := Check(ctx, o)
	if s.Embedded != nil && err == nil && len(findings) == 1 && findings[0].Bad {
		findings = []sinks.Finding{{What: "embedded server", Result: "cannot be asked, which is so while the bridge does not run: " + findings[0].Result, Warn: true}}
	}
	return findings, err
}

// Follow implements sinks.Readable.
func (s *Settings) Follow(ctx context.Context, env sinks.Environment, what sinks.Followed) error {
	o, err := s.options(env)
	if err != nil {
		return err
	}
	return Follow(ctx, o, what)
}

// Permissions are all that the sink's NATS user needs: what it may publish to,
// and what it may subscribe to.
func (s *Settings) Permissions(env sinks.Environment) (publish, subscribe []Permission, err error) {
	o, err := s.options(env)
	if err != nil {
		return nil, nil, err
	}
	publish, subscribe = Permissions(o)
	return publish, subscribe, nil
}

func (s *Settings) options(env sinks.Environment) (Options, error) {
	subject, err := events.ParseSubject(s.Subject)
	if err != nil {
		return Options{}, fmt.Errorf("nats.subject: %w", err)
	}
	return Options{
		Name: env.Name, Cluster: env.Cluster, Logger: env.Logger, Metrics: env.Metrics,
		URLs: s.urls(), Subject: subject, Mode: s.Mode, Auth: s.Auth, TLS: s.TLS, InboxPrefix: s.InboxPrefix, JetStream: s.JetStream,
	}, nil
}
