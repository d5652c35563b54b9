package config

import (
	"bytes"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/crbridge/crbridge/pkg/settings"
)

// compiled is the schema, in a validator that others wrote.
var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	content, err := Schema()
	if err != nil {
		return nil, err
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("config.schema.json", document); err != nil {
		return nil, err
	}
	return c.Compile("config.schema.json")
})

// bySchema is what the schema has against the content, which has to be YAML.
func bySchema(t *testing.T, content []byte) error {
	t.Helper()
	s, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	root := &yaml.Node{}
	if err := yaml.Unmarshal(bytes.TrimPrefix(content, []byte("\ufeff")), root); err != nil {
		t.Fatalf("%v\nof\n%s", err, content)
	}
	return s.Validate(asJSON(root))
}

// asJSON is a YAML node as an editor hands it to a schema: a scalar is what its
// tag says, a key is a string.
func asJSON(n *yaml.Node) any {
	switch n.Kind {
	case yaml.DocumentNode:
		return asJSON(n.Content[0])
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = asJSON(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, element := range n.Content {
			list = append(list, asJSON(element))
		}
		return list
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int", "!!float":
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return f
		}
	}
	return n.Value
}

func TestSchemaTakesTheExample(t *testing.T) {
	content, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := bySchema(t, content); err != nil {
		t.Error(err)
	}
	name := regexp.MustCompile(`^# yaml-language-server: \$schema=(\S+)\n`).FindSubmatch(content)
	if name == nil {
		t.Fatal("it does not begin with the line by which editors find the schema")
	}
	if shipped := "../../" + string(name[1]); shipped != schemaFile {
		t.Errorf("its schema is %s, not %s", shipped, schemaFile)
	}
}

// TestSchemaRefuses shows how much of what is wrong an editor shows already.
func TestSchemaRefuses(t *testing.T) {
	rows, refused, silent := 0, 0, []string{}
	for _, row := range slices.Concat(badRows, badRules) {
		var root yaml.Node
		if len(row.environ) > 0 || yaml.Unmarshal([]byte(row.content), &root) != nil || len(root.Content) == 0 {
			continue // not the schema's business
		}
		rows++
		if bySchema(t, []byte(row.content)) != nil {
			refused++
		} else {
			silent = append(silent, row.reason)
		}
	}
	t.Logf("%d of %d bad configurations are refused by the schema; not:\n%s", refused, rows, strings.Join(silent, "\n"))
	if refused*2 < rows {
		t.Errorf("only %d of %d bad configurations are refused by the schema", refused, rows)
	}
}

// TestSchemaNeedsWhatTheLoaderNeeds takes each key out of a configuration that
// has them all, and sets it to null, which is the same.
func TestSchemaNeedsWhatTheLoaderNeeds(t *testing.T) {
	content, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	keys, needed := 0, 0
	eachKey(reflect.TypeFor[Config](), "", func(p settings.Path) {
		keys++
		for _, null := range []bool{false, true} {
			root := &yaml.Node{}
			if err := yaml.Unmarshal(content, root); err != nil {
				t.Fatal(err)
			}
			if !without(root.Content[0], "", p, null) {
				continue // commented out
			}
			changed, err := yaml.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			_, loader := load("f", changed, nil)
			if schema := bySchema(t, changed); (loader == nil) != (schema == nil) {
				t.Errorf("without %s (null: %t) the loader says %v and the schema %v", p, null, loader, schema)
			}
			if loader != nil {
				needed++
			}
		}
	})
	if keys < 50 || needed < 2*8 {
		t.Errorf("of %d keys, %d are needed", keys, needed/2)
	}
}

// without takes the key at p out of a node, or sets it to null.
func without(n *yaml.Node, at, p settings.Path, null bool) bool {
	for i, element := range n.Content {
		switch n.Kind {
		case yaml.SequenceNode:
			if without(element, at.Index(i), p, null) {
				return true
			}
		case yaml.MappingNode:
			if i%2 == 1 {
				continue
			}
			key, value := at.Key(element.Value), n.Content[i+1]
			switch {
			case key != p:
				if without(value, key, p, null) {
					return true
				}
			case null:
				n.Content[i+1] = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
				return true
			default:
				n.Content = slices.Delete(n.Content, i, i+2)
				return true
			}
		}
	}
	return false
}
