package settings

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Report takes what is wrong with the values of keys.
type Report interface {
	// Value adds a problem of the value at p: of the innermost thing around it
	// if there is no value. It says nothing where the value was not understood,
	// as that has been told already. The message names the value, unless that
	// may be a secret, and what would be right.
	Value(p Path, format string, args ...any)
	// Written tells whether the user gave p a value.
	Written(p Path) bool
	// Unknown tells whether p, or something that it is in, was not understood.
	Unknown(p Path) bool
}

// Quote puts a value into a message: on one line, and not at any length.
func Quote(text string) string {
	const longest = 80
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "…"
	}
	return strconv.Quote(text)
}

// Worded is a type that has these values and no others.
type Worded interface {
	Words() []string
}

// Words are a type's values as text.
func Words[T ~string](values ...T) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = string(v)
	}
	return all
}

// OneOf reports a value that is none of its type's.
func OneOf[T interface {
	~string
	Worded
}](r Report, at Path, value T) bool {
	allowed := value.Words()
	if slices.Contains(allowed, string(value)) {
		return true
	}
	last := len(allowed) - 1
	choice := allowed[last]
	if last > 0 {
		choice = strings.Join(allowed[:last], ", ") + " or " + choice
	}
	r.Value(at, "%s: write %s", Quote(string(value)), choice)
	return false
}

// Defaulted is a type whose values are not all zero where a configuration says
// nothing.
type Defaulted interface {
	SetDefaults()
}

// OneOrMore is written as one string or as a list.
type OneOrMore []string

// File is a key whose value is the name of a file.
type File struct{ Key, Name string }

// Files reports names of files that can be none, and a file without the others
// that it goes with. It gives the keys that are set. It does not repeat a
// value: that of a key for a secret's file may be the secret.
func Files(r Report, at Path, files ...File) (given []string) {
	for _, f := range files {
		if f.Name == "" {
			continue
		}
		given = append(given, f.Key)
		if strings.ContainsAny(f.Name, "\n\r\x00") || strings.HasPrefix(f.Name, "-----BEGIN") {
			r.Value(at.Key(f.Key), "the content of a file; write the file's name")
		}
	}
	if len(given) == 0 || len(given) == len(files) {
		return given
	}
	for _, f := range files {
		if f.Name == "" {
			r.Value(at.Key(f.Key), "missing; it goes with %s", strings.Join(given, ", "))
		}
	}
	return given
}

// IsHost tells whether the text is a host's name or IP address.
func IsHost(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil || len(validation.IsDNS1123Subdomain(strings.ToLower(name))) == 0
}
