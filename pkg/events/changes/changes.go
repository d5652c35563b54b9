// Package changes tells updates that are worth an event from those that touch
// nothing that counts, without keeping the objects: a digest stands for what
// counts of a version.
package changes

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"maps"
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/util/json"

	"github.com/crbridge/crbridge/pkg/events/fieldpath"
)

// Digest stands for what counts of an object's version: equal digests mean that
// nothing that counts is different. The zero value stands for none. It is half
// of an HMAC-SHA256, so that two versions with the same one cannot be made.
type Digest [16]byte

// Filter says what counts. It is immutable.
type Filter struct {
	specOnly bool
	rest     *fieldpath.Editor // takes away what does not count
	key      []byte
	durable  bool
}

// New makes a filter; nil where everything counts. With specOnly neither
// metadata nor status counts. What the ignored paths name does not, nor does
// what changes with it or with every update, or is bookkeeping of tools:
// metadata.resourceVersion, .generation, .managedFields and kubectl's
// last-applied annotation.
//
// With secret, parts of the objects are not for others to see. A digest of few
// possible values can be found out by trying, so the digests are made with a
// key that this process makes up; see Durable.
func New(specOnly bool, ignore []fieldpath.Path, secret bool) *Filter {
	if !specOnly && len(ignore) == 0 {
		return nil
	}
	f := &Filter{
		specOnly: specOnly, durable: !secret, key: []byte("crbridge changes 1"),
		rest: fieldpath.NewEditor(fieldpath.Edit{
			Remove: append(slices.Clone(ignore), bookkeeping...),
			Prune:  []fieldpath.Path{annotations}, // that kubectl has added its own, and nothing else is there, is no change
		}),
	}
	if secret {
		f.key = make([]byte, sha256.Size)
		_, _ = rand.Read(f.key) // it never fails, see its documentation
	}
	return f
}

var bookkeeping = []fieldpath.Path{
	fieldpath.Must("metadata.resourceVersion"),
	fieldpath.Must("metadata.generation"),
	fieldpath.Must("metadata.managedFields"),
	fieldpath.Must("metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']"),
}

var annotations = fieldpath.Must("metadata.annotations")

// Durable tells whether digests may leave the process, and mean the same to
// another.
func (f *Filter) Durable() bool { return f.durable }

// Digest is that of an object, as the API server gives it: its JSON. Where a
// number in it has no float64 there is none, and every update counts.
func (f *Filter) Digest(object []byte) (d Digest) {
	var content map[string]any
	if rest, err := f.rest.Apply(object); err != nil || json.Unmarshal(rest, &content) != nil {
		return Digest{}
	}
	h := hmac.New(sha256.New, f.key)
	w := writer{hash: h, buffer: make([]byte, 0, 512)}
	for _, name := range slices.Sorted(maps.Keys(content)) {
		switch name {
		case "apiVersion", "kind":
			continue
		case "metadata", "status":
			if f.specOnly {
				continue
			}
		}
		w.text(name)
		w.value(content[name])
	}
	w.flush()
	copy(d[:], h.Sum(nil))
	return d
}

// writer writes JSON values so that different ones are different and equal ones
// equal: each with its kind, its length where it has one, and mappings sorted.
type writer struct {
	hash   hash.Hash
	buffer []byte
}

func (w *writer) flush() {
	w.hash.Write(w.buffer)
	w.buffer = w.buffer[:0]
}

func (w *writer) text(s string) {
	w.buffer = append(binary.AppendUvarint(append(w.buffer, 's'), uint64(len(s))), s...)
	if len(w.buffer) >= 256 {
		w.flush()
	}
}

func (w *writer) value(value any) {
	switch v := value.(type) {
	case nil:
		w.buffer = append(w.buffer, 'n')
	case bool:
		if v {
			w.buffer = append(w.buffer, 't')
		} else {
			w.buffer = append(w.buffer, 'f')
		}
	case string:
		w.text(v)
	case int64:
		w.number(v)
	case float64:
		if whole := int64(v); float64(whole) == v && math.Abs(v) < 1<<53 {
			w.number(whole) // JSON has one kind of number
			return
		}
		w.buffer = binary.BigEndian.AppendUint64(append(w.buffer, 'd'), math.Float64bits(v))
	case []any:
		w.buffer = binary.AppendUvarint(append(w.buffer, 'l'), uint64(len(v)))
		for _, e := range v {
			w.value(e)
		}
	case map[string]any:
		w.buffer = binary.AppendUvarint(append(w.buffer, 'm'), uint64(len(v)))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			w.text(name)
			w.value(v[name])
		}
	default: // nothing that an API server sends
		w.text(fmt.Sprintf("%T %v", v, v))
	}
}

func (w *writer) number(n int64) {
	w.buffer = binary.BigEndian.AppendUint64(append(w.buffer, 'i'), uint64(n))
}
