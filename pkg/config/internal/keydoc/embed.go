package keydoc

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Embed puts the configuration's schema into that of a Helm chart's values, as
// its last definition, config, and leaves the rest as it is. Helm follows no
// reference to another file.
func Embed(values, schemaJSON []byte) ([]byte, error) {
	const place = `"$defs": {`
	before, _, found := bytes.Cut(values, []byte(place))
	if !found {
		return nil, fmt.Errorf("there is no %s to put the configuration's schema into", place)
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(place + "\n    \"config\": ")
	if err := json.Indent(&b, withoutDialect(schemaJSON), "    ", "  "); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	b.WriteString("\n  }\n}\n")
	if !json.Valid(b.Bytes()) {
		return nil, fmt.Errorf("%s is not at the end of a JSON object", place)
	}
	return b.Bytes(), nil
}

// withoutDialect leaves out the line that says which JSON Schema it is: only a
// document may have that, and not a part of one.
func withoutDialect(schemaJSON []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(bytes.TrimSpace(schemaJSON)) {
		if !bytes.HasPrefix(line, []byte(`  "$schema":`)) {
			b.Write(line)
		}
	}
	return b.Bytes()
}
