package events

import (
	"encoding/json"
)

// Shrink makes the data of an event smaller that is too large for its sink: the
// first time it becomes the object's apiVersion, kind and metadata, then the
// object's identity (apiVersion, kind, metadata.name, .namespace and .uid); of
// content "change" it is these under object. The attribute oversize says so. It
// tells whether there was anything left to take away.
func (e *Event) Shrink() bool {
	for e.shrunk < 2 {
		e.shrunk++
		smaller, err := e.smaller()
		if err != nil || len(smaller) >= len(e.Data) {
			continue
		}
		e.Data, e.oversize = smaller, true
		return true
	}
	return false
}

// smaller is the data as it should be by now.
func (e *Event) smaller() ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(e.Data, &object); err != nil {
		return nil, err
	}
	if e.content == ContentChange {
		inner := object["object"]
		object = nil
		if err := json.Unmarshal(inner, &object); err != nil {
			return nil, err
		}
	}
	only := map[string]any{}
	for _, name := range []string{"apiVersion", "kind", "metadata"} {
		if value, ok := object[name]; ok {
			only[name] = value
		}
	}
	if e.shrunk == 2 {
		var metadata map[string]json.RawMessage
		if err := json.Unmarshal(object["metadata"], &metadata); err != nil {
			return nil, err
		}
		who := map[string]any{}
		for _, name := range []string{"name", "namespace", "uid"} {
			if value, ok := metadata[name]; ok {
				who[name] = value
			}
		}
		only["metadata"] = who
	}
	if e.content == ContentChange {
		return encode(map[string]any{"object": only})
	}
	return encode(only)
}
