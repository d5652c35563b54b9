package config

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/events/fieldpath"
)

// TestFormsAgreeWithTheValidator holds texts made of each form's characters
// against its pattern and against the validator.
func TestFormsAgreeWithTheValidator(t *testing.T) {
	ok := func(errs []string) bool { return len(errs) == 0 }
	for name, row := range map[string]struct {
		pieces []string
		valid  func(string) bool
		exact  bool // the pattern takes nothing else
	}{
		"label":     {[]string{"a", "Z", "0", "-", ".", "\n", strings.Repeat("a", 31)}, func(s string) bool { return ok(validation.IsDNS1123Label(s)) }, true},
		"subdomain": {[]string{"a", "Z", "0", "-", ".", "_", strings.Repeat("a.", 60)}, func(s string) bool { return ok(validation.IsDNS1123Subdomain(s)) }, true},
		"version":   {[]string{"v", "1", "-", ".", "V", strings.Repeat("v", 31)}, func(s string) bool { return ok(validation.IsDNS1035Label(s)) }, true},
		"crd":       {[]string{"*", ".", "a", "1", "-", "example.com", "A", strings.Repeat("a.", 60)}, func(s string) bool { return CRDPattern(s).valid() }, true},
		"path":      {[]string{"spec", ".", "[", "]", "*", "0", "'", `"`, `\`, "a/b", "-", "['x']", "é"}, func(s string) bool { _, err := fieldpath.Parse(s); return err == nil }, true},
		"template":  {[]string{"k8s", ".", "{name}", "{", "}", "*", ">", " ", "é", "~", "\x7f", "!"}, func(s string) bool { _, err := events.ParseSubject(s); return err == nil }, true},
		"subject":   {[]string{"k8s", ".", "*", ">", " ", "é", "\x7f", "\x00"}, isSubjectFilter, true},
		"token":     {[]string{"hub", ".", "*", ">", " ", "é", "\x7f", "$JS"}, natsToken.MatchString, true},
		"prefix":    {[]string{"hub", ".", "*", ">", " ", "é", "\x7f", "$JS"}, subjectPrefix.MatchString, true},
		"stream":    {[]string{"K8S", ".", "*", ">", " ", "/", `\`, "é", "\t", "-", "\x7f", strings.Repeat("s", 100)}, streamName.MatchString, true},
		"address":   {[]string{":", "80", "localhost", "[::1]", "127.0.0.1", "65536", "-"}, func(s string) bool { _, err := parseAddress(s); return err == nil }, false},
		"host":      {[]string{"a", ".", "::1", "%eth0", "10.0.0.1", "/", "A", "_"}, isHost, false},
		"url": {[]string{"nats", "TLS", "wss", "http", "://", ":", "@", "h", "/", "?", "#", ".", "4222"}, func(s string) bool {
			r := newReport("f", nil)
			validateURLs(URLs{s}, "url", r)
			return r.err() == nil
		}, false},
		"file": {[]string{"/", "a", " ", "\n", "\r", "\x00", "-----BEGIN", "é"}, func(s string) bool {
			r := newReport("f", nil)
			r.files("tls", fileKey{"caFile", s})
			return r.err() == nil
		}, true},
	} {
		s := forms[name].schema("string", false)
		pattern := regexp.MustCompile(s.Pattern)
		takes := func(text string) bool {
			refused := s.Not != nil && regexp.MustCompile(s.Not.Pattern).MatchString(text)
			return pattern.MatchString(text) && (s.MaxLength == 0 || len([]rune(text)) <= s.MaxLength) && !refused
		}
		random := rand.New(rand.NewPCG(1, 2))
		valid := 0
		for range 20000 {
			var b strings.Builder
			for range random.IntN(7) {
				b.WriteString(row.pieces[random.IntN(len(row.pieces))])
			}
			text := b.String()
			is := row.valid(text)
			if is {
				valid++
			}
			if is && !takes(text) || row.exact && !is && takes(text) {
				t.Errorf("%s: %q: valid: %t, by the schema: %t", name, text, is, takes(text))
			}
		}
		if valid < 50 {
			t.Errorf("%s: only %d texts were valid", name, valid)
		}
	}
	for name := range forms {
		if name != "replicas" && name != "limit" && forms[name].title == "" {
			t.Errorf("the form %s has no title", name)
		}
	}
}
