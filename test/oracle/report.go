package oracle

import (
	"fmt"
	"strings"
)

// printed is how many violations of a property a report has.
const printed = 20

// Report lists violations by property, with their numbers, and the first of
// each. It is empty if there are none.
func Report(violations []Violation) string {
	counts := map[string]int{}
	lines := map[string][]string{}
	var properties []string
	for _, v := range violations {
		if counts[v.Property] == 0 {
			properties = append(properties, v.Property)
		}
		counts[v.Property]++
		if counts[v.Property] <= printed {
			lines[v.Property] = append(lines[v.Property], v.String())
		}
	}
	var b strings.Builder
	for _, property := range properties {
		fmt.Fprintf(&b, "%d violations of %s:\n", counts[property], property)
		for _, line := range lines[property] {
			fmt.Fprintf(&b, "  %s\n", line)
		}
		if more := counts[property] - printed; more > 0 {
			fmt.Fprintf(&b, "  and %d more\n", more)
		}
	}
	return b.String()
}
