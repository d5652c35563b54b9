//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The report is between these lines of performance.md.
const (
	docBegin = "<!-- bench:begin, written by make bench -->\n"
	docEnd   = "<!-- bench:end -->\n"
)

// writeDoc puts the report into performance.md in dir, in place of the last one,
// and the plots beside it. All that is written is ready before the first file is
// touched.
func writeDoc(dir, report string, s *sheet) error {
	path := filepath.Join(dir, "performance.md")
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	files := map[string]string{}
	var images strings.Builder
	for _, p := range plots() {
		image, err := s.draw(p)
		if err != nil {
			return fmt.Errorf("plot %s: %w", p.name, err)
		}
		files[p.name] = image
		fmt.Fprintf(&images, "\n![%s](%s)\n", p.alt, p.name)
	}
	if files["performance.md"], err = splice(string(before), report+images.String()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// splice puts text between the two lines, which must be there once each.
func splice(document, text string) (string, error) {
	if strings.Count(document, docBegin) != 1 || strings.Count(document, docEnd) != 1 {
		return "", errors.New("the lines that bench writes between are not there once each")
	}
	head, rest, _ := strings.Cut(document, docBegin)
	_, tail, found := strings.Cut(rest, docEnd)
	if !found {
		return "", errors.New("the lines that bench writes between are in the wrong order")
	}
	return head + docBegin + "\n" + strings.Trim(text, "\n") + "\n\n" + docEnd + tail, nil
}

// missedError says which goals were missed.
type missedError struct{ words []string }

func (e *missedError) Error() string {
	return fmt.Sprintf("%d goals are missed:\n  %s", len(e.words), strings.Join(e.words, "\n  "))
}
