package oracle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// lastApplied is where kubectl apply keeps a copy of the object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Content stands for what an object says: a digest of each of its top-level
// fields, so that two of them can be compared, and a difference be named,
// without keeping the objects.
//
// Left out is what may differ between an object in etcd and the same object in
// an event: apiVersion and kind (etcd has the storage version), and
// metadata.resourceVersion (which etcd does not store), .managedFields and
// kubectl's last-applied annotation (which events do not carry).
type Content map[string]digest

type digest [16]byte

// identity is what an object says about who it is.
type identity struct {
	apiVersion, kind, namespace, name, uid, resourceVersion string
	bare                                                    bool // and it says nothing else
}

// ReadContent digests an object's JSON. Two texts of the same object, with
// other spaces, another order of fields or other spellings of the same number,
// give the same.
func ReadContent(object []byte) (Content, error) {
	content, _, err := readContent(object)
	return content, err
}

func readContent(object []byte) (Content, identity, error) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		return nil, identity{}, fmt.Errorf("no JSON object: %w", err)
	}
	metadata, ok := fields["metadata"].(map[string]any)
	if !ok {
		return nil, identity{}, errors.New("an object without metadata")
	}
	who := identify(fields, metadata)
	delete(fields, "apiVersion")
	delete(fields, "kind")
	delete(metadata, "resourceVersion")
	delete(metadata, "managedFields")
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		delete(annotations, lastApplied)
		if len(annotations) == 0 {
			delete(metadata, "annotations")
		}
	}
	content := make(Content, len(fields))
	for name, value := range fields {
		text, err := json.Marshal(plain(value))
		if err != nil {
			return nil, identity{}, fmt.Errorf("field %s: %w", name, err)
		}
		sum := sha256.Sum256(text)
		content[name] = digest(sum[:16])
	}
	return content, who, nil
}

func identify(fields, metadata map[string]any) identity {
	text := func(from map[string]any, name string) string {
		s, _ := from[name].(string)
		return s
	}
	who := identity{
		apiVersion:      text(fields, "apiVersion"),
		kind:            text(fields, "kind"),
		namespace:       text(metadata, "namespace"),
		name:            text(metadata, "name"),
		uid:             text(metadata, "uid"),
		resourceVersion: text(metadata, "resourceVersion"),
		bare:            true,
	}
	for name := range fields {
		who.bare = who.bare && slices.Contains([]string{"apiVersion", "kind", "metadata"}, name)
	}
	for name := range metadata {
		who.bare = who.bare && slices.Contains([]string{"namespace", "name", "uid"}, name)
	}
	return who
}

// plain spells each number in one way: 1, 1.0 and 1e0 are the same to JSON.
func plain(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			v[name] = plain(field)
		}
	case []any:
		for i, element := range v {
			v[i] = plain(element)
		}
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return v
		}
		f, err := v.Float64()
		if err != nil {
			return v // too large for anything but its own text
		}
		if whole := int64(f); float64(whole) == f {
			return whole
		}
		return json.Number(strconv.FormatFloat(f, 'g', -1, 64))
	}
	return value
}

// differences names the fields that are not the same in both.
func (c Content) differences(other Content) string {
	if maps.Equal(c, other) {
		return ""
	}
	var names []string
	for name, sum := range c {
		if other[name] != sum {
			names = append(names, name)
		}
	}
	for name := range other {
		if _, ok := c[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
