//go:build unix

package e2e_test

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestRelist shows what is read after a restart that finds no history: metadata
// of all objects, and of those that have changed the whole, once. What is told
// is the same, however many they are.
func TestRelist(t *testing.T) {
	slow(t)
	t.Parallel()                       // it waits, most of the time
	const objects, text = 150, 8 << 10 // that cannot be compressed to less than its half
	for _, test := range []struct {
		why   string
		more  string
		every int // of so many objects one changes
		most  int // bytes that the API server sends
	}{
		{"few have changed", "", 25, objects*1024 + 2*6*text},
		{"most have changed", "", 1, objects*1024 + 11*objects*text/10},
		{"few have changed, of what a route's rules have to know", "changes: {specOnly: true}", 25, objects*1024 + 2*6*text},
	} {
		t.Run(test.why, func(t *testing.T) {
			t.Parallel()
			w := newOwnWorld(t)
			w.kind.create(t)
			var more []string
			if test.more != "" {
				more = append(more, test.more)
			}
			route := w.kind.route("test", more...)
			b := w.bridge(t, route)
			b.waitState(t, w.kind.name, "test", "running")
			w.each(t, objects, func(i int) { w.kind.add(t, object(i), map[string]any{"text": random(t, text)}) })
			gone := w.kind.add(t, "gone", nil)
			w.recorded(t, gone)
			b.Kill()

			var want []string
			for i := 0; i < objects; i += test.every {
				want = append(want, "updated default/"+object(i)+" coalesced")
			}
			w.each(t, len(want), func(i int) {
				w.kind.set(t, object(i*test.every), "text", random(t, text))
				w.kind.set(t, object(i*test.every), "text", random(t, text))
			})
			w.kind.drop(t, "gone")
			last := w.kind.add(t, "new", nil)
			want = append(want, "created default/new", "deleted default/gone inferred")
			w.compact(t)

			before := w.sent(t)
			w.bridge(t, route)
			w.recorded(t, last)
			sent := w.sent(t) - before
			t.Logf("%d of %d objects have changed; the API server sent %d bytes", len(want)-2, objects, sent)
			if sent > test.most {
				t.Errorf("the API server sent %d bytes, more than %d", sent, test.most)
			}
			messages := w.stream.wait(t, w.kind.name, objects+1+len(want))
			checkOrder(t, messages)
			var got []string
			for _, m := range messages[objects+1:] {
				what := m.what()
				for _, mark := range []string{"coalesced", "inferred"} {
					if m.attributes[mark] == "true" {
						what += " " + mark
					}
				}
				got = append(got, what)
			}
			compare(t, slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got)))
		})
	}
}

func object(i int) string { return fmt.Sprintf("o%03d", i) }

// random is a text that compresses to a half.
func random(t *testing.T, length int) string {
	t.Helper()
	raw := make([]byte, length/2)
	if _, err := rand.Read(raw); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(raw)
}

// each does something some at once.
func (w *world) each(t *testing.T, count int, do func(i int)) {
	t.Helper()
	const workers = 8
	var work sync.WaitGroup
	for worker := range workers {
		work.Go(func() {
			for i := worker; i < count && !t.Failed(); i += workers {
				do(i)
			}
		})
	}
	work.Wait()
}

// sent is how many bytes the API server has sent in answer to lists of the
// kind's objects, since it was started.
func (w *world) sent(t *testing.T) int {
	t.Helper()
	n, err := w.cp.Metric(t.Context(), "apiserver_response_sizes", map[string]string{
		"verb": "LIST", "group": w.kind.group, "resource": "widgets",
	})
	if err != nil && !strings.Contains(err.Error(), "among them") {
		t.Fatal(err)
	}
	return int(n)
}
