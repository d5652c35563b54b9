//go:build unix

// Servers builds the servers that the tests and the demo run, so that go test,
// which shows a package's output only at its end, finds them built; or those
// that its arguments name, such as helm. It prints their paths.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/crbridge/crbridge/test/servers"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string, stdout, progress io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	all := servers.All()
	if len(names) > 0 {
		all = nil
	}
	for _, name := range names {
		all = append(all, servers.Server(name))
	}
	paths, err := servers.Paths(ctx, progress, all...)
	for _, path := range paths {
		fmt.Fprintln(stdout, path)
	}
	return err
}
