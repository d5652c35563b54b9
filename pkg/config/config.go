package config

import (
	"slices"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
)

// Config is a loaded configuration. It is complete (what the user left out has
// its default) and valid, and is only read after [Load].
type Config struct {
	// The cluster's name, which is part of every event's source and subject.
	Cluster string `koanf:"cluster" rule:"required,label"`
	// How the bridge logs, on stderr.
	Log Log `koanf:"log"`
	// Where the probes `/healthz` and `/readyz` are answered, to anyone.
	Health Health `koanf:"health"`
	// Where `/metrics`, `/api/status` and the status page are, and the health
	// endpoints once more.
	Server Server `koanf:"server"`
	// For several replicas, of which one delivers: the one that holds the
	// Lease. The others stand by.
	LeaderElection LeaderElection `koanf:"leaderElection"`
	// Where the bridge keeps what a sink cannot.
	State State `koanf:"state"`
	// What goes where; at least one route.
	Routes []Route `koanf:"routes" rule:"required"`
	// The places that routes lead to, by name; at least one.
	Sinks map[string]Sink `koanf:"sinks" rule:"required,label"`
}

// Log is how the bridge logs, on stderr.
type Log struct {
	// The least severe level that is logged.
	Level LogLevel `koanf:"level"`
	// How a line of the log is written: as `key=value` pairs, or as a JSON
	// object.
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
	// The address to listen on. Without a host it is all addresses of the
	// machine; port 0 takes a free one. The same as `server.address` means one
	// listener for both.
	Address string `koanf:"address" rule:"address"`
}

// Server is where /metrics, /api/status and the status page are, and the
// health endpoints once more.
type Server struct {
	// The address to listen on, as for `health.address`. The bridge warns of
	// one that is reached from outside of the machine while `auth` is `none`.
	Address string `koanf:"address" rule:"address"`
	// Who may read: `none` is everyone who reaches the address.
	Auth ServerAuth `koanf:"auth"`
}

// ServerAuth is how the server knows its readers.
type ServerAuth string

// AuthNone lets everyone read who reaches the address.
const AuthNone ServerAuth = "none"

// LeaderElection is about the Lease that the delivering replica holds.
type LeaderElection struct {
	// Deliver only while holding the Lease.
	Enabled bool `koanf:"enabled"`
	// The Lease's namespace. Outside of a cluster there is none to take, so
	// that it has to be given. Default: the namespace that the bridge runs in.
	Namespace string `koanf:"namespace" rule:"label,empty"`
	// The Lease's name.
	Name string `koanf:"name" rule:"subdomain"`
}

// State is about the ledgers of flows to sinks without a stream: what was sent,
// which a restart has to go on from. A sink with JetStream keeps its own.
type State struct {
	// The name of a sink with `jetstream`, whose stream keeps the ledgers of
	// sinks without one: what was sent, which a restart has to go on from.
	// Default: none; they are in memory, and gone with the process.
	Sink string `koanf:"sink" rule:"label,empty"`
}

// Route sends the changes of the custom resources of some CRDs to sinks.
type Route struct {
	// The route's identity in events, ids, ledgers and metrics; unique. Under a
	// new name everything is delivered anew.
	Name string `koanf:"name" rule:"required,label"`
	// The CRDs whose objects take the route, now or later:
	// `orders.shop.example.com` is the CRD of that name, `*.shop.example.com`
	// every one of exactly that group, `*` every one.
	CRDs []CRDPattern `koanf:"crds" rule:"required,unique,crd"`
	// CRDs that are taken out of `crds` again; the same patterns.
	ExcludeCRDs []CRDPattern `koanf:"excludeCRDs" rule:"unique,crd"`
	// The served version to watch, such as `v1beta1`. Default: the CRD's
	// storage version if it is served, else the newest that is, by Kubernetes'
	// version priority (v2 before v1 before v2beta1).
	Version string `koanf:"version" rule:"version,empty"`
	// The namespaces whose objects take the route; a Role in each of them is
	// enough. Objects of a cluster-scoped CRD are in none. Default: all
	// objects.
	Namespaces []string `koanf:"namespaces" rule:"unique,label"`
	// Which objects take the route, by their labels, as for `kubectl -l`:
	// `app=web,tier in (a, b),!old`. The API server evaluates it. Default: all
	// objects.
	LabelSelector string `koanf:"labelSelector"`
	// Which objects take the route, by fields, as for
	// `kubectl --field-selector`: `metadata.name`, `metadata.namespace` and
	// those that the CRD's version lists as `selectableFields`. The API server
	// evaluates it. Default: all objects.
	FieldSelector string `koanf:"fieldSelector"`
	// The types of events that are sent. Of a type that is left out nothing is:
	// without `deleted`, nobody learns that an object is gone.
	Events []events.Type `koanf:"events" rule:"nonempty,unique"`
	// A CEL expression over `type`, `object` and `oldObject`: an event is sent
	// if it is true, or fails. `deleted` and `deselected` end what was sent of
	// an object, and are sent exactly if anything was. Default: every event.
	When string `koanf:"when"`
	// Which updates are not worth an event.
	Changes Changes `koanf:"changes"`
	// What of an object its events carry.
	Payload Payload `koanf:"payload"`
	// The names of the sinks to deliver to, no two of which lead to one stream.
	Sinks []string `koanf:"sinks" rule:"required,unique,label"`
}

// Changes says which updates are sent: those that touch something else than
// what is named here.
type Changes struct {
	// Leave out updates that touch nothing but `metadata` and `status`.
	SpecOnly bool `koanf:"specOnly"`
	// Field paths that do not count: updates that touch nothing else are left
	// out.
	Ignore []string `koanf:"ignore" rule:"path"`
}

// Payload says what of an object its events carry.
type Payload struct {
	// What the data is: `object` is the object itself; `metadata` its
	// apiVersion, kind and metadata; `change` the object, the one before it and
	// the JSON Patch (RFC 6902) between them.
	Content Content `koanf:"content"`
	// Field paths that are left out, besides `metadata.managedFields` and the
	// annotation `kubectl.kubernetes.io/last-applied-configuration`.
	Drop []string `koanf:"drop" rule:"path"`
	// Those of these two that are not left out. Not together with `redact`,
	// whose values they may hold.
	Keep []string `koanf:"keep" rule:"path"`
	// Field paths whose value becomes `[redacted]` before anything else is done
	// with the object.
	Redact []string `koanf:"redact" rule:"path"`
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
	// A NATS server or cluster, with JetStream or without.
	NATS *NATS `koanf:"nats" rule:"required"`
}

// NATS is a sink that publishes to NATS.
type NATS struct {
	// The servers to try: one, or a list of servers of one cluster, all of them
	// WebSocket or none. Never with a user, password or token.
	URLs URLs `koanf:"url" rule:"required,url"`
	// The template of an event's subject. Its fields are
	// `{cluster} {group} {version} {kind} {resource} {namespace} {name} {event} {route}`;
	// the value of each becomes exactly one token.
	Subject string `koanf:"subject" rule:"template"`
	// How an event becomes a message: `binary` makes its attributes headers and
	// its data the payload, `structured` the whole event one JSON payload.
	Mode Mode `koanf:"mode"`
	// How the bridge says who it is, in one way at most. The files are read for
	// each connection. Default: it does not.
	Auth NATSAuth `koanf:"auth"`
	// How server and bridge recognise each other. The files are read for each
	// connection; any key means that it must be TLS. Default: as the URL's
	// scheme and the server want it.
	TLS NATSTLS `koanf:"tls"`
	// What the subjects begin with on which the server's answers come, for an
	// account whose users may hear no one else's.
	InboxPrefix string `koanf:"inboxPrefix" rule:"prefix"`
	// The stream that stores the events. Default: none, which is core NATS: an
	// event is delivered at most once.
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

// NATSTLS names PEM files, read for each connection.
type NATSTLS struct {
	// Holds the authorities that the server's certificate has to be from.
	// Default: the system's.
	CAFile string `koanf:"caFile" rule:"file"`
	// Holds the bridge's certificate; goes with `keyFile`.
	CertFile string `koanf:"certFile" rule:"file"`
	// Holds the key of the bridge's certificate; goes with `certFile`.
	KeyFile string `koanf:"keyFile" rule:"file"`
	// What the server's certificate has to be for. Default: the host of the
	// URL.
	ServerName string `koanf:"serverName" rule:"host,empty"`
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

// Storage is where a stream keeps its messages.
type Storage string

// The kinds of storage.
const (
	StorageFile   Storage = "file"
	StorageMemory Storage = "memory"
)
