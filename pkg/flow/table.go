package flow

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"math"
	"math/bits"

	"github.com/google/uuid"

	"github.com/crbridge/crbridge/pkg/events/changes"
)

// table has rows by key. It is what a map[string]row would be, but for three
// things that matter where there are a million of them:
//
//   - It grows by a page at a time (linear hashing, Litwin 1980), so that a row
//     takes the same memory however many there are, and no insertion waits for
//     more than one page to be split. It gives memory back in the same way.
//   - A page has its rows and their keys one behind the other, in memory without
//     pointers. So each key is there once, and the garbage collector has few
//     pointers to follow.
//   - A sweep goes over it in pieces, and may be interrupted by changes of any
//     kind; see within.
//
// The zero value is an empty table. It is not safe for concurrent use.
type table struct {
	segments []*segment
	pages    int // how many of the segments' are in use
	rows     int
	// moved counts the rows that splits and merges have moved.
	moved uint64
}

// segment is a piece of the list of pages, which thus grows without being
// copied.
type segment [segmentPages]page

// page has the rows whose hashes end in the same bits, those of its number.
type page struct {
	// heads are, for one row after the other, 8 bits of its hash, which tell
	// most keys apart, and how many bytes of data it has, as varint.
	heads []byte
	data  []byte
}

const (
	// segmentPages are few enough that a table of few rows costs 0.8 KiB.
	segmentPages = 1 << 4
	// mostPerPage is how many rows a page has on average when the table grows.
	// More cost time, as a page is searched from its beginning; fewer cost
	// memory, 48 bytes a page. leastPerPage is where the table shrinks.
	mostPerPage  = 16
	leastPerPage = mostPerPage / 2
)

// hashSeed is one for all tables, so that a key has the same place in each.
var hashSeed = maphash.MakeSeed()

// len is how many rows there are.
func (t *table) len() int { return t.rows }

// get is the row of the key, and whether there is one.
func (t *table) get(key string) (row, bool) {
	if t.rows == 0 {
		return row{}, false
	}
	hash := maphash.String(hashSeed, key)
	p := t.page(t.number(hash))
	if e, ok := p.find(key, hash); ok {
		return p.row(e), true
	}
	return row{}, false
}

// put makes r the row of the key.
func (t *table) put(key string, r row) {
	if t.pages == 0 {
		t.addPage()
	}
	hash := maphash.String(hashSeed, key)
	p := t.page(t.number(hash))
	if e, ok := p.find(key, hash); ok {
		if p.digested(e) == r.digested() {
			p.set(e, r)
			return
		}
		p.cut(e) // it takes another size
		p.add(key, hash, r)
		p.trim()
		return
	}
	p.add(key, hash, r)
	t.rows++
	if t.rows > mostPerPage*t.pages {
		t.split()
	}
}

// delete removes the row of the key, if there is one.
func (t *table) delete(key string) {
	if t.rows == 0 {
		return
	}
	hash := maphash.String(hashSeed, key)
	p := t.page(t.number(hash))
	if e, ok := p.find(key, hash); ok {
		p.cut(e)
		p.trim()
		t.rows--
		t.shrink()
	}
}

// deleteFunc removes the rows for which del is true. The key is valid during
// the call only.
func (t *table) deleteFunc(del func(key []byte, r row) bool) {
	for n := range t.pages {
		p := t.page(n)
		for e, ok := p.after(entry{}); ok; e, ok = p.after(e) {
			if del(p.key(e), p.row(e)) {
				e = p.cut(e)
				t.rows--
			}
		}
		p.trim()
	}
	t.shrink()
}

// edit changes rows, each by one call. Their digests stay as they are.
func (t *table) edit(change func(r row) row) {
	for n := range t.pages {
		p := t.page(n)
		for e, ok := p.after(entry{}); ok; e, ok = p.after(e) {
			is := p.row(e)
			r := change(is)
			r.digest = is.digest
			p.set(e, r)
		}
	}
}

// all are the rows. The table must not be changed meanwhile, and a key is valid
// until the next one only.
func (t *table) all() iter.Seq2[[]byte, row] { return t.within(0, lastPlace) }

// A place is where a key comes in a sweep: its hash, read backwards. A page's
// rows are neighbours in that order, and splits and merges do not change it.
// lastPlace is the end of it.
const lastPlace = math.MaxUint64

// pageEnd is the last place of the page that has the place from.
func (t *table) pageEnd(from uint64) uint64 {
	n := t.number(bits.Reverse64(from))
	return bits.Reverse64(uint64(n)) | uint64(math.MaxUint64)>>t.depth(n)
}

// within are the rows whose places are from the first to the last given. The
// table must not be changed meanwhile, but it may be between one call and the
// next: who goes on with the place that follows gets every row that is there
// all the time, just once. A key is valid until the next one only.
func (t *table) within(first, last uint64) iter.Seq2[[]byte, row] {
	return func(yield func([]byte, row) bool) {
		if t.pages == 0 {
			return
		}
		for from := first; ; {
			end := t.pageEnd(from)
			n := t.number(bits.Reverse64(from))
			whole := first <= bits.Reverse64(uint64(n)) && end <= last
			p := t.page(n)
			for e, ok := p.after(entry{}); ok; e, ok = p.after(e) {
				if !whole {
					if place := bits.Reverse64(maphash.Bytes(hashSeed, p.key(e))); place < first || place > last {
						continue
					}
				}
				if !yield(p.key(e), p.row(e)) {
					return
				}
			}
			if end >= last {
				return
			}
			from = end + 1
		}
	}
}

// number is that of the page which has the hash. Pages that have been split
// since their number doubled last are told apart by one more bit.
func (t *table) number(hash uint64) int {
	if t.pages <= 1 {
		return 0
	}
	top := topBit(t.pages - 1)
	n := int(hash) & (2*top - 1)
	if n >= t.pages {
		n -= top
	}
	return n
}

// depth is how many bits of a hash tell that it is in the page.
func (t *table) depth(n int) int {
	if t.pages <= 1 {
		return 0
	}
	depth := bits.Len(uint(t.pages - 1))
	if top := topBit(t.pages - 1); n >= t.pages-top && n < top {
		depth-- // it is yet to be split
	}
	return depth
}

// topBit is the highest bit of n alone.
func topBit(n int) int { return 1 << (bits.Len(uint(n)) - 1) }

func (t *table) page(n int) *page { return &t.segments[n/segmentPages][n%segmentPages] }

func (t *table) addPage() {
	if t.pages == len(t.segments)*segmentPages {
		t.segments = append(t.segments, new(segment))
	}
	t.pages++
}

// split adds a page, and moves to it the rows of the page that is to be split
// next whose hashes have the new page's bit.
func (t *table) split() {
	bit := topBit(t.pages)
	from := t.page(t.pages - bit)
	t.addPage()
	to := t.page(t.pages - 1)
	old := *from
	moves := func(e entry) bool { return maphash.Bytes(hashSeed, old.key(e))&uint64(bit) != 0 }
	heads, data := 0, 0
	for e, ok := old.after(entry{}); ok; e, ok = old.after(e) {
		if moves(e) {
			heads, data = heads+e.next-e.head, data+e.end-e.at
		}
	}
	*from = page{roomFor(len(old.heads) - heads), roomFor(len(old.data) - data)}
	*to = page{roomFor(heads), roomFor(data)}
	for e, ok := old.after(entry{}); ok; e, ok = old.after(e) {
		if moves(e) {
			to.move(&old, e)
			t.moved++
		} else {
			from.move(&old, e)
		}
	}
}

// shrink takes away pages, as split has added them, as long as there are more
// than the rows need.
func (t *table) shrink() {
	for t.pages > 1 && t.rows < leastPerPage*t.pages {
		last := t.page(t.pages - 1)
		t.pages--
		into := t.page(t.pages - topBit(t.pages))
		for e, ok := last.after(entry{}); ok; e, ok = last.after(e) {
			t.moved++
		}
		heads, data := len(into.heads), len(into.data)
		into.heads, into.data = extended(into.heads, len(last.heads)), extended(into.data, len(last.data))
		copy(into.heads[heads:], last.heads)
		copy(into.data[data:], last.data)
		*last = page{}
	}
	// One segment more is kept, lest a table at the border make it anew each time.
	if spare := t.pages/segmentPages + 2; len(t.segments) > spare {
		clear(t.segments[spare:])
		t.segments = t.segments[:spare]
	}
}

// entry is where a row lies in its page: its head from head to next, its data
// from at to end. The zero value is where a page begins.
type entry struct {
	head, next int
	at, end    int
}

// The data of a row is, in this order: its marks and whether it has a digest,
// list, version, uid, the digest if it has one, and its key.
const (
	listAt     = 1
	versionAt  = listAt + 4
	uidAt      = versionAt + 8
	fixedSize  = uidAt + 16
	digestSize = len(changes.Digest{})
	// digestMark is set with the marks where there is a digest.
	digestMark = 1 << 7
)

func tag(hash uint64) byte { return byte(hash >> 56) }

func (r row) digested() bool { return r.digest != changes.Digest{} }

// after is the entry that follows, if there is one.
func (p *page) after(e entry) (entry, bool) {
	if e.next == len(p.heads) {
		return entry{}, false
	}
	size, next := sizeAt(p.heads, e.next+1)
	return entry{head: e.next, next: next, at: e.end, end: e.end + size}, true
}

// find looks for a key. It reads the heads, and the data only where the tag is
// right: that is what makes it cheap.
func (p *page) find(key string, hash uint64) (entry, bool) {
	heads, at := p.heads, 0
	for head := 0; head < len(heads); {
		size, next := sizeAt(heads, head+1)
		if heads[head] == tag(hash) {
			if e := (entry{head, next, at, at + size}); string(p.key(e)) == key {
				return e, true
			}
		}
		head, at = next, at+size
	}
	return entry{}, false
}

// sizeAt reads a size, and says where what follows it is.
func sizeAt(heads []byte, at int) (size, next int) {
	if b := heads[at]; b < 0x80 {
		return int(b), at + 1
	}
	long, n := binary.Uvarint(heads[at:])
	return int(long), at + n
}

func (p *page) key(e entry) []byte {
	from := e.at + fixedSize
	if p.digested(e) {
		from += digestSize
	}
	return p.data[from:e.end:e.end]
}

func (p *page) digested(e entry) bool { return p.data[e.at]&digestMark != 0 }

func (p *page) row(e entry) row {
	data := p.data[e.at:e.end]
	r := row{
		uid:     uuid.UUID(data[uidAt:]),
		version: binary.LittleEndian.Uint64(data[versionAt:]),
		list:    binary.LittleEndian.Uint32(data[listAt:]),
		marks:   marks(data[0] &^ digestMark),
	}
	if p.digested(e) {
		r.digest = changes.Digest(data[fixedSize:])
	}
	return r
}

// set writes a row in the place of one of the same size.
func (p *page) set(e entry, r row) {
	data := p.data[e.at:e.end]
	data[0] = byte(r.marks)
	binary.LittleEndian.PutUint32(data[listAt:], r.list)
	binary.LittleEndian.PutUint64(data[versionAt:], r.version)
	copy(data[uidAt:], r.uid[:])
	if r.digested() {
		data[0] |= digestMark
		copy(data[fixedSize:], r.digest[:])
	}
}

// add appends a row.
func (p *page) add(key string, hash uint64, r row) {
	size := fixedSize + len(key)
	if r.digested() {
		size += digestSize
	}
	e := entry{head: len(p.heads), at: len(p.data), end: len(p.data) + size}
	var head [1 + binary.MaxVarintLen64]byte
	head[0] = tag(hash)
	p.heads = extended(p.heads, 1+binary.PutUvarint(head[1:], uint64(size)))
	copy(p.heads[e.head:], head[:])
	p.data = extended(p.data, size)
	p.set(e, r)
	copy(p.data[e.end-len(key):], key)
}

// move appends a row of another page.
func (p *page) move(from *page, e entry) {
	p.heads = append(p.heads, from.heads[e.head:e.next]...)
	p.data = append(p.data, from.data[e.at:e.end]...)
}

// cut removes a row. What it returns is what the next one comes after.
func (p *page) cut(e entry) entry {
	p.heads = append(p.heads[:e.head], p.heads[e.next:]...)
	p.data = append(p.data[:e.at], p.data[e.end:]...)
	return entry{next: e.head, end: e.at}
}

// trim gives back what a page holds and does not need.
func (p *page) trim() {
	p.heads, p.data = trimmed(p.heads), trimmed(p.data)
}

func trimmed(b []byte) []byte {
	if cap(b) > 2*len(b) {
		return append(roomFor(len(b)), b...)
	}
	return b
}

// extended makes b longer by so many bytes. Where it has to be copied it gets a
// quarter more than it needs; append would double it.
func extended(b []byte, by int) []byte {
	size := len(b) + by
	if size > cap(b) {
		b = append(roomFor(size+size/4), b...)
	}
	return b[:size]
}

// roomFor has no bytes and room for so many, and for what Go's allocator gives on
// top, whose sizes are about an eighth apart.
func roomFor(size int) []byte {
	if size == 0 {
		return nil
	}
	return append([]byte(nil), make([]byte, size)...)[:0]
}
