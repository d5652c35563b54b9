package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/crbridge/crbridge/pkg/config"
)

// validate checks the configuration file; its error has a line for each problem.
// If it is asked to it then looks at the cluster and the sinks.
func validate(ctx context.Context, o options, environ []string, stdout, stderr io.Writer) error {
	c, err := loadConfig(o.config, environ)
	if err != nil {
		return err
	}
	for _, warning := range c.Warnings() {
		fmt.Fprintln(stderr, "warning:", warning)
	}
	fmt.Fprintf(stdout, "%s: ok\n", o.config)
	if o.cluster {
		return preflight(ctx, c, o.kubeconfig, stdout)
	}
	return nil
}

func loadConfig(path string, environ []string) (*config.Config, error) {
	c, err := config.Load(path, environ)
	if err == nil {
		return c, nil
	}
	if _, bad := errors.AsType[*config.Error](err); !bad {
		err = fmt.Errorf("bridge: %w", err)
	}
	return nil, usageError{err}
}
