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
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	made, err := keydoc.Tables(page, schema)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(page), string(made)); diff != "" {
		t.Errorf("%s: %s%s", pageFile, remedy, diff)
	}
}
