package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/crbridge/crbridge/pkg/settings"
)

// koanfTag is the struct tag with a key's name.
const koanfTag = "koanf"

var (
	listType     = reflect.TypeFor[settings.OneOrMore]()
	durationType = reflect.TypeFor[time.Duration]()
)

// field is a key of a mapping that a struct describes.
type field struct {
	name string
	typ  reflect.Type // of the value, without the pointer of what may be absent
}

func fieldsOf(t reflect.Type) []field {
	fields := make([]field, t.NumField())
	for i := range fields {
		f := t.Field(i)
		typ := f.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		fields[i] = field{name: f.Tag.Get(koanfTag), typ: typ}
	}
	return fields
}

// parseScalar reads a value of a type that is no mapping and no list, from the
// file or from the environment. The error says what would be right.
func parseScalar(t reflect.Type, text string) (any, error) {
	if t == durationType {
		return parseDuration(text)
	}
	switch t.Kind() {
	case reflect.Bool:
		switch strings.ToLower(text) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, fmt.Errorf("%s: not true or false", settings.Quote(text))
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return nil, fmt.Errorf("%s: not a whole number; write digits only", settings.Quote(text))
		}
		return n, nil
	default:
		return text, nil
	}
}

func parseDuration(text string) (any, error) {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return nil, fmt.Errorf("%s: a duration without a unit; write one, as in 2m", settings.Quote(text))
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%s: not a duration; write it as in 500ms, 90s, 2m or 168h (there is no unit for days)", settings.Quote(text))
	}
	return d, nil
}

// want says in words what a value of the type is.
func want(t reflect.Type) string {
	switch t {
	case durationType:
		return "a duration"
	case listType:
		return "a string or a list of strings"
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "a mapping"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	default:
		return "a string"
	}
}
