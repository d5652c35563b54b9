package config

import (
	"reflect"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
)

// SetDefaults implements settings.Defaulted. What it sets is not valid by
// itself: cluster, routes and sinks have no default.
func (c *Config) SetDefaults() {
	*c = Config{
		Log:            Log{Level: LogInfo, Format: LogText},
		Health:         Health{Address: ":8081"},
		Server:         Server{Address: "127.0.0.1:8080", Auth: AuthNone},
		LeaderElection: LeaderElection{Name: "crbridge"},
	}
}

// SetDefaults implements settings.Defaulted.
func (r *Route) SetDefaults() {
	*r = Route{Events: events.Types(), Payload: Payload{Content: ContentObject}}
}

// defaultOf is what holds for a value of the type wherever it is, if it is not
// the zero value.
func defaultOf(t reflect.Type) (v reflect.Value, has bool) {
	v = reflect.New(t)
	d, has := reflect.TypeAssert[settings.Defaulted](v)
	if has {
		d.SetDefaults()
	}
	return v.Elem(), has
}
