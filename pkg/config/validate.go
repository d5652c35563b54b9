package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
)

const (
	label     = "not a DNS-1123 label; write at most 63 of a-z, 0-9 and -, with a letter or digit first and last"
	subdomain = "not a DNS-1123 subdomain; write DNS-1123 labels joined by dots, at most 253 characters"
)

// validate reports each value that has the right type and is wrong
// nevertheless.
func validate(c *Config, r *report) {
	r.requireLabel("cluster", c.Cluster)
	settings.OneOf(r, "log.level", c.Log.Level)
	settings.OneOf(r, "log.format", c.Log.Format)
	validateAddresses(c, r)
	settings.OneOf(r, "server.auth", c.Server.Auth)
	if ns := c.LeaderElection.Namespace; ns != "" {
		r.label("leaderElection.namespace", ns)
	}
	if name := c.LeaderElection.Name; len(validation.IsDNS1123Subdomain(name)) > 0 {
		r.Value("leaderElection.name", "%s: %s", settings.Quote(name), subdomain)
	}
	validateState(c, r)
	validateRoutes(c, r)
	validateSinks(c, r)
}

func validateAddresses(c *Config, r *report) {
	health, healthOK := r.address("health.address", c.Health.Address)
	server, serverOK := r.address("server.address", c.Server.Address)
	if !healthOK || !serverOK || c.Health.Address == c.Server.Address || health.port == 0 || health.port != server.port {
		return
	}
	// The same port on all addresses and on one of them cannot both be had.
	if !health.everywhere() && !server.everywhere() {
		return
	}
	const message = "%s: takes the port of %s, %s; write the same address to share it, or another port"
	if r.Written("server.address") {
		r.Value("server.address", message, settings.Quote(c.Server.Address), "health.address", settings.Quote(c.Health.Address))
	} else {
		r.Value("health.address", message, settings.Quote(c.Health.Address), "server.address", settings.Quote(c.Server.Address))
	}
}

func validateState(c *Config, r *report) {
	const at settings.Path = "state.sink"
	name := c.State.Sink
	sink, exists := c.Sinks[name]
	_, of := sink.Kind()
	switch {
	case name == "":
		return
	case !exists:
		r.noSink(at, name, c.Sinks)
		return
	case of == nil || of.KeepsLedgers() || r.unknownBelow(settings.Path("sinks").Key(name)):
		return
	}
	var fit []string
	for other, sink := range c.Sinks {
		if _, of := sink.Kind(); of != nil && of.KeepsLedgers() {
			fit = append(fit, other)
		}
	}
	if len(fit) == 0 {
		r.Value(at, "%s: a sink without jetstream keeps no ledgers, and none has it; leave the key out", settings.Quote(name))
		return
	}
	slices.Sort(fit)
	r.Value(at, "%s: a sink without jetstream keeps no ledgers; those with it: %s", settings.Quote(name), strings.Join(fit, ", "))
}

func validateRoutes(c *Config, r *report) {
	const routes settings.Path = "routes"
	if len(c.Routes) == 0 {
		r.Value(routes, "missing; at least one route has to be there")
	}
	names := map[string]int{}
	for i := range c.Routes {
		route, at := &c.Routes[i], routes.Index(i)
		if r.requireLabel(at.Key("name"), route.Name) {
			if first, taken := names[route.Name]; taken {
				r.Value(at.Key("name"), "%s: the name of routes[%d]; each route needs its own", settings.Quote(route.Name), first)
			} else {
				names[route.Name] = i
			}
		}
		if len(route.CRDs) == 0 {
			r.Value(at.Key("crds"), "missing; name at least one CRD")
		}
		r.patterns(at.Key("crds"), route.CRDs)
		r.patterns(at.Key("excludeCRDs"), route.ExcludeCRDs)
		if v := route.Version; v != "" && len(validation.IsDNS1035Label(v)) > 0 {
			r.Value(at.Key("version"), "%s: not the name of a version; write it as in v1 or v1beta1", settings.Quote(v))
		}
		validateEvents(route.Events, at.Key("events"), r)
		validateRules(route, at, r)
		validateRouteSinks(c, route, at.Key("sinks"), r)
	}
}

func validateEvents(types []events.Type, at settings.Path, r *report) {
	if len(types) == 0 {
		r.Value(at, "empty; name at least one type of event, or leave the key out for all")
	}
	for i, t := range types {
		if settings.OneOf(r, at.Index(i), t) && slices.Contains(types[:i], t) {
			r.Value(at.Index(i), "%s: listed twice", settings.Quote(string(t)))
		}
	}
}

func validateRouteSinks(c *Config, route *Route, at settings.Path, r *report) {
	if len(route.Sinks) == 0 {
		r.Value(at, "missing; name at least one sink")
	}
	for i, name := range route.Sinks {
		_, exists := c.Sinks[name]
		switch {
		case !exists && len(c.Sinks) > 0:
			r.noSink(at.Index(i), name, c.Sinks)
		case slices.Contains(route.Sinks[:i], name):
			r.Value(at.Index(i), "%s: listed twice", settings.Quote(name))
		case exists:
			if other, place := fedTwice(c, route.Sinks[:i], name); other != "" {
				r.Value(at.Index(i), "%s: leads to the same %s as sink %s; the route would feed it twice",
					settings.Quote(name), place, settings.Quote(other))
			}
		}
	}
}

// noSink reports a name that none of the sinks has. Without any sink, that is
// the problem, and told already.
func (r *report) noSink(at settings.Path, name string, sinks map[string]Sink) {
	if known := slices.Sorted(maps.Keys(sinks)); len(known) > 0 {
		r.Value(at, "%s: no such sink; %s", settings.Quote(name), didYouMean(Nearest(name, known), "there are", known))
	}
}

// fedTwice is the first of the others that leads to the same place as the
// sink, and which; empty where none does.
func fedTwice(c *Config, others []string, name string) (other, place string) {
	_, of := c.Sinks[name].Kind()
	for _, other := range others {
		if _, with := c.Sinks[other].Kind(); of != nil && with != nil {
			if place := with.Same(of); place != "" {
				return other, place
			}
		}
	}
	return "", ""
}

func (r *report) patterns(at settings.Path, patterns []CRDPattern) {
	for i, p := range patterns {
		switch {
		case !p.valid():
			r.Value(at.Index(i), `%s: not a CRD name; write <plural>.<group>, "*.<group>" or "*"`, settings.Quote(string(p)))
		case slices.Contains(patterns[:i], p):
			r.Value(at.Index(i), "%s: listed twice", settings.Quote(string(p)))
		}
	}
}

// requireLabel reports a value that is no DNS-1123 label, or is missing.
func (r *report) requireLabel(at settings.Path, value string) bool {
	if value == "" {
		r.Value(at, "missing; write a DNS-1123 label")
		return false
	}
	return r.label(at, value)
}

func (r *report) label(at settings.Path, value string) bool {
	if len(validation.IsDNS1123Label(value)) > 0 {
		r.Value(at, "%s: %s", settings.Quote(value), label)
		return false
	}
	return true
}

// address is an address to listen on.
type address struct {
	host string
	port uint16
}

// everywhere tells whether it means all addresses of the machine.
func (a address) everywhere() bool {
	ip, err := netip.ParseAddr(a.host)
	return a.host == "" || err == nil && ip.IsUnspecified()
}

// loopback tells whether only the machine itself reaches it.
func (a address) loopback() bool {
	ip, err := netip.ParseAddr(a.host)
	return a.host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func parseAddress(text string) (address, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return address{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return address{}, fmt.Errorf("port %q: %w", port, err)
	}
	if host != "" && !settings.IsHost(host) {
		return address{}, fmt.Errorf("host %q: not a name or an IP address", host)
	}
	return address{host: host, port: uint16(number)}, nil
}

func (r *report) address(at settings.Path, text string) (address, bool) {
	a, err := parseAddress(text)
	if err != nil {
		r.Value(at, `%s: not an address to listen on; write host:port, as in "127.0.0.1:8080" or ":8080"`, settings.Quote(text))
	}
	return a, err == nil
}
