//go:build unix

package process

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// What an error shows of a log: its first lines, because a server that is
// refused a flag says so before a page of usage, and its last.
const (
	headLines = 3
	tailLines = 15
	endBytes  = 8 << 10 // read of each end
)

// logTail returns the ends of what is in the log file from offset on, indented,
// or why they cannot be had.
func logTail(path string, offset int64) string {
	lines, err := readEnds(path, offset)
	if err != nil {
		return "  (log: " + err.Error() + ")"
	}
	if len(lines) == 0 {
		return fmt.Sprintf("  (nothing in its log %s)", path)
	}
	return fmt.Sprintf("  from %s:\n  | %s", path, strings.Join(lines, "\n  | "))
}

func readEnds(path string, offset int64) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - offset
	if size <= 2*endBytes {
		lines, err := readLines(file, offset, size)
		if len(lines) > headLines+tailLines {
			lines = shorten(lines, lines)
		}
		return lines, err
	}
	head, err := readLines(file, offset, endBytes)
	if err != nil {
		return nil, err
	}
	tail, err := readLines(file, info.Size()-endBytes, endBytes)
	return shorten(head, tail), err
}

func shorten(head, tail []string) []string {
	short := append([]string{}, head[:min(headLines, len(head))]...)
	short = append(short, "...")
	return append(short, tail[max(0, len(tail)-tailLines):]...)
}

// readLines returns the lines in a section of the file, without empty ones.
func readLines(file io.ReaderAt, offset, size int64) ([]string, error) {
	content, err := io.ReadAll(io.NewSectionReader(file, offset, size))
	var lines []string
	for line := range strings.SplitSeq(string(content), "\n") {
		if strings.TrimSpace(line) != "" {
			lines = append(lines, line)
		}
	}
	return lines, err
}
