package config

import "reflect"

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
	if s.NATS == nil {
		return nil
	}
	a, t := s.NATS.Auth, s.NATS.TLS
	var files []string
	for _, file := range []string{a.CredentialsFile, a.NKeyFile, a.UserFile, a.PasswordFile, a.TokenFile, t.CAFile, t.CertFile, t.KeyFile} {
		if file != "" {
			files = append(files, file)
		}
	}
	return files
}
