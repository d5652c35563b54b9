package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

type header struct {
	Name string `json:"name"`
}

func rows() []Row {
	id := uuid.MustParse("0b1cbd9e-2a30-4bd3-9a7c-0e2f5d1a7b11")
	return []Row{
		{Key: "default/one", UID: id, Version: 1},
		{Key: "cluster-scoped", UID: uuid.Nil, Version: math.MaxUint64, Gone: true, Sent: true, Buried: true, Risen: true, Resync: math.MaxUint64,
			Deselected: true, Listed: math.MaxUint64, Digest: [16]byte{15: 1}},
		{Key: "default/one", UID: id, Version: 2, Sent: true}, // a key may come again
		{Key: strings.Repeat("n", 253) + "/" + strings.Repeat("o", 253), UID: id},
	}
}

func written(t testing.TB, h any, rows []Row) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, h, slices.Values(rows)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(from io.Reader) (h header, rows []Row, err error) {
	err = Read(from, &h, func(row Row) { rows = append(rows, row) })
	return h, rows, err
}

func TestSnapshotIsReadAsItWasWritten(t *testing.T) {
	var many []Row
	for n := range 10_000 { // more than the buffers have room for
		many = append(many, Row{Key: "default/many", Version: uint64(n)})
	}
	for _, test := range []struct {
		why  string
		rows []Row
	}{
		{"a flow without objects", nil},
		{"every kind of row", rows()},
		{"more than fits into a buffer", many},
	} {
		b := written(t, header{"a name"}, test.rows)
		for how, reader := range map[string]io.Reader{"at once": bytes.NewReader(b), "byte by byte": iotest.OneByteReader(bytes.NewReader(b))} {
			h, got, err := read(reader)
			if err != nil || h.Name != "a name" {
				t.Errorf("%s, %s: %+v, %v", test.why, how, h, err)
			}
			if diff := cmp.Diff(test.rows, got); diff != "" {
				t.Errorf("%s, %s (-written +read):\n%s", test.why, how, diff)
			}
		}
	}
}

func TestDamagedSnapshotIsTold(t *testing.T) {
	whole := written(t, header{"a name"}, rows())
	begin := append([]byte(magic), format)
	uvarint := func(n uint64) []byte { return binary.AppendUvarint(nil, n) }
	for _, test := range []struct {
		why  string
		data []byte
		want string
	}{
		{"empty", nil, "it is damaged: its beginning: unexpected EOF"},
		{"something else", []byte("something else altogether"), "it is no ledger"},
		{"ends in its format", []byte(magic), "it is damaged: its format: unexpected EOF"},
		{"ends in its header's length", begin, "it is damaged: its header's length: unexpected EOF"},
		{"a header that would fill the memory", append(slices.Clone(begin), uvarint(1<<40)...), "it is damaged: its header's length is wrong"},
		{"ends in its header", append(slices.Clone(begin), 5, '{'), "it is damaged: its header: unexpected EOF"},
		{"a header that is none", append(slices.Clone(begin), 1, '{'), "it is damaged: its header: unexpected end of JSON input"},
		{"a key that would fill the memory", append(append(slices.Clone(begin), 2, '{', '}'), uvarint(1<<40)...), "it is damaged: row 1: a key of 1099511627776 bytes"},
		{"flags of a newer bridge", func() []byte {
			b := append(slices.Clone(begin), 2, '{', '}')
			b = AppendRow(b, Row{Key: "k"})
			return binary.AppendUvarint(b[:len(b)-1], 1<<8)
		}(), "it is damaged: row 1: unknown flags 0x100"},
		{"fewer rows than were written", append(append(slices.Clone(begin), 2, '{', '}'), 0, 3), "it is damaged: the number of its rows, which is 0 is wrong"},
		{"more behind it", append(slices.Clone(whole), 0), "it is damaged: its end is wrong"},
	} {
		if _, _, err := read(bytes.NewReader(test.data)); err == nil || err.Error() != test.want {
			t.Errorf("%s: Read says\n%v, want\n%s", test.why, err, test.want)
		}
	}
	for n := range whole {
		if _, _, err := read(bytes.NewReader(whole[:n])); err == nil {
			t.Errorf("%d of %d bytes are read as a whole snapshot", n, len(whole))
		}
	}
	broken := errors.New("the connection broke")
	if _, _, err := read(io.MultiReader(bytes.NewReader(whole[:len(whole)-3]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("the reader's own error is not told: %v", err)
	}
}

func TestOtherFormatIsTold(t *testing.T) {
	data := append(binary.AppendUvarint([]byte(magic), 7), "what nobody knows yet"...)
	_, _, err := read(bytes.NewReader(data))
	other, is := errors.AsType[*FormatError](err)
	if !is || other.Format != 7 || err.Error() != "it is of format 7, and this bridge reads format 1" {
		t.Errorf("Read says %v", err)
	}
}

func TestWriteTellsWhyItCannot(t *testing.T) {
	broken := errors.New("the connection broke")
	many := func(yield func(Row) bool) {
		for yield(Row{Key: "default/many"}) { // until the writer has enough
		}
	}
	reader, writer := io.Pipe()
	_ = reader.CloseWithError(broken)
	if err := Write(writer, header{}, many); !errors.Is(err, broken) {
		t.Errorf("Write says %v", err)
	}
	if err := Write(io.Discard, func() {}, slices.Values(rows())); err == nil {
		t.Error("a header that is no JSON is written")
	}
}

func FuzzRowRoundTrip(f *testing.F) {
	for _, row := range rows() {
		f.Add(row.Key, row.UID[:], row.Version, row.Gone, row.Sent, row.Buried, row.Risen, row.Resync)
	}
	f.Fuzz(func(t *testing.T, key string, id []byte, version uint64, gone, sent, buried, risen bool, resync uint64) {
		if key == "" || len(key) > mostKey {
			t.Skip("no object's")
		}
		row := Row{Key: key, Version: version, Gone: gone, Sent: sent, Buried: buried, Risen: risen, Resync: resync}
		copy(row.UID[:], id)
		all := []Row{row, row}
		_, got, err := read(bytes.NewReader(written(t, header{}, all)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("(-written +read):\n%s", diff)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add(written(f, header{"a name"}, rows()))
	f.Add(written(f, header{}, nil))
	f.Add(binary.AppendUvarint([]byte(magic), 2))
	f.Fuzz(func(t *testing.T, data []byte) {
		var size int
		_, got, err := read(bytes.NewReader(data))
		for i := range got {
			size += len(got[i].Key)
		}
		if size > len(data) {
			t.Errorf("%d bytes of keys in %d bytes", size, len(data))
		}
		if err != nil {
			other, is := errors.AsType[*FormatError](err)
			version, n := uint64(0), 0
			if len(data) >= len(magic) && string(data[:len(magic)]) == magic {
				version, n = binary.Uvarint(data[len(magic):])
			}
			if of := n > 0 && version != format; is != of || (is && other.Format != version) {
				t.Errorf("format %d: %v", version, err)
			}
			return
		}
		// What can be read can be written, and is the same then.
		_, again, err := read(bytes.NewReader(written(t, header{}, got)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}
