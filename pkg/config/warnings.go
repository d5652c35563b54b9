package config

import (
	"fmt"
	"maps"
	"slices"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/sinks"
)

// Warnings says what is allowed and probably not meant, a sentence each.
func (c *Config) Warnings() []string {
	var warnings []string
	if a, err := parseAddress(c.Server.Address); err == nil && c.Server.Auth == AuthNone && !a.loopback() {
		warnings = append(warnings, fmt.Sprintf(
			"server.address: %q is reached from outside of the machine and server.auth is none: whoever reaches it can read metrics, status and API; auth: kubernetes lets those in who have a token of the cluster",
			c.Server.Address))
	}
	warnings = append(warnings, c.stateWarnings()...)
	return append(warnings, c.overlapWarnings()...)
}

// stateWarnings is one for each sink whose ledgers are gone with the process.
func (c *Config) stateWarnings() []string {
	if c.State.Sink != "" {
		return nil
	}
	var warnings []string
	told := map[string]bool{}
	for i := range c.Routes {
		for _, sink := range c.Routes[i].Sinks {
			if _, of := c.Sinks[sink].Kind(); told[sink] || of.KeepsLedgers() {
				continue
			}
			told[sink] = true
			warnings = append(warnings, fmt.Sprintf(
				"sink %q has no jetstream, and state.sink names none that keeps its ledgers: after a restart or failover the bridge does not know what it sent there, so it tells of all objects again, as existing, and not of those deleted meanwhile",
				sink))
		}
	}
	return warnings
}

// overlapWarnings is one for each sink where the events of an object come from
// two routes on the same subject: each change twice, or, where the routes send
// different types of events, out of order.
func (c *Config) overlapWarnings() []string {
	var warnings []string
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		_, of := c.Sinks[name].Kind()
		addressed, is := of.(sinks.Addressed)
		if !is {
			continue
		}
		subject, err := events.ParseSubject(addressed.Template())
		if err != nil || subject.Has("route") {
			continue
		}
		first, pairs := "", 0
		for i := range c.Routes {
			for j := range i {
				a, b := &c.Routes[j], &c.Routes[i]
				versions := a.Version != "" && b.Version != "" && a.Version != b.Version
				if !slices.Contains(a.Sinks, name) || !slices.Contains(b.Sinks, name) || versions && subject.Has("version") || !overlap(a, b) {
					continue
				}
				if pairs++; pairs == 1 {
					first = fmt.Sprintf("routes %q and %q", a.Name, b.Name)
				}
			}
		}
		switch pairs {
		case 0:
			continue
		case 1:
		case 2:
			first += ", and another pair of routes,"
		default:
			first += fmt.Sprintf(", and %d other pairs of routes,", pairs-1)
		}
		warnings = append(warnings, fmt.Sprintf(
			"%s can select the same CRD and both go to sink %q, on the same subjects: put {route} into its subject, %q, to tell them apart",
			first, name, addressed.Template()))
	}
	return warnings
}
