package config

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/crbridge/crbridge/pkg/config/internal/keydoc"
)

const (
	schemaFile = "../../deploy/schema/config.schema.json"
	pageFile   = "../../docs/configuration.md"
	valuesFile = "../../deploy/chart/values.schema.json"
	deployFile = "../../docs/deploy.md"
)

// TestGenerated shows that what is made of the structs and their comments is
// up to date.
func TestGenerated(t *testing.T) {
	const remedy = "run make generate (-there +made):\n"
	comments, err := keydoc.Comments(koanfTag, keydoc.Sources()...)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := keydoc.Encode(comments)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(descriptions), string(encoded)); diff != "" {
		t.Errorf("descriptions.json: %s%s", remedy, diff)
	}
	schema, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(shipped), string(schema)); diff != "" {
		t.Errorf("%s: %s%s", schemaFile, remedy, diff)
	}
	for _, filled := range []struct {
		file string
		with func(content, schema []byte) ([]byte, error)
		from string
	}{
		{pageFile, keydoc.Tables, schemaFile},
		{valuesFile, keydoc.Embed, schemaFile},
		{deployFile, keydoc.Tables, valuesFile},
	} {
		content, err := os.ReadFile(filled.file)
		if err != nil {
			t.Fatal(err)
		}
		from, err := os.ReadFile(filled.from)
		if err != nil {
			t.Fatal(err)
		}
		made, err := filled.with(content, from)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(content), string(made)); diff != "" {
			t.Errorf("%s: %s%s", filled.file, remedy, diff)
		}
	}
}
