package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/sinks"
	"github.com/crbridge/crbridge/pkg/sinks/nats"
)

// loaded is what the content gives, which has to be good.
func loaded(t *testing.T, content string, environ ...string) *Config {
	t.Helper()
	c, err := load("f", []byte(content), environ)
	if err != nil {
		t.Fatalf("%v\nof\n%s", err, content)
	}
	if len(environ) == 0 {
		if err := bySchema(t, []byte(content)); err != nil {
			t.Errorf("the schema takes it for wrong: %v\nof\n%s", err, content)
		}
	}
	return c
}

func allEvents() []events.Type {
	return []events.Type{events.Existing, events.Created, events.Updated, events.Deleted, events.Deselected}
}

// goodConfig is the constant good, loaded.
func goodConfig() *Config {
	c := defaults[Config]()
	c.Cluster = "demo"
	c.Routes = []Route{{Name: "orders", CRDs: []CRDPattern{"orders.shop.example.com"}, Events: allEvents(), Payload: Payload{Content: ContentObject}, Sinks: []string{"main"}}}
	main := defaults[nats.Settings]()
	main.URLs = settings.OneOrMore{"nats://nats:4222"}
	c.Sinks = map[string]Sink{"main": {NATS: &main}}
	return &c
}

// defaults is what holds for a T of which nothing is said.
func defaults[T any]() T {
	v, _ := defaultOf(reflect.TypeFor[T]())
	return v.Interface().(T)
}

func TestLoad(t *testing.T) {
	for _, row := range []struct {
		reason  string
		content string
		environ []string
		change  func(*Config) // of goodConfig
	}{
		{"the least that is valid has all defaults", good, nil, func(*Config) {}},
		{"null means the default", top("log: {level: , format: ~}\nhealth: null\n"), nil, func(*Config) {}},
		{"a byte order mark and carriage returns are what Windows writes",
			"\ufeff" + strings.ReplaceAll(good, "\n", "\r\n"), nil, func(*Config) {}},
		{"a document may have its marks", "---\n" + good + "...\n", nil, func(*Config) {}},
		{"an anchor alone harms nobody", top("log: &log {level: info}\n"), nil, func(*Config) {}},
		{"a string that is a word of YAML, in quotes", strings.Replace(good, "demo", `"123"`, 1), nil,
			func(c *Config) { c.Cluster = "123" }},
		{"part of a mapping leaves the defaults of the rest", top("log: {format: json}\n"), nil,
			func(c *Config) { c.Log.Format = LogJSON }},
		{"every value of its own", top("log: {level: warn, format: json}\nhealth: {address: '[::1]:0'}\n" +
			"server: {address: 'localhost:9090', auth: none}\nleaderElection: {enabled: true, namespace: bridge, name: bridge.demo}\n"), nil,
			func(c *Config) {
				c.Log = Log{LogWarn, LogJSON}
				c.Health.Address = "[::1]:0"
				c.Server.Address = "localhost:9090"
				c.LeaderElection = LeaderElection{true, "bridge", "bridge.demo"}
			}},
		{"one listener for health and server", top("health: {address: ':80'}\nserver: {address: ':80'}\n"), nil,
			func(c *Config) { c.Health.Address, c.Server.Address = ":80", ":80" }},
		{"two free ports are two listeners", top("health: {address: ':0'}\nserver: {address: '127.0.0.1:0'}\n"), nil,
			func(c *Config) { c.Health.Address, c.Server.Address = ":0", "127.0.0.1:0" }},
		{"a route's optional keys", route("excludeCRDs: ['*.shop.example.org']\nversion: v1beta1\n"), nil,
			func(c *Config) {
				c.Routes[0].ExcludeCRDs, c.Routes[0].Version = []CRDPattern{"*.shop.example.org"}, "v1beta1"
			}},
		{"types of events in place of all, in the user's order", route("events: [deleted, created]\n"), nil,
			func(c *Config) { c.Routes[0].Events = []events.Type{events.Deleted, events.Created} }},
		{"no types of events, by null, are all of them", route("events: ~\n"), nil, func(*Config) {}},
		{"the types of one route are not those of the next", goodCluster + "routes:\n" +
			"- {name: orders, crds: [orders.shop.example.com], events: [updated], sinks: [main]}\n" +
			"- {name: all, crds: ['*'], sinks: [main]}\n" + goodSinks, nil,
			func(c *Config) {
				c.Routes[0].Events = []events.Type{events.Updated}
				c.Routes = append(c.Routes, Route{Name: "all", CRDs: []CRDPattern{"*"}, Events: allEvents(), Payload: Payload{Content: ContentObject}, Sinks: []string{"main"}})
			}},
		{"selection, filters and payload", route("namespaces: [a, b]\nlabelSelector: app=web,tier in (a, b),!old\nfieldSelector: metadata.namespace!=c,spec.color=blue\n" +
			"when: object.spec.size > 1\nchanges: {specOnly: true, ignore: [spec.replicas]}\n" +
			"payload: {content: change, drop: ['spec.items[*].blob'], redact: [spec.password]}\n"), nil,
			func(c *Config) {
				r := &c.Routes[0]
				r.Namespaces, r.LabelSelector = []string{"a", "b"}, "app=web,tier in (a, b),!old"
				r.FieldSelector, r.When = "metadata.namespace!=c,spec.color=blue", "object.spec.size > 1"
				r.Changes = Changes{SpecOnly: true, Ignore: []string{"spec.replicas"}}
				r.Payload = Payload{Content: ContentChange, Drop: []string{"spec.items[*].blob"}, Redact: []string{"spec.password"}}
			}},
		{"what is left out may be kept", route("payload: {keep: [metadata.managedFields, 'metadata.annotations[\"kubectl.kubernetes.io/last-applied-configuration\"]']}\n"), nil,
			func(c *Config) {
				c.Routes[0].Payload.Keep = []string{"metadata.managedFields", `metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"]`}
			}},
		{"empty lists and strings are the defaults", route("namespaces: []\nlabelSelector: ''\nfieldSelector: ''\nwhen: ''\nchanges: {ignore: []}\npayload: {drop: [], keep: [], redact: []}\n"), nil,
			func(c *Config) {
				c.Routes[0].Namespaces, c.Routes[0].Changes.Ignore = []string{}, []string{}
				c.Routes[0].Payload = Payload{Content: ContentObject, Drop: []string{}, Keep: []string{}, Redact: []string{}}
			}},
		{"null is the default of a part, too", route("namespaces:\nlabelSelector: ~\nwhen:\nchanges:\npayload: {content: , drop: ~}\n"), nil, func(*Config) {}},
		{"deselected may be listed before there is a selector", route("events: [created, deselected]\n"), nil,
			func(c *Config) { c.Routes[0].Events = []events.Type{events.Created, events.Deselected} }},
		{"a condition where ends are not sent", route("events: [updated]\nwhen: oldObject != null\n"), nil,
			func(c *Config) {
				c.Routes[0].Events, c.Routes[0].When = []events.Type{events.Updated}, "oldObject != null"
			}},
		{"a list of urls", strings.Replace(good, "'nats://nats:4222'", "[nats://a, 'tls://b:4223']", 1), nil,
			func(c *Config) { c.Sinks["main"].NATS.URLs = settings.OneOrMore{"nats://a", "tls://b:4223"} }},
		{"WebSockets alone", strings.Replace(good, "nats://nats:4222", "wss://nats/leaf", 1), nil,
			func(c *Config) { c.Sinks["main"].NATS.URLs = settings.OneOrMore{"wss://nats/leaf"} }},
		{"a sink's optional keys", natsWith("subject: e.{route}\nmode: structured\nauth: {userFile: /u, passwordFile: /p}\n" +
			"tls: {caFile: ca, certFile: c, keyFile: k, serverName: nats.example.com}\n"), nil,
			func(c *Config) {
				n := c.Sinks["main"].NATS
				n.Subject, n.Mode = "e.{route}", sinks.Structured
				n.Auth = nats.Auth{UserFile: "/u", PasswordFile: "/p"}
				n.TLS = settings.TLS{CAFile: "ca", CertFile: "c", KeyFile: "k", ServerName: "nats.example.com"}
			}},
		{"a stream has its own defaults", stream(""), nil,
			func(c *Config) {
				j := defaults[nats.JetStream]()
				j.Stream = "K8S"
				c.Sinks["main"].NATS.JetStream = &j
			}},
		{"a stream's optional keys, and zeros that are no defaults",
			stream("create: false\nsubjects: [k8s.>]\nreplicas: 3\nstorage: memory\nmaxAge: 0s\nmaxBytes: 1073741824\nmaxMsgsPerSubject: 5\nduplicateWindow: 1h30m\n"), nil,
			func(c *Config) {
				c.Sinks["main"].NATS.JetStream = &nats.JetStream{
					Stream: "K8S", Subjects: []string{"k8s.>"}, Replicas: 3, Storage: nats.Memory,
					MaxBytes: 1 << 30, MaxMsgsPerSubject: 5, DuplicateWindow: 90 * time.Minute,
				}
			}},
		{"a stream for the state", stream("") + "state: {sink: main}\n", nil,
			func(c *Config) {
				j := defaults[nats.JetStream]()
				j.Stream = "K8S"
				c.Sinks["main"].NATS.JetStream = &j
				c.State.Sink = "main"
			}},
		{"other credentials may be another account's stream of that name", strings.Replace(good, "sinks: [main]", "sinks: [a, b]", 1)[:len(goodCluster+goodRoutes)-1] +
			"\nsinks:\n a: {nats: {url: nats://nats, jetstream: {stream: K8S}}}\n b: {nats: {url: nats://nats, auth: {tokenFile: /t}, jetstream: {stream: K8S}}}\n", nil,
			func(c *Config) {
				j := defaults[nats.JetStream]()
				j.Stream = "K8S"
				a, b := defaults[nats.Settings](), defaults[nats.Settings]()
				a.URLs, a.JetStream = settings.OneOrMore{"nats://nats"}, &j
				b.URLs, b.JetStream, b.Auth.TokenFile = settings.OneOrMore{"nats://nats"}, &j, "/t"
				c.Routes[0].Sinks = []string{"a", "b"}
				c.Sinks = map[string]Sink{"a": {NATS: &a}, "b": {NATS: &b}}
			}},

		{"a variable sets what the file leaves out", good, []string{"BRIDGE__LOG__LEVEL=debug"},
			func(c *Config) { c.Log.Level = LogDebug }},
		{"a variable goes before the file, and the file before the default", top("log: {level: warn, format: json}\n"), []string{"BRIDGE__LOG__LEVEL=debug"},
			func(c *Config) { c.Log = Log{LogDebug, LogJSON} }},
		{"a variable replaces a bad value of the right type", top("log: {level: loud}\n"), []string{"BRIDGE__LOG__LEVEL=debug"},
			func(c *Config) { c.Log.Level = LogDebug }},
		{"a variable gives what is required", goodRoutes + goodSinks, []string{"BRIDGE__CLUSTER=demo"}, func(*Config) {}},
		{"letters in any case", good, []string{"bridge__LeaderElection__enabled=TRUE"},
			func(c *Config) { c.LeaderElection.Enabled = true }},
		{"a stream for the state, from a variable", stream(""), []string{"BRIDGE__STATE__SINK=main"},
			func(c *Config) {
				j := defaults[nats.JetStream]()
				j.Stream = "K8S"
				c.Sinks["main"].NATS.JetStream = &j
				c.State.Sink = "main"
			}},
		{"a url replaces the list", strings.Replace(good, "'nats://nats:4222'", "[nats://a, nats://b]", 1), []string{"BRIDGE__SINKS__MAIN__NATS__URL=nats://c"},
			func(c *Config) { c.Sinks["main"].NATS.URLs = settings.OneOrMore{"nats://c"} }},
		{"a sink's name with dashes, which look like levels",
			strings.ReplaceAll(good, "main", "a--nats"), []string{"BRIDGE__SINKS__A__NATS__NATS__MODE=structured"},
			func(c *Config) {
				c.Sinks["a--nats"] = c.Sinks["main"]
				delete(c.Sinks, "main")
				c.Sinks["a--nats"].NATS.Mode = sinks.Structured
				c.Routes[0].Sinks = []string{"a--nats"}
			}},
		{"a value of each type, in a stream that only the environment has", good, []string{
			"BRIDGE__SINKS__MAIN__NATS__JETSTREAM__STREAM=E=V",
			"BRIDGE__SINKS__MAIN__NATS__JETSTREAM__CREATE=false",
			"BRIDGE__SINKS__MAIN__NATS__JETSTREAM__REPLICAS=3",
			"BRIDGE__SINKS__MAIN__NATS__JETSTREAM__MAXBYTES=9223372036854775807",
			"BRIDGE__SINKS__MAIN__NATS__JETSTREAM__MAXAGE=10m",
		},
			func(c *Config) {
				j := defaults[nats.JetStream]()
				j.Stream, j.Create, j.Replicas, j.MaxBytes, j.MaxAge = "E=V", false, 3, 9223372036854775807, 10*time.Minute
				c.Sinks["main"].NATS.JetStream = &j
			}},
		{"the variables that Kubernetes makes for a Service named bridge", good, []string{
			"BRIDGE_SERVICE_HOST=10.0.0.1", "BRIDGE_PORT=tcp://10.0.0.1:80", "BRIDGE=x", "PATH=/bin", "malformed",
		}, func(*Config) {}},
	} {
		t.Run(row.reason, func(t *testing.T) {
			want := goodConfig()
			row.change(want)
			if diff := cmp.Diff(want, loaded(t, row.content, row.environ...)); diff != "" {
				t.Errorf("configuration (-want +got):\n%s\nof\n%s", diff, row.content)
			}
		})
	}
}

func TestLoadOpensTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.yaml")
	if _, err := Load(file, nil); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("a missing file gives %v, which does not say so or does not name it", err)
	}
	if err := os.WriteFile(file, []byte(top("log: {level: loud}\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(file, []string{"BRIDGE__CLUSTER=Demo"})
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatalf("bad content gives %v, not an *Error", err)
	}
	want := []Problem{
		{File: file, Line: 4, Column: 14, Message: `log.level: "loud": write debug, info, warn or error`},
		{Variable: "BRIDGE__CLUSTER", Message: `cluster: "Demo": ` + label},
	}
	if diff := cmp.Diff(want, bad.Problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if _, err := Load(file, []string{"BRIDGE__LOG__LEVEL=error"}); err != nil {
		t.Error(err)
	}
}

const exampleFile = "../../config.example.yaml"

func TestExampleHasTheDefaults(t *testing.T) {
	got, err := Load(exampleFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if warnings := got.Warnings(); len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
	want := defaults[Config]()
	stream := defaults[nats.JetStream]()
	main := defaults[nats.Settings]()
	// What is required and so has no default, and the empty lists.
	stream.Stream, stream.Subjects = "K8S", []string{}
	main.URLs, main.JetStream = settings.OneOrMore{"nats://nats.nats.svc:4222"}, &stream
	want.Cluster = "demo"
	want.Routes = []Route{{
		Name: "orders", CRDs: []CRDPattern{"orders.shop.example.com"}, ExcludeCRDs: []CRDPattern{}, Events: allEvents(), Sinks: []string{"main"},
		Namespaces: []string{}, Changes: Changes{Ignore: []string{}},
		Payload: Payload{Content: ContentObject, Drop: []string{}, Keep: []string{}, Redact: []string{}},
	}}
	want.Sinks = map[string]Sink{"main": {NATS: &main}}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("example (-defaults +example):\n%s", diff)
	}
}

// commentedKey is a key that is there but for one #, as in "#key: value".
var commentedKey = regexp.MustCompile(`(?m)^( *)#([A-Za-z]+:)`)

func TestExampleHasEveryKey(t *testing.T) {
	content, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	whole := commentedKey.ReplaceAll(content, []byte("$1$2"))
	root := &yaml.Node{}
	if err := yaml.Unmarshal(whole, root); err != nil {
		t.Fatalf("with its commented keys: %v", err)
	}
	r := newReport(exampleFile, whole)
	decoder{report: r}.document(root.Content[0])
	if err := r.err(); err != nil {
		t.Errorf("with its commented keys:\n%v", err)
	}
	keys := 0
	eachKey(reflect.TypeFor[Config](), "", func(p settings.Path) {
		keys++
		if !r.Written(p) {
			t.Errorf("%s is not in it", p)
		}
	})
	if keys < 40 {
		t.Errorf("only %d keys were looked for", keys)
	}
}

// eachKey calls f for every key that there can be, in the first element of a
// list and in the sink main.
func eachKey(t reflect.Type, p settings.Path, f func(settings.Path)) {
	switch t.Kind() {
	case reflect.Struct:
		for _, field := range fieldsOf(t) {
			f(p.Key(field.name))
			eachKey(field.typ, p.Key(field.name), f)
		}
	case reflect.Map:
		eachKey(t.Elem(), p.Key("main"), f)
	case reflect.Slice:
		eachKey(t.Elem(), p.Index(0), f)
	}
}

func TestEveryFieldHasItsKey(t *testing.T) {
	eachKey(reflect.TypeFor[Config](), "", func(p settings.Path) {
		if strings.HasSuffix(string(p), `""`) {
			t.Errorf("%s: a field without the tag %s", p, koanfTag)
		}
	})
}

func FuzzLoad(f *testing.F) {
	for _, row := range slices.Concat(badRows, badRules) {
		f.Add([]byte(row.content), strings.Join(row.environ, "\n"))
	}
	f.Add([]byte(route("namespaces: [a, b]\nlabelSelector: app=web,tier in (a, b),!old\nfieldSelector: metadata.namespace!=c,spec.color=blue\n"+
		"when: >-\n  type == 'created' ||\n    object.spec.size > 1\nchanges: {specOnly: true, ignore: [spec.replicas]}\n"+
		"payload: {content: change, drop: ['spec.items[*].blob'], redact: [\"metadata.annotations['example.com/key']\"]}\n")), "")
	example, err := os.ReadFile(exampleFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example, "BRIDGE__SINKS__MAIN__NATS__URL=nats://a")
	f.Fuzz(func(t *testing.T, content []byte, environ string) {
		c, err := load("f", content, strings.Split(environ, "\n"))
		if err == nil {
			c.Warnings()
			if environ == "" && bySchema(t, content) != nil {
				t.Errorf("the schema takes it for wrong: %v", bySchema(t, content))
			}
			return
		}
		var bad *Error
		if !errors.As(err, &bad) || len(bad.Problems) == 0 {
			t.Fatalf("an error without a place: %v", err)
		}
		lines := append(lineBreak.Split(string(content), -1), "") // the end of the file may be on a line of its own
		for _, p := range bad.Problems {
			if p.Variable == "" && (p.File != "f" || p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > utf8.RuneCountInString(lines[p.Line-1])+1) {
				t.Errorf("a problem without a place: %+v", p)
			}
			if p.Message == "" || strings.ContainsAny(p.String(), "\n\r") {
				t.Errorf("not one line: %q", p)
			}
		}
	})
}
