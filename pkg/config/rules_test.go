package config

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/crbridge/crbridge/pkg/events/fieldpath"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
)

// TestFormsAgreeWithTheValidator holds texts made of each form's characters
// against its pattern and against the validator.
func TestFormsAgreeWithTheValidator(t *testing.T) {
	ok := func(errs []string) bool { return len(errs) == 0 }
	forms := settings.FormsOf(reflect.TypeFor[Route]())
	rows := map[string]struct {
		pieces []string
		valid  func(string) bool
		exact  bool // the pattern takes nothing else
	}{
		"label":     {[]string{"a", "Z", "0", "-", ".", "\n", strings.Repeat("a", 31)}, func(s string) bool { return ok(validation.IsDNS1123Label(s)) }, true},
		"subdomain": {[]string{"a", "Z", "0", "-", ".", "_", strings.Repeat("a.", 60)}, func(s string) bool { return ok(validation.IsDNS1123Subdomain(s)) }, true},
		"version":   {[]string{"v", "1", "-", ".", "V", strings.Repeat("v", 31)}, func(s string) bool { return ok(validation.IsDNS1035Label(s)) }, true},
		"crd":       {[]string{"*", ".", "a", "1", "-", "example.com", "A", strings.Repeat("a.", 60)}, func(s string) bool { return CRDPattern(s).valid() }, true},
		"path":      {[]string{"spec", ".", "[", "]", "*", "0", "'", `"`, `\`, "a/b", "-", "['x']", "é"}, func(s string) bool { _, err := fieldpath.Parse(s); return err == nil }, true},
		"address":   {[]string{":", "80", "localhost", "[::1]", "127.0.0.1", "65536", "-"}, func(s string) bool { _, err := parseAddress(s); return err == nil }, false},
		"host":      {[]string{"a", ".", "::1", "%eth0", "10.0.0.1", "/", "A", "_"}, settings.IsHost, false},
		"file": {[]string{"/", "a", " ", "\n", "\r", "\x00", "-----BEGIN", "é"}, func(s string) bool {
			return settingstest.Valid(func(r settings.Report) { settings.Files(r, "tls", settings.File{Key: "caFile", Name: s}) })
		}, true},
	}
	for name, form := range forms {
		row, has := rows[name]
		if !has {
			if form.Pattern != "" {
				t.Errorf("no row for the form %s", name)
			}
			continue
		}
		t.Run(name, func(t *testing.T) { settingstest.Agree(t, form, row.pieces, row.exact, row.valid) })
	}
}
