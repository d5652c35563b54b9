package fieldpath

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Edit says how an object's JSON is to be different. It is applied to the text,
// which is not decoded for it: what no path names stays as it is written,
// numbers and escapes included.
type Edit struct {
	// Remove is left out. Elements of a list are counted as in the object that
	// is given, whatever else is removed.
	Remove []Path
	// Prune are mappings that are left out with the last of their members: not
	// those that are empty anyway.
	Prune []Path
	// Replace becomes Value, which is JSON, where it is there and not removed.
	Replace []Path
	Value   string
	// Members are the object's members that stay; none: all do.
	Members []string
}

// Editor is an Edit, prepared. It is immutable.
type Editor struct {
	paths   []edited
	members []string
	value   string
	// head: nothing but metadata is touched, so that what follows it need not
	// be looked at. An object has its metadata once; see object.ErrUnusual.
	head bool
}

// edited is a path, or what is left of one after some steps, and what becomes of
// what it names.
type edited struct {
	steps []step
	how   how
}

type how int

const (
	removed how = iota
	pruned
	replaced
)

const metadata = "metadata"

// NewEditor prepares an edit.
func NewEditor(e Edit) *Editor {
	editor := &Editor{members: e.Members, value: e.Value, head: len(e.Members) == 0}
	add := func(how how, paths []Path) {
		for _, p := range paths {
			if len(p.steps) == 0 {
				continue
			}
			editor.paths = append(editor.paths, edited{p.steps, how})
			editor.head = editor.head && p.steps[0] == step{name: metadata, index: byName}
		}
	}
	add(removed, e.Remove)
	add(pruned, e.Prune)
	add(replaced, e.Replace)
	return editor
}

// Apply gives the edited text of a JSON object, in memory of its own. The text
// must be valid: what is wrong with it is an error only as far as it is looked
// at.
func (e *Editor) Apply(object []byte) ([]byte, error) {
	w := writers.Get().(*writer) //nolint:forcetypeassert // the pool has nothing else
	defer w.done()
	w.begin(e, object)
	if err := w.object(); err != nil {
		return nil, fmt.Errorf("editing JSON: %w", err)
	}
	w.copy(int64(len(object)))
	return bytes.Clone(w.out), nil
}

// writer copies a text, but for what is edited.
type writer struct {
	editor  *Editor
	text    []byte
	buffer  bytes.Buffer
	decoder *jsontext.Decoder
	out     []byte
	from    int64 // what comes before it has been copied, or left out
}

var writers = sync.Pool{New: func() any { return &writer{decoder: jsontext.NewDecoder(&bytes.Buffer{})} }}

func (w *writer) begin(e *Editor, text []byte) {
	w.editor, w.text, w.buffer, w.out, w.from = e, text, *bytes.NewBuffer(text), slices.Grow(w.out[:0], len(text)), 0
	w.decoder.Reset(&w.buffer, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// mostKept is what a writer keeps of the memory that it has written to. What is
// given out has memory of its own, of just its size: what is removed, the
// managed fields above all, would often take as much again.
const mostKept = 64 << 10

// done lets go of the texts.
func (w *writer) done() {
	w.editor, w.text, w.buffer = nil, nil, bytes.Buffer{}
	if cap(w.out) > mostKept {
		w.out = nil
	}
	w.decoder.Reset(&w.buffer)
	writers.Put(w)
}

// copy copies what has not been, up to there.
func (w *writer) copy(to int64) {
	w.out = append(w.out, w.text[w.from:to]...)
	w.from = to
}

// object edits the whole of an object.
func (w *writer) object() error {
	e := w.editor
	if w.decoder.PeekKind() != jsontext.KindBeginObject {
		return w.skip()
	}
	_, err := w.mapping(func(name []byte) (paths []edited, last bool) {
		if len(e.members) > 0 && !slices.ContainsFunc(e.members, func(m string) bool { return m == string(name) }) {
			return gone, false
		}
		return named(e.paths, name), e.head && string(name) == metadata
	})
	return err
}

// gone is what has a thing left out.
var gone = []edited{{nil, removed}}

// value edits a value. emptied: it had members, and has none.
func (w *writer) value(paths []edited) (emptied bool, err error) {
	if len(paths) > 0 {
		switch w.decoder.PeekKind() {
		case jsontext.KindBeginObject:
			return w.mapping(func(name []byte) ([]edited, bool) { return named(paths, name), false })
		case jsontext.KindBeginArray:
			return false, w.list(paths)
		}
	}
	return false, w.skip()
}

// mapping edits a mapping. of says which edits are in a member, and whether it
// is the last one to be looked at.
func (w *writer) mapping(of func(name []byte) (paths []edited, last bool)) (emptied bool, err error) {
	if _, err := w.decoder.ReadToken(); err != nil {
		return false, err
	}
	var s siblings
	for w.decoder.PeekKind() == jsontext.KindString {
		end := w.decoder.InputOffset()
		name, err := w.decoder.ReadValue()
		if err != nil {
			return false, err
		}
		begin := w.decoder.InputOffset() - int64(len(name))
		paths, last := of(unquote(name))
		if err := w.sibling(&s, end, begin, paths); err != nil {
			return false, err
		}
		if last {
			return false, nil
		}
	}
	_, err = w.decoder.ReadToken() // the end, or what is wrong
	return s.kept == 0 && s.gone > 0, err
}

// list edits a list.
func (w *writer) list(paths []edited) error {
	if _, err := w.decoder.ReadToken(); err != nil {
		return err
	}
	var s siblings
	for i := 0; ; i++ {
		switch w.decoder.PeekKind() {
		case jsontext.KindEndArray, jsontext.KindInvalid:
			_, err := w.decoder.ReadToken() // the end, or what is wrong
			return err
		}
		end := w.decoder.InputOffset()
		if err := w.sibling(&s, end, w.start(end), at(paths, i)); err != nil {
			return err
		}
	}
}

// skip passes a value over; see object.Scanner's.
func (w *writer) skip() error {
	_, err := w.decoder.ReadValue()
	return err
}

// siblings are what has been read of a mapping or list.
type siblings struct{ kept, gone int }

// sibling edits one more entry of a mapping or list: the value that comes next.
// The one before it, or the bracket, has its end at end, and this one, or its
// name, begins at begin.
func (w *writer) sibling(s *siblings, end, begin int64, paths []edited) error {
	if s.kept == 0 && s.gone > 0 {
		w.from = begin // the comma before it belongs to one that is gone
	}
	was, from := len(w.out), w.from
	stays, err := w.entry(paths)
	if err != nil {
		return err
	}
	if stays {
		s.kept++
		return nil
	}
	s.gone++
	w.out, w.from = w.out[:was], from
	if w.from < end {
		w.copy(end)
	}
	w.from = w.decoder.InputOffset()
	return nil
}

// start is where the value begins that follows an offset, behind space and a
// comma or colon.
func (w *writer) start(offset int64) int64 {
	for offset < int64(len(w.text)) && bytes.IndexByte([]byte(",: \t\r\n"), w.text[offset]) >= 0 {
		offset++
	}
	return offset
}

// entry edits the next value, and tells whether it stays.
func (w *writer) entry(paths []edited) (stays bool, err error) {
	var deeper []edited
	replaces, prunes := false, false
	for _, p := range paths {
		switch {
		case len(p.steps) > 0:
			deeper = append(deeper, p)
		case p.how == removed:
			return false, w.skip()
		case p.how == pruned:
			prunes = true
		default:
			replaces = true
		}
	}
	if replaces {
		w.copy(w.start(w.decoder.InputOffset()))
		w.out = append(w.out, w.editor.value...)
		err := w.skip()
		w.from = w.decoder.InputOffset()
		return true, err
	}
	emptied, err := w.value(deeper)
	return !emptied || !prunes, err
}

// named are the edits that are in the member with the name.
func named(paths []edited, name []byte) (in []edited) {
	for _, p := range paths {
		if s := p.steps[0]; s.index == every || s.index == byName && s.name == string(name) {
			in = append(in, edited{p.steps[1:], p.how})
		}
	}
	return in
}

// at are the edits that are in an element of a list.
func at(paths []edited, index int) (in []edited) {
	for _, p := range paths {
		if s := p.steps[0]; s.index == every || s.index == index {
			in = append(in, edited{p.steps[1:], p.how})
		}
	}
	return in
}

// unquote is a name as encoding/json reads it.
func unquote(quoted []byte) []byte {
	name := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(name, '\\') < 0 && utf8.Valid(name) {
		return name
	}
	name, _ = jsontext.AppendUnquote(nil, quoted) // what is no UTF-8 has become U+FFFD
	return name
}
