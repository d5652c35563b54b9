package config

import (
	"iter"
	"reflect"
	"slices"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/http"
	"github.com/crbridge/crbridge/pkg/sinks/nats"
	"github.com/crbridge/crbridge/pkg/sinks/stdout"
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
	// Where `/metrics`, `/api/status`, the status page and profiles of the
	// process (`/debug/pprof/`) are, and the health endpoints once more.
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

// Words implements settings.Worded.
func (LogLevel) Words() []string { return settings.Words(LogDebug, LogInfo, LogWarn, LogError) }

// LogFormat is how a line of the log is written.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Words implements settings.Worded.
func (LogFormat) Words() []string { return settings.Words(LogText, LogJSON) }

// Health is where /healthz and /readyz are answered, to anyone.
type Health struct {
	// The address to listen on. Without a host it is all addresses of the
	// machine; port 0 takes a free one. The same as `server.address` means one
	// listener for both.
	Address string `koanf:"address" rule:"address"`
}

// Server is where /metrics, /api/status, the status page and /debug/pprof/ are,
// and the health endpoints once more.
type Server struct {
	// The address to listen on, as for `health.address`. The bridge warns of
	// one that is reached from outside of the machine while `auth` is `none`.
	Address string `koanf:"address" rule:"address"`
	// Who may read: `none` is everyone who reaches the address; and of
	// profiles, everyone who does so over loopback. `kubernetes` is everyone
	// with a token of the cluster whom it lets get the path.
	Auth ServerAuth `koanf:"auth"`
}

// ServerAuth is how the server knows its readers.
type ServerAuth string

// Ways to know readers.
const (
	// AuthNone lets everyone read who reaches the address.
	AuthNone ServerAuth = "none"
	// AuthKubernetes has the cluster say who may: by TokenReview and
	// SubjectAccessReview.
	AuthKubernetes ServerAuth = "kubernetes"
)

// Words implements settings.Worded.
func (ServerAuth) Words() []string { return settings.Words(AuthNone, AuthKubernetes) }

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

// Words implements settings.Worded.
func (Content) Words() []string { return settings.Words(ContentObject, ContentMetadata, ContentChange) }

// Selects tells whether the objects of the CRD with this name take the route.
func (r *Route) Selects(crdName string) bool {
	matches := func(p CRDPattern) bool { return p.Matches(crdName) }
	return slices.ContainsFunc(r.CRDs, matches) && !slices.ContainsFunc(r.ExcludeCRDs, matches)
}

// Admits tells whether events of this type are sent.
func (r *Route) Admits(t events.Type) bool { return slices.Contains(r.Events, t) }

// Sink is a place that events are delivered to. It is of exactly one kind:
// that whose key is there.
type Sink struct {
	// A NATS server or cluster, with JetStream or without.
	NATS *nats.Settings `koanf:"nats" rule:"choice"`
	// A URL that events are posted to, such as a Knative broker or a webhook.
	HTTP *http.Settings `koanf:"http" rule:"choice"`
	// The bridge's standard output, a line of JSON for each event: for a first
	// look. It has no keys: write `stdout: {}`.
	Stdout *stdout.Settings `koanf:"stdout" rule:"choice"`
}

// Kind is the name of the sink's kind and its settings.
func (s Sink) Kind() (name string, of sinks.Settings) {
	for name, of := range s.kinds() {
		return name, of
	}
	return "", nil
}

// kinds yields all that there are: more than one, or none, is no sink.
func (s Sink) kinds() iter.Seq2[string, sinks.Settings] {
	return func(yield func(string, sinks.Settings) bool) {
		v := reflect.ValueOf(s)
		for i, f := range fieldsOf(v.Type()) {
			of, is := reflect.TypeAssert[sinks.Settings](v.Field(i))
			if is && !v.Field(i).IsNil() && !yield(f.name, of) {
				return
			}
		}
	}
}
