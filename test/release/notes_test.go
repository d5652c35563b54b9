//go:build release

package release_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleaseNotes has hack/changelog read a changelog with two releases.
func TestReleaseNotes(t *testing.T) {
	t.Parallel() // the tests beside it take long
	dir := copyTree(t)
	const changelog = `# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- Two.

## [0.1.0] - 2026-11-01

- One.

[Unreleased]: https://example.com/compare
[0.2.0]: https://example.com/0.2.0
`
	if err := os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(changelog), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ reason, version, want, wantError string }{
		{"the section ends where the next begins", "v0.2.0", "### Added\n\n- Two.\n", ""},
		{"links are no part of the last section", "v0.1.0", "- One.\n", ""},
		{"a version that nobody has written about", "v0.3.0", "", `CHANGELOG.md: there is no section "## [0.3.0]" with something in it; there are: ## [Unreleased] ## [0.2.0] ## [0.1.0]`},
		{"the beginning of a version is none", "v0.2", "", `there is no section "## [0.2]"`},
		{"a section with nothing in it", "Unreleased", "", `there is no section "## [Unreleased]" with something in it`},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel() // as the one around it
			notes := exec.CommandContext(t.Context(), "hack/changelog", tc.version)
			notes.Dir = dir
			output, err := notes.Output()
			if string(output) != tc.want {
				t.Errorf("notes %q, want %q", output, tc.want)
			}
			var exit *exec.ExitError
			switch {
			case tc.wantError == "" && err != nil:
				t.Error(err)
			case tc.wantError != "" && (!errors.As(err, &exit) || !strings.Contains(string(exit.Stderr), tc.wantError)):
				t.Errorf("%v, want one that says %s", err, tc.wantError)
			}
		})
	}
}
