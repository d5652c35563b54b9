package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/crbridge/crbridge/pkg/events/when"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestPageLoads shows that what the page has in YAML, which is a route's keys
// or sinks, is good, and that its expressions fail for no object of their examples.
func TestPageLoads(t *testing.T) {
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	spec := map[string]any{"total": int64(5), "cpu": "1"}
	bare := map[string]any{"metadata": map[string]any{"name": "a", "generation": int64(1)}, "spec": spec}
	full := map[string]any{
		"metadata": map[string]any{
			"name": "a", "generation": int64(2), "labels": map[string]any{"tier": "gold"}, "annotations": map[string]any{"shop.example.com/quiet": "true"},
		},
		"spec": spec,
		"status": map[string]any{
			"phase": "Paid", "observedGeneration": int64(2), "conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
		},
	}
	expressions := 0
	for _, block := range yamlBlock.FindAllSubmatch(page, -1) {
		content := string(block[1])
		if strings.HasPrefix(content, "sinks:\n") {
			loaded(t, goodCluster+goodRoutes+content)
			continue
		}
		r := loaded(t, route(content)).Routes[0]
		if r.When == "" {
			continue
		}
		expressions++
		program, err := when.Compile(r.When)
		if err != nil {
			t.Fatal(err)
		}
		for _, old := range []map[string]any{nil, bare, full} {
			for _, object := range []map[string]any{bare, full} {
				if _, err := program.Admits("updated", object, old); err != nil {
					t.Errorf("%s\nof %v, before %v: %v", r.When, object, old, err)
				}
			}
		}
	}
	if expressions < 6 {
		t.Errorf("the page has %d expressions", expressions)
	}
}
