package settings

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Path names a key as messages do: routes[0].crds[1], sinks.main.nats.url. The
// empty path is the whole configuration.
type Path string

// plainKey is what needs no quotes in a path.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// Key is the key of that name in the mapping at p.
func (p Path) Key(name string) Path {
	if !plainKey.MatchString(name) {
		name = strconv.Quote(name)
	}
	if p == "" {
		return Path(name)
	}
	return p + "." + Path(name)
}

// Index is the element of the list at p, counted from 0.
func (p Path) Index(i int) Path {
	return Path(fmt.Sprintf("%s[%d]", p, i))
}

// Parent is what p is in. In a key with quotes it may stop half-way, at a path
// that no key has, and then still ends at what p is in.
func (p Path) Parent() Path {
	return p[:max(0, strings.LastIndexAny(string(p), ".["))]
}
