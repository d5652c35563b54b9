package config

import (
	"reflect"
	"slices"
)

// Restart takes from another configuration what a running bridge cannot change,
// and names the keys whose values in c are thereby not in force.
func (c *Config) Restart(inForce *Config) (keys []string) {
	for _, k := range []struct {
		name      string
		want, now any
		keep      func()
	}{
		{"cluster", c.Cluster, inForce.Cluster, func() { c.Cluster = inForce.Cluster }},
		{"health.address", c.Health, inForce.Health, func() { c.Health = inForce.Health }},
		{"server.address", c.Server.Address, inForce.Server.Address, func() { c.Server.Address = inForce.Server.Address }},
		{"server.auth", c.Server.Auth, inForce.Server.Auth, func() { c.Server.Auth = inForce.Server.Auth }},
		{"leaderElection", c.LeaderElection, inForce.LeaderElection, func() { c.LeaderElection = inForce.LeaderElection }},
		{"state", c.State, inForce.State, func() { c.State = inForce.State }},
	} {
		if !reflect.DeepEqual(k.want, k.now) {
			keys = append(keys, k.name)
			k.keep()
		}
	}
	return keys
}

// Secrets are the files that the sink reads for each connection.
func (s Sink) Secrets() []string {
	_, of := s.Kind()
	return slices.DeleteFunc(of.Files(), func(file string) bool { return file == "" })
}
