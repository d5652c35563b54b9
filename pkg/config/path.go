package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// path names a key as messages do: routes[0].crds[1], sinks.main.nats.url. The
// empty path is the whole configuration.
type path string

// plainKey is what needs no quotes in a path.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func (p path) key(name string) path {
	if !plainKey.MatchString(name) {
		name = strconv.Quote(name)
	}
	if p == "" {
		return path(name)
	}
	return p + "." + path(name)
}

func (p path) index(i int) path {
	return path(fmt.Sprintf("%s[%d]", p, i))
}

// parent is what p is in. In a key with quotes it may stop half-way, at a path
// that no key has, and then still ends at what p is in.
func (p path) parent() path {
	return p[:max(0, strings.LastIndexAny(string(p), ".["))]
}
