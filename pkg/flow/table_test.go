package flow

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/crbridge/crbridge/pkg/events/changes"
)

// thingKey is a key of realistic length.
func thingKey(n int) string { return fmt.Sprintf("default/thing-%06d", n) }

func contents(t *table) map[string]row {
	is := map[string]row{}
	for key, r := range t.all() {
		is[string(key)] = r
	}
	return is
}

// checkTable compares a table with what it has to be, and its pages with what
// they have to be.
func checkTable(t *testing.T, is *table, want map[string]row) {
	t.Helper()
	if got := contents(is); !maps.Equal(want, got) { // Diff takes its time
		t.Fatalf("rows (-want +got):\n%s", cmp.Diff(want, got, cmp.AllowUnexported(row{})))
	}
	if is.len() != len(want) {
		t.Fatalf("len is %d with %d rows", is.len(), len(want))
	}
	for key, r := range want {
		if got, ok := is.get(key); !ok || got != r {
			t.Fatalf("get(%q) is %v, %t, want %v", key, got, ok, r)
		}
	}
	if is.rows > mostPerPage*max(1, is.pages) || is.pages > 1 && is.rows < leastPerPage*is.pages {
		t.Fatalf("%d rows in %d pages", is.rows, is.pages)
	}
	for n := range is.pages {
		if p := is.page(n); cap(p.data) > 128 && cap(p.data) > 2*len(p.data) {
			t.Fatalf("page %d has %d bytes for %d", n, cap(p.data), len(p.data))
		}
	}
	for n := is.pages; n < len(is.segments)*segmentPages; n++ {
		if p := is.page(n); p.heads != nil || p.data != nil {
			t.Fatalf("page %d is kept, and there are %d", n, is.pages)
		}
	}
}

// tableModel does the same with a table and a map.
type tableModel struct {
	table table
	rows  map[string]row
}

// do does what a few bytes say.
func (m *tableModel) do(op, a, b, c byte) {
	key := fmt.Sprint("ns", a%3, "/", strings.Repeat("o", int(a)%250), int(b)%40)
	if op&0x10 != 0 {
		key = "" // of no object, but the table need not know
	}
	r := row{version: uint64(b)<<32 | uint64(c), list: uint32(a) << 20, marks: marks(c) &^ digestMark}
	r.uid[0], r.uid[15] = c, a
	if c%2 == 0 {
		r.digest = changes.Digest{c | 1, 15: a}
	}
	switch op % 8 {
	case 0, 1, 2:
		m.table.put(key, r)
		m.rows[key] = r
	case 3: // so that a short input makes many pages
		for n := range int(c) {
			m.table.put(key+thingKey(n), r)
			m.rows[key+thingKey(n)] = r
		}
	case 4:
		m.table.delete(key)
		delete(m.rows, key)
	case 5:
		for n := range int(c) {
			m.table.delete(key + thingKey(n))
			delete(m.rows, key+thingKey(n))
		}
	case 6:
		del := func(r row) bool { return r.uid[0]%4 == c%4 }
		m.table.deleteFunc(func(_ []byte, r row) bool { return del(r) })
		for key, r := range m.rows {
			if del(r) {
				delete(m.rows, key)
			}
		}
	case 7:
		m.table.edit(func(r row) row { return row{uid: r.uid, version: r.version + 1, marks: r.marks ^ sent} })
		for key, r := range m.rows {
			r.version, r.marks, r.list = r.version+1, r.marks^sent, 0
			m.rows[key] = r
		}
	}
}

// FuzzTable does with a table and a map what the input says.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 1, 2, 3})
	f.Add([]byte{0x10, 0, 0, 0, 7, 0, 0, 0, 0x14, 0, 0, 0})
	f.Add([]byte{3, 1, 2, 200, 3, 2, 2, 201, 6, 0, 0, 1, 7, 0, 0, 0, 5, 1, 2, 100, 5, 2, 2, 255})
	f.Fuzz(func(t *testing.T, ops []byte) {
		m := tableModel{rows: map[string]row{}}
		for ; len(ops) >= 4; ops = ops[4:] {
			m.do(ops[0], ops[1], ops[2], ops[3])
		}
		checkTable(t, &m.table, m.rows)
	})
}

func TestTableAgainstMap(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 20 {
		m := tableModel{rows: map[string]row{}}
		grows := round%2 == 0
		for range 400 {
			op := byte(random.Uint32())
			if kind := op % 8; kind >= 5 && kind <= 6 && (grows || random.Uint32()%8 != 0) {
				op -= 2
			}
			m.do(op, byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32()))
		}
		checkTable(t, &m.table, m.rows)
		for key := range m.rows {
			m.table.delete(key)
		}
		checkTable(t, &m.table, map[string]row{})
		if len(m.table.segments) > 2 {
			t.Fatalf("an empty table has %d segments", len(m.table.segments))
		}
	}
}

// TestTableSweep goes over a table in pieces while it grows, shrinks or both:
// each row that is there all the time comes just once, as it is in that moment,
// and no row comes twice.
func TestTableSweep(t *testing.T) {
	for _, tt := range []struct {
		why     string
		before  int
		growth  int // rows that come, or go, after each piece
		pieces  uint64
		present func(n int) bool // is never touched
	}{
		{"nothing changes: the pieces are all of it", 1000, 0, 0, func(int) bool { return true }},
		{"an empty table has one piece", 0, 0, 0, func(int) bool { return true }},
		{"it grows from one page to many, so that the pages that were swept are split", 10, 40, 0, func(n int) bool { return n < 10 }},
		{"it grows while it is split unevenly", 700, 13, 0, func(n int) bool { return n < 700 }},
		{"it shrinks to few pages, so that swept and unswept ones are merged", 3000, -17, 0, func(n int) bool { return n%50 == 0 }},
		{"pieces that are no pages, and finer", 1000, 3, 999, func(n int) bool { return n < 1000 }},
		{"pieces that are no pages, and coarser, of a table that shrinks", 3000, -200, 7, func(n int) bool { return n%50 == 0 }},
	} {
		t.Run(tt.why, func(t *testing.T) {
			var is table
			for n := range tt.before {
				is.put(thingKey(n), row{version: uint64(n)})
			}
			seen := map[string]int{}
			next := tt.before
			if tt.growth < 0 {
				next = 0
			}
			for from, more := uint64(0), true; more; {
				last := is.pageEnd(from)
				if tt.pieces > 0 {
					size := lastPlace / tt.pieces
					last = max(from, min(lastPlace-size, from)+size)
				}
				for key, r := range is.within(from, last) {
					seen[string(key)]++
					if thingKey(int(r.version)) != string(key) {
						t.Fatalf("%s has the row of %d", key, r.version)
					}
				}
				from, more = last+1, last != lastPlace
				for range max(tt.growth, -tt.growth) {
					switch {
					case tt.growth > 0 && next < 20000:
						is.put(thingKey(next), row{version: uint64(next)})
					case tt.growth < 0 && !tt.present(next) && next < tt.before:
						is.delete(thingKey(next))
					}
					next++
				}
			}
			for n := range tt.before {
				if times := seen[thingKey(n)]; times != 1 && tt.present(n) {
					t.Errorf("%s comes %d times", thingKey(n), times)
				}
			}
			for key, times := range seen {
				if times > 1 {
					t.Errorf("%s comes %d times", key, times)
				}
			}
		})
	}
}

// TestTableGrowsByPages counts what an insertion and a deletion move: never
// more than a page has, and all in all not many times what there is. Time is no
// measure on a busy machine.
func TestTableGrowsByPages(t *testing.T) {
	const rows = 200_000
	var is table
	most, before := uint64(0), uint64(0)
	step := func() {
		most, before = max(most, is.moved-before), is.moved
	}
	for n := range rows {
		is.put(thingKey(n), row{version: 1})
		step()
	}
	grown := is.moved
	for n := range rows {
		is.delete(thingKey(n))
		step()
	}
	// A page that is about to be split has twice the rows of one that was. The
	// hashes of some agree more than those of others: with 200,000 rows, ones
	// with four times the average do not occur.
	if most > 4*mostPerPage {
		t.Errorf("one insertion or deletion has moved %d rows; a page has %d on average", most, mostPerPage)
	}
	if grown > 2*rows || is.moved-grown > 2*rows {
		t.Errorf("growth has moved %d rows and shrinking %d, of %d", grown, is.moved-grown, rows)
	}
}

// TestTableGivesBack has names come and go, ten times as many as there are at
// any time: what the table takes is what that many rows take.
func TestTableGivesBack(t *testing.T) {
	const rows = 20_000
	var is table
	for n := range rows {
		is.put(thingKey(n), row{version: 1})
	}
	fresh := tableSize(&is)
	for n := range 10 * rows {
		is.delete(thingKey(n))
		is.put(thingKey(n+rows), row{version: 1})
	}
	if now := tableSize(&is); now > fresh*5/4 {
		t.Errorf("%d rows take %d bytes, and %d when ten times as many have come and gone", rows, fresh, now)
	}
	for n := 10 * rows; n < 11*rows-rows/10; n++ {
		is.delete(thingKey(n))
	}
	// It may be half empty, lest it grow again at once.
	if now := tableSize(&is); now > fresh/10*5/2 {
		t.Errorf("%d rows take %d bytes, and a tenth of them %d", rows, fresh, now)
	}
}

// TestTableTakesTheSame holds a row to mostPerRow, whatever the number of rows,
// and each number to about what the others take: a map's rows take up to 1.7 times
// as much after it has doubled as before.
func TestTableTakesTheSame(t *testing.T) {
	var is table
	least, most := math.Inf(1), 0.0
	n := 0
	for _, rows := range []int{20_000, 24_000, 28_000, 32_000, 33_000, 36_000, 40_000} {
		for ; n < rows; n++ {
			is.put(thingKey(n), row{version: 1})
		}
		each := float64(tableSize(&is)) / float64(rows)
		least, most = min(least, each), max(most, each)
	}
	if most > mostPerRow || most > least*1.1 {
		t.Errorf("a row takes from %.0f to %.0f bytes, and may take %d", least, most, mostPerRow)
	}
}

// tableSize is what the table holds of the heap.
func tableSize(t *table) int {
	size := cap(t.segments)*8 + len(t.segments)*int(unsafe.Sizeof(segment{}))
	for n := range t.pages {
		size += cap(t.page(n).heads) + cap(t.page(n).data)
	}
	return size
}

// rowStore is what a table is compared with.
type rowStore interface {
	get(key string) (row, bool)
	put(key string, r row)
}

// mapStore is without digests, which few routes need: it would be larger.
type mapStore map[string]mapRow

type mapRow struct {
	uid     uuid.UUID
	version uint64
	list    uint32
	marks   marks
}

func (m mapStore) get(key string) (row, bool) {
	r, ok := m[key]
	return row{uid: r.uid, version: r.version, list: r.list, marks: r.marks}, ok
}

func (m mapStore) put(key string, r row) {
	m[strings.Clone(key)] = mapRow{r.uid, r.version, r.list, r.marks}
}

// mostPerRow is how many bytes of heap a row of a ledger may take, with a key
// like thingKey's.
const mostPerRow = 120

// BenchmarkLedgerRows measures what a row costs in the ledger's table and in a
// map: bytes of heap, and time to insert it, to look it up and for a cycle of the
// garbage collector (of the last two the shortest that was seen), for numbers of
// rows between which a map doubles. "x" is the table's bytes or time as a ratio to
// the map's. It fails where the table takes more than mostPerRow.
func BenchmarkLedgerRows(b *testing.B) {
	for _, rows := range []int{100_000, 130_000, 260_000, 525_000, 1_000_000} {
		var plain map[string]float64
		for _, kind := range []string{"map", "table"} {
			b.Run(fmt.Sprint(kind, "/", rows), func(b *testing.B) {
				figures := measureRows(b, kind, rows)
				for what, figure := range figures {
					b.ReportMetric(figure, what)
				}
				b.ReportMetric(0, "ns/op") // of no one thing
				if kind == "map" {
					plain = figures
					return
				}
				for what, figure := range figures {
					b.ReportMetric(figure/plain[what], "x:"+what)
				}
				if figures["B/row"] > mostPerRow {
					b.Errorf("a row takes %.0f bytes, and may take %d", figures["B/row"], mostPerRow)
				}
			})
		}
	}
}

func measureRows(b *testing.B, kind string, rows int) map[string]float64 {
	b.Helper()
	var store rowStore = &table{}
	if kind == "map" {
		store = mapStore{}
	}
	keys := make([]string, rows)
	for n := range keys {
		keys[n] = thingKey(n)
	}
	random := rand.New(rand.NewPCG(5, 6))
	random.Shuffle(rows, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	before := heapInUse()
	insert := timed(rows, func(n int) {
		store.put(keys[n], row{uid: uuid.UUID{byte(n)}, version: uint64(n)})
	})
	size := float64(heapInUse()-before) / float64(rows)
	random.Shuffle(rows, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	lookup, gc := math.Inf(1), math.Inf(1)
	for b.Loop() {
		lookup = min(lookup, timed(rows, func(n int) {
			if _, ok := store.get(keys[n]); !ok {
				b.Fatal("a row is missing")
			}
		}))
	}
	clear(keys) // the collector has only the store's to follow
	for range 5 {
		gc = min(gc, timed(1, func(int) { runtime.GC() }))
	}
	runtime.KeepAlive(store)
	return map[string]float64{"B/row": size, "ns/insert": insert, "ns/lookup": lookup, "ns/gc": gc}
}

// timed is how many nanoseconds each call takes.
func timed(times int, do func(n int)) float64 {
	began := time.Now()
	for n := range times {
		do(n)
	}
	return float64(time.Since(began).Nanoseconds()) / float64(times)
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
