// Package keydoc makes documentation of a configuration's keys: descriptions of
// the comments in its Go source, and Markdown tables of its JSON Schema. It
// knows none of the keys.
package keydoc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// Sources are the files with structs of keys, as seen from pkg/config: the
// bridge's own, what several have in common, and those of each kind of sink.
func Sources() []string {
	return []string{"*.go", "../settings/*.go", "../sinks/*/*.go"}
}

// Comments are the comments above the struct fields with the tag in the Go
// files that match the patterns, each as one line, by settings.ID. A field with
// the tag and without a comment is an error.
func Comments(tag string, patterns ...string) (map[string]string, error) {
	var files []string
	for _, pattern := range patterns {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		files = append(files, matches...)
	}
	comments := map[string]string{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for spec := range structs(file) {
			if err := addFields(comments, file.Name.Name, spec, tag); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return comments, nil
}

// structs yields the declarations of struct types in a file.
func structs(file *ast.File) func(yield func(*ast.TypeSpec) bool) {
	return func(yield func(*ast.TypeSpec) bool) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, is := n.(*ast.TypeSpec)
			if !is {
				return true
			}
			if _, is := spec.Type.(*ast.StructType); !is {
				return false
			}
			return yield(spec)
		})
	}
}

func addFields(comments map[string]string, pkg string, spec *ast.TypeSpec, tag string) error {
	for _, f := range spec.Type.(*ast.StructType).Fields.List {
		if f.Tag == nil || len(f.Names) != 1 {
			continue
		}
		text, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			return err
		}
		if _, has := reflect.StructTag(text).Lookup(tag); !has {
			continue
		}
		id := pkg + "." + spec.Name.Name + "." + f.Names[0].Name
		words := strings.Fields(f.Doc.Text())
		if len(words) == 0 {
			return fmt.Errorf("%s has no comment above it; write what its key %s is for", id, reflect.StructTag(text).Get(tag))
		}
		comments[id] = strings.Join(words, " ")
	}
	return nil
}

// Encode writes comments as a file has them.
func Encode(comments map[string]string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // people read it
	enc.SetIndent("", "  ")
	err := enc.Encode(comments)
	return b.Bytes(), err
}
