package flow

import (
	"github.com/google/uuid"
	"github.com/klauspost/compress/s2"

	"github.com/crbridge/crbridge/pkg/object"
)

// past is what objects were like when they were last seen, as far as others may
// see them, for those who compare: oldObject in filters, and payloads that tell
// changes. It lives as long as a run. It belongs to who holds Run.handling.
//
// It is the one thing in a flow whose size grows with that of the objects: each
// takes its JSON, compressed, which is a third to a half of it, and 100 B. So a
// flow has it only where its route asks for it.
type past map[string]pastObject

type pastObject struct {
	uid     uuid.UUID
	version uint64
	content []byte // JSON, compressed
}

// keep remembers an object.
func (p past) keep(key string, seen row, o *object.Object) {
	if p != nil {
		p[key] = pastObject{seen.uid, seen.version, s2.EncodeBetter(nil, o.JSON)}
	}
}

// object is what the object was like in that version; nil where that is not
// known.
func (p past) object(key string, known row) *object.Object {
	o, ok := p[key]
	if !ok || o.uid != known.uid || o.version != known.version {
		return nil
	}
	content, err := s2.Decode(nil, o.content)
	if err != nil {
		return nil
	}
	namespace, name := split(key)
	return &object.Object{Namespace: namespace, Name: name, UID: known.uid.String(), ResourceVersion: formatVersion(known.version), JSON: content}
}

// has tells whether the object is known in that version.
func (p past) has(key string, seen row) bool {
	o, ok := p[key]
	return ok && o.uid == seen.uid && o.version == seen.version
}
