package object

import (
	"bytes"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrUnusual is about JSON that is valid, and not as the API server writes it:
// a name that is there twice or has an escape in it, or something else where a
// text or a mapping should be. What it means is not for a scanner to say; the
// decoders of Kubernetes do.
var ErrUnusual = errors.New("JSON that is not as the API server writes it")

// accepted is what encoding/json takes for valid. What of an object is no part
// of who it is is passed on as it came.
var accepted = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// Scanner finds objects in what the API server answers, without decoding them.
// The zero value is ready. It is for one goroutine.
type Scanner struct {
	text    []byte
	buffer  bytes.Buffer
	decoder *jsontext.Decoder
	// unusual: something was met that ErrUnusual is about. Scanning goes on, so
	// that it is known where it ends.
	unusual bool
	// namespace is the last one: objects that follow each other share it.
	namespace string
}

// Frame is one event of a watch.
type Frame struct {
	Type string // ADDED, MODIFIED, DELETED, BOOKMARK, ERROR, or what there may be else
	// Object is what was added, modified or deleted, with a copy of its JSON;
	// nil for other types.
	Object *Object
	// JSON is what the event has for an object, whatever that is; part of the
	// text that was scanned.
	JSON []byte
}

// Frame reads the first frame of the text, and how many bytes it takes. Where
// there is none it fails: with io.EOF where there is nothing but space, with
// io.ErrUnexpectedEOF where the text ends within the frame, and with ErrUnusual
// where these bytes are some other JSON.
func (s *Scanner) Frame(text []byte) (f Frame, n int, err error) {
	s.begin(text)
	defer s.end()
	var o *Object
	_, err = s.members(func(name []byte) (err error) {
		switch string(name) {
		case `"type"`:
			f.Type, err = s.word(f.Type)
		case `"object"`:
			s.unusual = s.unusual || o != nil
			o, err = s.object()
		default:
			// encoding/json takes a name in any case.
			s.unusual = s.unusual || bytes.EqualFold(name, []byte(`"type"`)) || bytes.EqualFold(name, []byte(`"object"`))
			err = s.skip()
		}
		return err
	})
	n = s.offset()
	switch {
	case err != nil:
		return Frame{}, n, err
	case s.unusual || f.Type == "" || o == nil:
		return Frame{}, n, ErrUnusual
	}
	f.JSON = o.JSON
	switch f.Type {
	case "ADDED", "MODIFIED", "DELETED":
		if !o.known() {
			return Frame{}, n, ErrUnusual
		}
		o.JSON = bytes.Clone(o.JSON)
		f.Object = o
	}
	return f, n, nil
}

// Page is the answer to a list, or a part of it.
type Page struct {
	ResourceVersion string
	Continue        string    // empty: there is no more
	Objects         []*Object // their JSON is part of the text that was scanned
}

// List reads a list. It fails with ErrUnusual where the text is some other
// JSON.
func (s *Scanner) List(text []byte) (p Page, err error) {
	s.begin(text)
	defer s.end()
	items, metadata := 0, 0
	_, err = s.members(func(name []byte) error {
		switch string(name) {
		case `"items"`:
			items++
			return s.items(&p)
		case `"metadata"`:
			metadata++
			return s.listMetadata(&p)
		}
		return s.skip()
	})
	if err == nil {
		err = s.nothingElse()
	}
	switch {
	case err != nil:
		return Page{}, err
	case s.unusual || items != 1 || metadata != 1 || p.ResourceVersion == "":
		return Page{}, ErrUnusual
	}
	return p, nil
}

func (s *Scanner) items(into *Page) error {
	if s.decoder.PeekKind() != jsontext.KindBeginArray {
		return s.other()
	}
	if _, err := s.decoder.ReadToken(); err != nil {
		return err
	}
	for s.decoder.PeekKind() != jsontext.KindEndArray {
		o, err := s.object()
		if err != nil {
			return err
		}
		s.unusual = s.unusual || !o.known()
		into.Objects = append(into.Objects, o)
	}
	_, err := s.decoder.ReadToken()
	return err
}

func (s *Scanner) listMetadata(into *Page) error {
	_, err := s.members(func(name []byte) (err error) {
		switch string(name) {
		case `"resourceVersion"`:
			into.ResourceVersion, err = s.word(into.ResourceVersion)
		case `"continue"`:
			into.Continue, err = s.word(into.Continue)
		default:
			err = s.skip()
		}
		return err
	})
	return err
}

// object reads an object. Its JSON is part of the text.
func (s *Scanner) object() (*Object, error) {
	o := &Object{}
	metadata := 0
	begin, err := s.members(func(name []byte) error {
		if string(name) != `"metadata"` {
			return s.skip()
		}
		metadata++
		return s.metadata(o)
	})
	s.unusual = s.unusual || metadata > 1
	o.JSON = s.text[begin:s.decoder.InputOffset()]
	for _, of := range []*Span{&o.Bookkeeping.ManagedFields, &o.Bookkeeping.Annotations} {
		if of.To > 0 {
			of.From, of.To = of.From-int(begin), of.To-int(begin)
		}
	}
	return o, err
}

func (s *Scanner) metadata(of *Object) error {
	of.Bookkeeping.Known = true
	before := 0 // where the member before this one ends
	_, err := s.members(func(name []byte) (err error) {
		switch string(name) {
		case `"name"`:
			of.Name, err = s.word(of.Name)
		case `"namespace"`:
			if of.Namespace, err = s.word(of.Namespace); of.Namespace == s.namespace {
				of.Namespace = s.namespace
			} else {
				s.namespace = of.Namespace
			}
		case `"uid"`:
			of.UID, err = s.word(of.UID)
		case `"resourceVersion"`:
			of.ResourceVersion, err = s.word(of.ResourceVersion)
		case `"managedFields"`:
			err = s.skip()
			of.Bookkeeping.found(&of.Bookkeeping.ManagedFields, Span{before, s.offset()})
		case `"annotations"`:
			var value []byte
			value, err = s.decoder.ReadValue()
			of.Bookkeeping.found(&of.Bookkeeping.Annotations, Span{s.offset() - len(value), s.offset()})
		default:
			err = s.skip()
		}
		before = s.offset()
		return err
	})
	return err
}

// found takes note of something that should be there once, and not as the first
// member of the metadata: without that the JSON would begin with a comma.
func (b *Bookkeeping) found(what *Span, there Span) {
	if b.Known = b.Known && what.To == 0 && there.From > 0; b.Known {
		*what = there
	}
}

// offset is how far the text has been read.
func (s *Scanner) offset() int { return int(s.decoder.InputOffset()) }

// known tells whether the scanner knows who it is.
func (o *Object) known() bool { return o.Name != "" && o.UID != "" && o.ResourceVersion != "" }

// members reads a mapping, and tells where it begins. Each name is given as it
// is written, in quotes, to a function that has to read the value.
func (s *Scanner) members(value func(name []byte) error) (begin int64, err error) {
	if s.decoder.PeekKind() != jsontext.KindBeginObject {
		begin = s.decoder.InputOffset()
		return begin, s.other()
	}
	if _, err := s.decoder.ReadToken(); err != nil {
		return 0, err
	}
	begin = s.decoder.InputOffset() - int64(len("{"))
	for s.decoder.PeekKind() == jsontext.KindString {
		name, err := s.decoder.ReadValue()
		if err != nil {
			return begin, err
		}
		s.unusual = s.unusual || bytes.IndexByte(name, '\\') >= 0
		if err := value(name); err != nil {
			return begin, err
		}
	}
	_, err = s.decoder.ReadToken() // the end, or what is wrong
	return begin, err
}

// word reads a text that is neither empty nor there before: was is what has been
// read under its name.
func (s *Scanner) word(was string) (string, error) {
	if s.decoder.PeekKind() != jsontext.KindString {
		return was, s.other()
	}
	token, err := s.decoder.ReadToken()
	if err != nil {
		return was, err
	}
	is := token.String()
	s.unusual = s.unusual || was != ""
	return is, nil
}

// other reads what should not be there, if it is JSON at all.
func (s *Scanner) other() error {
	s.unusual = true
	return s.skip()
}

// skip passes a value over. jsontext's own SkipValue goes token by token, which
// takes twice as long, lest it has to hold the value: it is all here.
func (s *Scanner) skip() error {
	_, err := s.decoder.ReadValue()
	return err
}

// nothingElse makes sure that the text has nothing behind its value.
func (s *Scanner) nothingElse() error {
	switch _, err := s.decoder.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	default:
		return ErrUnusual
	}
}

func (s *Scanner) begin(text []byte) {
	s.text, s.buffer, s.unusual = text, *bytes.NewBuffer(text), false
	if s.decoder == nil {
		s.decoder = jsontext.NewDecoder(&s.buffer, accepted...)
		return
	}
	s.decoder.Reset(&s.buffer, accepted...)
}

// end lets go of the text.
func (s *Scanner) end() {
	s.text, s.buffer = nil, bytes.Buffer{}
	s.decoder.Reset(&s.buffer, accepted...)
}
