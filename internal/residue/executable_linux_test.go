package residue

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestClean shows which mappings can be dropped. One that was written to cannot:
// what was written would be lost.
func TestClean(t *testing.T) {
	one := func(permissions, file, rss, anonymous, swap string) string {
		return fmt.Sprintf("00400000-00401000 %s 00000000 fe:00 42    %s\nSize:    4 kB\nRss:     %s kB\nAnonymous:     %s kB\nSwap:    %s kB\nVmFlags: rd ex mr mw me\n",
			permissions, file, rss, anonymous, swap)
	}
	for _, row := range []struct {
		why, smaps string
		want       int
	}{
		{"code", one("r-xp", "/bridge", "4", "0", "0"), 1},
		{"constants", one("r--p", "/bridge", "4", "0", "0"), 1},
		{"variables", one("rw-p", "/bridge", "4", "0", "0"), 0},
		{"what a loader has relocated and then protected", one("r--p", "/bridge", "4", "4", "0"), 0},
		{"the same, swapped out", one("r--p", "/bridge", "0", "0", "4"), 0},
		{"another file", one("r-xp", "/lib/bridge", "4", "0", "0"), 0},
		{"no file", one("r-xp", "[vdso]", "4", "0", "0"), 0},
		{"all of them", one("r-xp", "/bridge", "4", "0", "0") + one("rw-p", "/bridge", "4", "4", "0") + one("r--p", "/bridge", "4", "0", "0"), 2},
	} {
		got, err := clean(strings.NewReader(row.smaps), "/bridge")
		if err != nil {
			t.Errorf("%s: %v", row.why, err)
		}
		var want []mapping
		for range row.want {
			want = append(want, mapping{0x400000, 0x401000, 4 << 10})
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(mapping{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", row.why, diff)
		}
	}
	if _, err := clean(strings.NewReader("not a mapping\n"), "/bridge"); err == nil {
		t.Error("what is no mapping is taken for one")
	}
}

// TestGiveBack shows that what is mapped of this executable goes, and that it
// runs on, with its variables.
func TestGiveBack(t *testing.T) {
	before := fileMemory(t)
	dropped, err := GiveBack()
	if err != nil {
		t.Fatal(err)
	}
	if after := fileMemory(t); dropped == 0 || after >= before {
		t.Errorf("%d bytes dropped; %d KiB of files are in memory, %d before", dropped, after, before)
	}
	if written != "written" {
		t.Errorf("a variable is %q", written)
	}
}

var written string

func init() { written = strings.ToLower("WRITTEN") } //nolint:gochecknoinits // what the start writes is what it is about

func fileMemory(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("RssFile:"))
	if _, err := fmt.Sscanf(string(rest), "%d kB", &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
