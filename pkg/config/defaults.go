package config

import (
	"reflect"
	"time"

	"github.com/crbridge/crbridge/pkg/events"
)

// Default is what holds where a configuration says nothing. It is not valid by
// itself: cluster, routes and sinks have no default.
func Default() Config {
	return Config{
		Log:            Log{Level: LogInfo, Format: LogText},
		Health:         Health{Address: ":8081"},
		Server:         Server{Address: "127.0.0.1:8080", Auth: AuthNone},
		LeaderElection: LeaderElection{Name: "crbridge"},
	}
}

// DefaultRoute is what holds for a route.
func DefaultRoute() Route {
	return Route{Events: events.Types(), Payload: Payload{Content: ContentObject}}
}

// DefaultNATS is what holds for a sink of this kind.
func DefaultNATS() NATS {
	return NATS{
		Subject: "k8s.{cluster}.{group}.{resource}.{namespace}.{name}",
		Mode:    ModeBinary,
	}
}

// DefaultJetStream is what holds for the stream of a sink that has one.
func DefaultJetStream() JetStream {
	return JetStream{
		Create:          true,
		Replicas:        1,
		Storage:         StorageFile,
		MaxAge:          7 * 24 * time.Hour,
		DuplicateWindow: 2 * time.Minute, // the server's own default
	}
}

// defaultOf is what holds for a value of the type wherever it is, if it is not
// the zero value.
func defaultOf(t reflect.Type) (v reflect.Value, has bool) {
	switch t {
	case reflect.TypeFor[Config]():
		return reflect.ValueOf(Default()), true
	case reflect.TypeFor[Route]():
		return reflect.ValueOf(DefaultRoute()), true
	case reflect.TypeFor[NATS]():
		return reflect.ValueOf(DefaultNATS()), true
	case reflect.TypeFor[JetStream]():
		return reflect.ValueOf(DefaultJetStream()), true
	}
	return reflect.Zero(t), false
}
