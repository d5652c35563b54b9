// Command generate writes what is made of the configuration's structs and their
// comments. It is run by go generate, in pkg/config.
package main

import (
	"fmt"
	"os"

	"github.com/crbridge/crbridge/pkg/config"
	"github.com/crbridge/crbridge/pkg/config/internal/keydoc"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// run writes the comments, or the pages. These are made by a program that has
// the comments in it, so they are written by another run.
func run(args []string) error {
	switch what := fmt.Sprint(args); what {
	case "[comments]":
		return comments()
	case "[pages]":
		return pages()
	default:
		return fmt.Errorf("%s: write comments or pages", what)
	}
}

func comments() error {
	all, err := keydoc.Comments("koanf", keydoc.Sources()...)
	if err != nil {
		return err
	}
	content, err := keydoc.Encode(all)
	if err != nil {
		return err
	}
	return os.WriteFile("descriptions.json", content, 0o644)
}

func pages() error {
	schema, err := config.Schema()
	if err != nil {
		return err
	}
	if err := os.WriteFile("../../deploy/schema/config.schema.json", schema, 0o644); err != nil {
		return err
	}
	values, err := fill("../../deploy/chart/values.schema.json", keydoc.Embed, schema)
	if err != nil {
		return err
	}
	if _, err := fill("../../docs/configuration.md", keydoc.Tables, schema); err != nil {
		return err
	}
	_, err = fill("../../docs/deploy.md", keydoc.Tables, values)
	return err
}

// fill has a file filled with what follows from a schema.
func fill(file string, with func(content, schema []byte) ([]byte, error), schema []byte) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if content, err = with(content, schema); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return content, os.WriteFile(file, content, 0o644)
}
