//go:build unix

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
)

// Ports are taken from below the range that Linux and macOS give to outgoing
// connections, and from below that of Kubernetes' node ports: the port of a
// server that is down stays free for its restart.
const (
	firstPort = 20000
	lastPort  = 29999
)

// given are ports that FreePort has returned. One of a server that is down for a
// while is not given to another.
var given sync.Map

// FreePort returns a TCP port on 127.0.0.1 that nobody listens on, and that it
// has not returned before in this process, as long as there are such. Another process may take it before
// the caller does.
func FreePort(ctx context.Context) (int, error) {
	var listener net.ListenConfig
	var last error
	for try := range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if _, before := given.LoadOrStore(port, true); before && try < 90 { // unless most are
			continue
		}
		l, err := listener.Listen(ctx, "tcp", loopback(port))
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port between %d and %d: %w", firstPort, lastPort, last)
}

// onFreePort calls start with a free port, and again with another one if the
// port was taken in between.
func onFreePort(ctx context.Context, start func(port int) error) error {
	var errs error
	for range 5 {
		port, err := FreePort(ctx)
		if err != nil {
			return err
		}
		if err = start(port); err == nil {
			return nil
		}
		errs = errors.Join(errs, err)
		if !strings.Contains(err.Error(), "address already in use") {
			return errs
		}
	}
	return errs
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
