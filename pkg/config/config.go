package config

import (
	"slices"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
)

// Config is a loaded configuration. It is complete (what the user left out has
// its default) and valid, and is only read after [Load].
type Config struct {
	// Cluster names the cluster in every event's source and subject.
	// Required; a DNS-1123 label.
	Cluster string `koanf:"cluster"`
	// Log is how the bridge logs.
	Log Log `koanf:"log"`
	// Health is where the probes are answered.
	Health Health `koanf:"health"`
	// Server is where metrics, the API and the status page are.
	Server Server `koanf:"server"`
	// LeaderElection lets several replicas run, of which one delivers.
	LeaderElection LeaderElection `koanf:"leaderElection"`
	// State is where the bridge keeps what a sink cannot.
	State State `koanf:"state"`
	// Routes say what goes where. At least one.
	Routes []Route `koanf:"routes"`
	// Sinks are the places that routes lead to, by name. At least one; the
	// names are DNS-1123 labels.
	Sinks map[string]Sink `koanf:"sinks"`
}

// Log is how the bridge logs, on stderr.
type Log struct {
	// Level is the least severe level that is logged. Default: info.
	Level LogLevel `koanf:"level"`
	// Format is text (key=value) or json. Default: text.
	Format LogFormat `koanf:"format"`
}

// LogLevel is a level of log/slog, in lower case.
type LogLevel string

// The log levels.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// LogFormat is how a line of the log is written.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Health is where /healthz and /readyz are answered, to anyone.
type Health struct {
	// Address to listen on, host:port; without a host, all addresses; port 0
	// takes a free one. The same as server.address means one listener for
	// both. Default: ":8081".
	Address string `koanf:"address"`
}

// Server is where /metrics, /api/status and the status page are, and the
// health endpoints once more.
type Server struct {
	// Address to listen on, as for Health. Default: "127.0.0.1:8080".
	Address string `koanf:"address"`
	// Auth is who may read. Default: none, which is everyone who reaches the
	// address.
	Auth ServerAuth `koanf:"auth"`
}

// ServerAuth is how the server knows its readers.
type ServerAuth string

// AuthNone lets everyone read who reaches the address.
const AuthNone ServerAuth = "none"

// LeaderElection is about the Lease that the delivering replica holds.
type LeaderElection struct {
	// Enabled makes the bridge deliver only while it holds the Lease.
	// Default: false.
	Enabled bool `koanf:"enabled"`
	// Namespace of the Lease, a DNS-1123 label. Default: the namespace that
	// the bridge runs in; outside of a cluster there is none, so that it has
	// to be given.
	Namespace string `koanf:"namespace"`
	// Name of the Lease, a DNS-1123 subdomain. Default: crbridge.
	Name string `koanf:"name"`
}

// State is about the ledgers of flows to sinks without a stream: what was sent,
// which a restart has to go on from. A sink with JetStream keeps its own.
type State struct {
	// Sink is the name of a sink with JetStream, whose stream keeps them. An
	// event is then sent at least once to where there is no stream. Default:
	// empty; they are in memory, and gone with the process.
	Sink string `koanf:"sink"`
}

// Route sends the changes of the custom resources of some CRDs to sinks.
type Route struct {
	// Name is the route's identity, in events, metrics and its ledger.
	// Required, unique; a DNS-1123 label.
	Name string `koanf:"name"`
	// CRDs are the CRDs whose objects take the route, those that appear later
	// as well. At least one pattern.
	CRDs []CRDPattern `koanf:"crds"`
	// ExcludeCRDs are taken out of CRDs again. Default: none.
	ExcludeCRDs []CRDPattern `koanf:"excludeCRDs"`
	// Version is the served version to watch, such as v1beta1. Default: the
	// CRD's storage version if it is served, else the newest that is.
	Version string `koanf:"version"`
	// Namespaces whose objects take the route, by name; a Role in each is
	// enough. Default: all namespaces.
	Namespaces []string `koanf:"namespaces"`
	// LabelSelector selects objects by their labels, as kubectl's -l does. The
	// API server evaluates it. Default: all objects.
	LabelSelector string `koanf:"labelSelector"`
	// FieldSelector selects objects by fields, as kubectl's --field-selector
	// does: metadata.name, metadata.namespace, and those that the CRD's
	// version lists as selectableFields. Default: all objects.
	FieldSelector string `koanf:"fieldSelector"`
	// Events are the types of events that are sent. At least one, each once.
	// Default: all of events.Types.
	Events []events.Type `koanf:"events"`
	// When is a CEL expression over type, object and oldObject: an event is
	// sent if it is true, or fails. Those that end what was sent of an object
	// (deleted, deselected) are sent exactly if anything was. Default: always.
	When string `koanf:"when"`
	// Changes says which updates are not worth an event.
	Changes Changes `koanf:"changes"`
	// Payload says what of an object its events carry.
	Payload Payload `koanf:"payload"`
	// Sinks are the names of the sinks to deliver to. At least one, each once.
	Sinks []string `koanf:"sinks"`
}

// Changes says which updates are sent: those that touch something else than
// what is named here.
type Changes struct {
	// SpecOnly leaves out updates that touch nothing but metadata and status.
	// Default: false.
	SpecOnly bool `koanf:"specOnly"`
	// Ignore leaves out updates that touch nothing but these field paths,
	// metadata.resourceVersion and metadata.managedFields. Default: none;
	// every update is sent.
	Ignore []string `koanf:"ignore"`
}

// Payload says what of an object its events carry.
type Payload struct {
	// Content is object, the object itself; metadata, its apiVersion, kind and
	// metadata; or change, the object, the one before it and the JSON Patch
	// (RFC 6902) between them. Default: object.
	Content Content `koanf:"content"`
	// Drop are field paths that are left out, besides metadata.managedFields
	// and the annotation kubectl.kubernetes.io/last-applied-configuration.
	// Default: none.
	Drop []string `koanf:"drop"`
	// Keep are those of these two that are not left out. Default: none.
	Keep []string `koanf:"keep"`
	// Redact are field paths whose value becomes "[redacted]" before anything
	// is done with the object. Default: none.
	Redact []string `koanf:"redact"`
}

// Content is what an event's data is made of.
type Content string

// The contents.
const (
	ContentObject   Content = "object"
	ContentMetadata Content = "metadata"
	ContentChange   Content = "change"
)

// Selects tells whether the objects of the CRD with this name take the route.
func (r *Route) Selects(crdName string) bool {
	matches := func(p CRDPattern) bool { return p.Matches(crdName) }
	return slices.ContainsFunc(r.CRDs, matches) && !slices.ContainsFunc(r.ExcludeCRDs, matches)
}

// Admits tells whether events of this type are sent.
func (r *Route) Admits(t events.Type) bool { return slices.Contains(r.Events, t) }

// Sink is a place that events are delivered to. It is of exactly one kind.
type Sink struct {
	// NATS is a NATS server or cluster, with JetStream or without.
	NATS *NATS `koanf:"nats"`
}

// NATS is a sink that publishes to NATS.
type NATS struct {
	// URLs are the servers to try: one string, or a list of servers of one
	// cluster. Required; nats, tls, ws or wss, never with a user or password.
	URLs URLs `koanf:"url"`
	// Subject is the template of an event's subject, see events.ParseSubject.
	// Default: "k8s.{cluster}.{group}.{resource}.{namespace}.{name}".
	Subject string `koanf:"subject"`
	// Mode is how an event becomes a message. Default: binary.
	Mode Mode `koanf:"mode"`
	// Auth is how the bridge says who it is. Default: it does not.
	Auth NATSAuth `koanf:"auth"`
	// TLS is how server and bridge recognise each other. Default: as the
	// URL's scheme and the server want it, with the system's authorities.
	TLS NATSTLS `koanf:"tls"`
	// JetStream is the stream that stores the events. Default: none, which is
	// core NATS: an event is delivered at most once.
	JetStream *JetStream `koanf:"jetstream"`
}

// URLs are written as one string or as a list.
type URLs []string

// Mode is a content mode of the CloudEvents NATS protocol binding.
type Mode string

// The content modes.
const (
	ModeBinary     Mode = "binary"     // attributes are headers, the payload is the data
	ModeStructured Mode = "structured" // the payload is the whole event as JSON
)

// NATSAuth names files, of one kind: credentials, nkey, user with password, or
// token. They are read for each connection, not at load, and may be there
// later than the configuration.
type NATSAuth struct {
	// CredentialsFile holds a user JWT and its seed, as nsc writes them.
	CredentialsFile string `koanf:"credentialsFile"`
	// NKeyFile holds the seed of an nkey.
	NKeyFile string `koanf:"nkeyFile"`
	// UserFile holds a user's name; goes with PasswordFile.
	UserFile string `koanf:"userFile"`
	// PasswordFile holds the user's password; goes with UserFile.
	PasswordFile string `koanf:"passwordFile"`
	// TokenFile holds a token.
	TokenFile string `koanf:"tokenFile"`
}

// NATSTLS names PEM files, read for each connection.
type NATSTLS struct {
	// CAFile holds the authorities that the server's certificate has to be
	// from. Default: the system's.
	CAFile string `koanf:"caFile"`
	// CertFile holds the bridge's certificate; goes with KeyFile.
	CertFile string `koanf:"certFile"`
	// KeyFile holds the key of the bridge's certificate; goes with CertFile.
	KeyFile string `koanf:"keyFile"`
	// ServerName is what the server's certificate has to be for, a host name
	// or an IP address. Default: the host of the URL.
	ServerName string `koanf:"serverName"`
}

// JetStream is a stream. All but Stream and Create describes a stream that the
// bridge creates; one that exists is checked, and never changed.
type JetStream struct {
	// Stream is the stream's name. Required; no white space and none of
	// . * > / \, and at most 255 bytes.
	Stream string `koanf:"stream"`
	// Create the stream if it is missing. Default: true.
	Create bool `koanf:"create"`
	// Subjects that the stream takes, with NATS wildcards. Default: the
	// subject template with its fields as wildcards, and
	// "crbridge.<stream>.>" for the bridge's control messages.
	Subjects []string `koanf:"subjects"`
	// Replicas of the stream in the NATS cluster, 1 to 5. Default: 1.
	Replicas int `koanf:"replicas"`
	// Storage is where the stream keeps its messages. Default: file.
	Storage Storage `koanf:"storage"`
	// MaxAge is for how long a message is kept, a duration such as 90m; 0s is
	// without limit. Default: 168h.
	MaxAge time.Duration `koanf:"maxAge"`
	// MaxBytes is how large the stream may get, in bytes; 0 is without limit.
	// Default: 0.
	MaxBytes int64 `koanf:"maxBytes"`
	// MaxMsgsPerSubject is how many messages of one subject are kept; 0 is
	// without limit. Default: 0.
	MaxMsgsPerSubject int64 `koanf:"maxMsgsPerSubject"`
	// DuplicateWindow is for how long the stream knows the ids of its events,
	// a duration of at least 100ms and at most MaxAge. Default: 2m.
	DuplicateWindow time.Duration `koanf:"duplicateWindow"`
}

// Storage is where a stream keeps its messages.
type Storage string

// The kinds of storage.
const (
	StorageFile   Storage = "file"
	StorageMemory Storage = "memory"
)
