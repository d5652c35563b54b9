package main

import (
	"context"
	"io"

	"github.com/crbridge/crbridge/pkg/config"
)

// printSchema prints the JSON Schema of the configuration, for editors.
func printSchema(_ context.Context, _ options, _ []string, stdout, _ io.Writer) error {
	schema, err := config.Schema()
	if err != nil {
		return err
	}
	_, err = stdout.Write(schema)
	return err
}
