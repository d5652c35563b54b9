package nats

import (
	"strings"
	"testing"

	"github.com/crbridge/crbridge/pkg/events"
	"github.com/crbridge/crbridge/pkg/settings"
	"github.com/crbridge/crbridge/pkg/settings/settingstest"
)

// TestFormsAgreeWithTheValidator holds texts made of each form's characters
// against its pattern and against the validator.
func TestFormsAgreeWithTheValidator(t *testing.T) {
	valid := func(change func(*Settings, string)) func(string) bool {
		return func(text string) bool {
			var s Settings
			s.SetDefaults()
			s.URLs, s.JetStream = settings.OneOrMore{"nats://nats"}, &JetStream{}
			s.JetStream.SetDefaults()
			s.JetStream.Stream = "K8S"
			change(&s, text)
			return settingstest.Valid(func(r settings.Report) { s.Validate("nats", r) })
		}
	}
	rows := map[string]struct {
		pieces []string
		exact  bool // the pattern takes nothing else
		valid  func(string) bool
	}{
		"template": {[]string{"k8s", ".", "{name}", "{", "}", "*", ">", " ", "é", "~", "\x7f", "!"}, true, func(s string) bool { _, err := events.ParseSubject(s); return err == nil }},
		"subject":  {[]string{"k8s", ".", "*", ">", " ", "é", "\x7f", "\x00"}, true, valid(func(s *Settings, text string) { s.JetStream.Subjects = []string{text} })},
		"token": {[]string{"hub", ".", "*", ">", " ", "é", "\x7f", "$JS"}, true, func(s string) bool {
			return s != "" && valid(func(n *Settings, text string) { n.JetStream.Domain = text })(s)
		}},
		"prefix": {[]string{"hub", ".", "*", ">", " ", "é", "\x7f", "$JS"}, true, func(s string) bool {
			return s != "" && valid(func(n *Settings, text string) { n.InboxPrefix = text })(s)
		}},
		"stream": {[]string{"K8S", ".", "*", ">", " ", "/", `\`, "é", "\t", "-", "\x7f", strings.Repeat("s", 100)}, true, valid(func(s *Settings, text string) { s.JetStream.Stream = text })},
		"url":    {[]string{"nats", "TLS", "wss", "http", "://", ":", "@", "h", "/", "?", "#", ".", "4222"}, false, valid(func(s *Settings, text string) { s.URLs = settings.OneOrMore{text} })},
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
