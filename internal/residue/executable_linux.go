package residue

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"syscall"
)

func dropExecutable() (int, error) {
	executable, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	content, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return 0, err
	}
	mappings, err := clean(bytes.NewReader(content), executable)
	if err != nil {
		return 0, err
	}
	dropped := 0
	for _, m := range mappings {
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED); errno != 0 {
			return dropped, os.NewSyscallError("madvise", errno)
		}
		dropped += m.resident
	}
	return dropped, nil
}

// mapping is a part of a file that is mapped into memory.
type mapping struct {
	from, to uintptr
	resident int // bytes
}

// clean are those mappings of the file that can be read from it again at any time.
// smaps is as proc_pid_smaps(5) has it.
func clean(smaps io.Reader, file string) ([]mapping, error) {
	var all []mapping
	var at mapping
	wanted := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Bytes()
		name, value, field := bytes.Cut(line, []byte(":"))
		if !field || bytes.ContainsRune(name, ' ') { // it begins a mapping; the device in it has a colon
			if wanted {
				all = append(all, at)
			}
			at = mapping{}
			var permissions string
			if _, err := fmt.Sscanf(string(line), "%x-%x %s", &at.from, &at.to, &permissions); err != nil {
				return nil, fmt.Errorf("/proc/self/smaps: %q: %w", line, err)
			}
			wanted = permissions[1] == '-' && bytes.HasSuffix(line, []byte(" "+file))
			continue
		}
		if !wanted {
			continue
		}
		switch string(name) {
		case "Rss", "Anonymous", "Swap":
			kib := 0
			if _, err := fmt.Sscanf(string(value), "%d kB", &kib); err != nil {
				return nil, fmt.Errorf("/proc/self/smaps: %q: %w", line, err)
			}
			switch {
			case string(name) == "Rss":
				at.resident = kib << 10
			case kib > 0: // a loader or a debugger has written to it, and that is nowhere else
				wanted = false
			}
		}
	}
	if wanted {
		all = append(all, at)
	}
	return all, lines.Err()
}
