package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestPageLoads shows that what the page has in YAML, which is a route's keys,
// is good, its expressions compiled.
func TestPageLoads(t *testing.T) {
	page, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	expressions := 0
	for _, block := range yamlBlock.FindAllSubmatch(page, -1) {
		loaded(t, route(string(block[1])))
		expressions += strings.Count(string(block[1]), "when:")
	}
	if expressions < 6 {
		t.Errorf("the page has %d expressions", expressions)
	}
}
