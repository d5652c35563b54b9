package journal

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/google/uuid"
)

// A snapshot is
//
//	magic, uvarint format, uvarint length, that many bytes of JSON,
//	rows, 0, uvarint number of rows
//
// where a row is uvarint length of the key, key, 16 bytes uid, uvarint
// version, uvarint flags, and, each if its flag is set, uvarint resync,
// uvarint listed and 16 bytes digest. A key is never empty, so 0 ends the rows;
// their number tells whether all are there.
const (
	magic  = "crbridge ledger\n"
	format = 1
)

// Flags of a row. Others are refused: a newer bridge wrote them.
const (
	flagGone = 1 << iota
	flagSent
	flagBuried
	flagResync
	flagRisen
	flagDeselected
	flagListed
	flagDigest
	flagsKnown = flagDigest<<1 - 1
)

// mostKey and mostHeader bound what a damaged snapshot can make its reader
// allocate. A key is two Kubernetes names and a slash, 253 bytes each at most.
const (
	mostKey    = 1024
	mostHeader = 1 << 20
)

// FormatError says that a snapshot is of another format version.
type FormatError struct{ Format uint64 }

func (e *FormatError) Error() string {
	return fmt.Sprintf("it is of format %d, and this bridge reads format %d", e.Format, format)
}

// Write writes a snapshot: a header, which is kept as JSON, and rows.
func Write(w io.Writer, header any, rows iter.Seq[Row]) error {
	encoded, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("snapshot: header: %w", err)
	}
	b := bufio.NewWriterSize(w, 64<<10)
	buffer := append([]byte(magic), binary.AppendUvarint(nil, format)...)
	buffer = append(binary.AppendUvarint(buffer, uint64(len(encoded))), encoded...)
	if _, err := b.Write(buffer); err != nil {
		return err
	}
	count := uint64(0)
	for row := range rows {
		buffer = AppendRow(buffer[:0], row)
		if _, err := b.Write(buffer); err != nil {
			return err
		}
		count++
	}
	buffer = binary.AppendUvarint(append(buffer[:0], 0), count)
	if _, err := b.Write(buffer); err != nil {
		return err
	}
	return b.Flush()
}

// AppendRow appends a row in the form that it has in a snapshot.
func AppendRow(b []byte, row Row) []byte {
	b = binary.AppendUvarint(b, uint64(len(row.Key)))
	b = append(b, row.Key...)
	b = append(b, row.UID[:]...)
	b = binary.AppendUvarint(b, row.Version)
	flags := uint64(0)
	set := func(is bool, flag uint64) {
		if is {
			flags |= flag
		}
	}
	set(row.Gone, flagGone)
	set(row.Sent, flagSent)
	set(row.Buried, flagBuried)
	set(row.Resync != 0, flagResync)
	set(row.Risen, flagRisen)
	set(row.Deselected, flagDeselected)
	set(row.Listed != 0, flagListed)
	set(row.Digest != [16]byte{}, flagDigest)
	b = binary.AppendUvarint(b, flags)
	if row.Resync != 0 {
		b = binary.AppendUvarint(b, row.Resync)
	}
	if row.Listed != 0 {
		b = binary.AppendUvarint(b, row.Listed)
	}
	if row.Digest != [16]byte{} {
		b = append(b, row.Digest[:]...)
	}
	return b
}

// Reader is what Read and ReadRow read from.
type Reader interface {
	io.Reader
	io.ByteReader
}

// Read reads a snapshot: first its header, then row by row. Its error says in
// words what is wrong with it; rows may have been given by then.
func Read(from io.Reader, header any, row func(Row)) error {
	r := bufio.NewReaderSize(from, 64<<10)
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(r, begin); err != nil {
		return damaged("its beginning", err)
	}
	if string(begin) != magic {
		return errors.New("it is no ledger")
	}
	version, err := binary.ReadUvarint(r)
	if err != nil {
		return damaged("its format", err)
	}
	if version != format {
		return &FormatError{version}
	}
	size, err := binary.ReadUvarint(r)
	if err != nil || size > mostHeader {
		return damaged("its header's length", err)
	}
	encoded := make([]byte, size)
	if _, err := io.ReadFull(r, encoded); err != nil {
		return damaged("its header", err)
	}
	if err := json.Unmarshal(encoded, header); err != nil {
		return damaged("its header", err)
	}
	for count := uint64(0); ; count++ {
		next, more, err := ReadRow(r)
		if err != nil {
			return damaged(fmt.Sprintf("row %d", count+1), err)
		}
		if more {
			row(next)
			continue
		}
		promised, err := binary.ReadUvarint(r)
		if err != nil || promised != count {
			return damaged(fmt.Sprintf("the number of its rows, which is %d", count), err)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			return damaged("its end", err)
		}
		return nil
	}
}

// ReadRow reads a row that AppendRow has written; more is false where the end
// of the rows is, instead of one.
func ReadRow(r Reader) (row Row, more bool, err error) {
	length, err := binary.ReadUvarint(r)
	if err != nil || length == 0 {
		return Row{}, false, err
	}
	if length > mostKey {
		return Row{}, false, fmt.Errorf("a key of %d bytes", length)
	}
	b := make([]byte, int(length)+len(uuid.UUID{}))
	if _, err := io.ReadFull(r, b); err != nil {
		return Row{}, false, err
	}
	row.Key = string(b[:length])
	row.UID = uuid.UUID(b[length:])
	if row.Version, err = binary.ReadUvarint(r); err != nil {
		return Row{}, false, err
	}
	flags, err := binary.ReadUvarint(r)
	if err != nil {
		return Row{}, false, err
	}
	if flags&^flagsKnown != 0 {
		return Row{}, false, fmt.Errorf("unknown flags %#x", flags)
	}
	row.Gone, row.Sent, row.Buried, row.Risen = flags&flagGone != 0, flags&flagSent != 0, flags&flagBuried != 0, flags&flagRisen != 0
	row.Deselected = flags&flagDeselected != 0
	if flags&flagResync != 0 {
		if row.Resync, err = binary.ReadUvarint(r); err != nil {
			return Row{}, false, err
		}
	}
	if flags&flagListed != 0 {
		if row.Listed, err = binary.ReadUvarint(r); err != nil {
			return Row{}, false, err
		}
	}
	if flags&flagDigest != 0 {
		if _, err := io.ReadFull(r, row.Digest[:]); err != nil {
			return Row{}, false, err
		}
	}
	return row, true, nil
}

func damaged(what string, err error) error {
	if err == nil {
		return fmt.Errorf("it is damaged: %s is wrong", what)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("it is damaged: %s: %w", what, err)
}
