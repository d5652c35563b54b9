package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSchema shows that the command prints what deploy/ has.
func TestSchema(t *testing.T) {
	want, err := os.ReadFile("../../deploy/schema/config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"schema"}, nil, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), stdout.String()); diff != "" {
		t.Errorf("run make generate (-deploy +printed):\n%s", diff)
	}
	if stderr.Len() > 0 {
		t.Errorf("on stderr: %s", stderr.String())
	}
	if err := run(t.Context(), []string{"schema", "--config", "f"}, nil, &stdout, &stderr); exitStatus(err, &stderr) != 2 {
		t.Errorf("a flag that means nothing gives %v", err)
	}
}
